"""What ships: the import is clean, and wheel and sdist hold what they need."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import modeling_taidpt

ROOT = Path(__file__).parent.parent
OPTIONAL = ("gradio", "ray", "matplotlib", "onnx", "onnxruntime", "nltk", "sklearn", "webdataset", "tensorboard")
MISSION = """
import modeling_taidpt
from transformers import pipeline
tagger = pipeline("multi-label-image-classification")
print(tagger({image!r}, top_k=3)[0]["label"], modeling_taidpt.__file__)
"""


def test_the_import_is_silent_and_takes_no_optional_part():
    later = ("datasets", "transformers.trainer", *(f"modeling_taidpt.{folder}" for folder in modeling_taidpt.LATER))
    unwanted = (*OPTIONAL, *later)  # to load a model and to tag
    code = f"import sys, modeling_taidpt; print([name for name in {unwanted!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
    assert done.stderr == ""


def test_what_is_read_later_can_be_had_by_name():
    found = set(dir(modeling_taidpt))
    for folder in modeling_taidpt.LATER:
        module = getattr(modeling_taidpt, folder)
        assert folder in found
        for name in module.__all__:
            assert getattr(modeling_taidpt, name) is getattr(module, name)
    assert set(modeling_taidpt.__all__) <= found
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        modeling_taidpt.nothing  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from modeling_taidpt import nothing  # noqa: F401


def test_workflows_parse():
    names = {path.stem for path in (ROOT / ".github" / "workflows").glob("*.yml")}
    assert names == {"tests", "docs", "release"}
    for name in names:
        workflow = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())
        assert all(job["steps"] for job in workflow["jobs"].values())


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    # From a copy without what a build leaves in the sources.
    source = tmp_path_factory.mktemp("source") / "taidpt"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("needs the sources under git, to know what belongs to them")
    for name in filter(None, tracked.stdout.split("\0")):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    return folder


@pytest.mark.slow
def test_wheel_and_sdist_hold_what_they_need(dist):
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    inside = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "py.typed",
        "assets/taidpt-coco80/model.safetensors",
        "assets/taidpt-coco80/README.md",
        "pipelines/multi_label_image_classification.py",
        "hub_cards/handler.py",
        "evaluate_modules/multilabel_map/multilabel_map.py",
    ):
        assert f"modeling_taidpt/{name}" in inside
    tops = {name.split("/")[0] for name in inside}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"modeling_taidpt", "taidpt_cli"}
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("tests/conftest.py", "tests/hub/hub_server.py", "examples/images/cat.jpg", "examples/quickstart.py"):
        assert name in sources
    for name in ("benchmarks/train_step.py", "hub_cards/taidpt-coco80.md", "CHANGELOG.md", "LICENSE", "NOTICE"):
        assert name in sources


@pytest.mark.slow
def test_a_fresh_environment_tags_a_photograph_offline(dist, tmp_path):
    (wheel,) = dist.glob("*.whl")
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    # The dependencies come from this environment; the package itself must come from the wheel.
    (site,) = (tmp_path / "fresh" / "lib").glob("python*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(here) + "\n")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    code = MISSION.format(image=str(ROOT / "examples" / "images" / "cat.jpg"))
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    label, place = done.stdout.split()
    assert label == "cat" and place.startswith(str(site))
    command = tmp_path / "fresh" / "bin" / "taidpt"
    helped = subprocess.run([command, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert helped.returncode == 0 and "predict" in helped.stdout
