"""`taidpt predict` without torch: the answers of the pipeline, and the pipeline wherever it has to be asked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, pipeline

from modeling_taidpt import DEFAULT_CHECKPOINT
from modeling_taidpt.onnx_graphs import GRAPH_FILE
from taidpt_cli import quick
from taidpt_cli.quick import open_quick_tagger

from .test_app import CAT, IMAGES, fails, run

UNSET = dict.fromkeys(("image_size", "center_crop", "flip", "multi_crop", "second_look", "top_k", "threshold"))
HEAVY = ("torch", "transformers", "datasets", "modeling_taidpt")
CODE = f"""
import sys
from taidpt_cli.app import main
sys.argv[0] = "taidpt"
try:
    main()
finally:
    print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""


def run_alone(*arguments: str) -> subprocess.CompletedProcess:
    """The command in an interpreter of its own, which says what it imported."""
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def tagger():
    return pipeline("multi-label-image-classification", model=DEFAULT_CHECKPOINT)


@pytest.fixture
def folder(tmp_path):
    """A copy of the checkpoint that ships, to be changed."""
    return shutil.copytree(DEFAULT_CHECKPOINT, tmp_path / "model")


def test_it_answers_without_torch_and_as_the_pipeline(tagger):
    images = sorted(str(path) for path in IMAGES.glob("*.jpg"))
    done = run_alone("predict", *images, "--top-k", "0", "--json")
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    for row in json.loads(done.stdout):
        expected = {result["label"]: result["score"] for result in tagger(row["image"], threshold=0)}
        assert {result["label"]: result["score"] for result in row["labels"]} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("options", [{"top_k": 3}, {"threshold": "auto"}, {"threshold": 0.12, "top_k": 4}])
def test_thresholds_and_numbers_of_labels(tagger, options):
    ours = open_quick_tagger(DEFAULT_CHECKPOINT, UNSET)(CAT, **options)
    theirs = tagger(CAT, **options)
    assert [result["label"] for result in ours] == [result["label"] for result in theirs]
    assert [result["score"] for result in ours] == pytest.approx([result["score"] for result in theirs], abs=1e-5)


def test_what_cannot_be_read_is_said_alike_without_torch(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(Path(CAT).read_bytes()[:900])
    (tmp_path / "page.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0")
    names = [str(tmp_path / name) for name in ("broken.jpg", "page.jpg", "absent.jpg")]
    alone = run_alone("predict", *names, CAT, "--json")
    other = run("predict", *names, CAT, "--json", "--backend", "torch")
    assert (alone.returncode, other.exit_code) == (2, 2) and alone.stderr.strip().endswith("[]")
    errors = [[row.get("error") for row in json.loads(text)] for text in (alone.stdout, other.stdout)]
    assert errors[0] == errors[1] and errors[0].count(None) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--threshold", "2"], "threshold` is 2"), (["--backend", "tpu"], "backend` is 'tpu': choose one of")],
)
def test_bad_options_are_refused_alike(options, message):
    assert message in fails("predict", CAT, *options)


@pytest.mark.parametrize(
    "asked",
    [{"flip": True}, {"center_crop": False}, {"image_size": 256}, {"multi_crop": "max"}, {"second_look": True}],
    ids=str,
)
def test_other_views_are_left_to_the_pipeline(asked):
    assert open_quick_tagger(DEFAULT_CHECKPOINT, UNSET | asked) is None


def test_who_asks_for_torch_or_a_device_gets_the_pipeline(monkeypatch):
    assert open_quick_tagger(DEFAULT_CHECKPOINT, UNSET, backend="torch") is None
    assert open_quick_tagger(DEFAULT_CHECKPOINT, UNSET, device="cuda") is None
    assert open_quick_tagger("org/model-on-the-hub", UNSET) is None
    monkeypatch.setattr("modeling_taidpt.onnx_graphs.find_spec", lambda name: None)
    assert open_quick_tagger(DEFAULT_CHECKPOINT, UNSET) is None
    with pytest.raises(ImportError, match=r'needs onnxruntime: pip install "taidpt\[onnx\]"'):
        open_quick_tagger(DEFAULT_CHECKPOINT, UNSET, backend="onnx")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("config.json", {"flip": True}),
        ("config.json", {"multi_crop": "max"}),
        ("config.json", {"model_type": "clip"}),
        ("config.json", {"id2label": {"0": "a"}}),
        ("config.json", {"id2label": 3}),
        ("config.json", {"id2label": {str(number): number for number in range(80)}}),
        ("config.json", {"id2label": {str(number): "a" for number in range(1, 81)}}),
        ("config.json", {"score_scale": [1.0]}),
        ("config.json", {"score_bias": "x"}),
        ("config.json", {"score_thresholds": [None] * 80}),
        ("preprocessor_config.json", {"do_normalize": False}),
        ("preprocessor_config.json", {"image_std": [0, 1, 1]}),
        ("preprocessor_config.json", {"size": {"shortest_edge": 10**6}}),
        ("preprocessor_config.json", {"image_processor_type": "ViTImageProcessor"}),
    ],
)
def test_other_checkpoints_are_left_to_the_pipeline(folder, name, changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert open_quick_tagger(str(folder), UNSET) is None


def test_a_graph_of_other_weights_is_said_and_not_taken(folder, capsys):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"local_weight": 0.0}))
    assert open_quick_tagger(str(folder), UNSET) is None
    assert "was not made from the weights and the configuration beside it" in " ".join(capsys.readouterr().err.split())


def test_renamed_labels_are_given_and_not_what_the_prompts_say(folder):
    path = folder / "config.json"
    stored = json.loads(path.read_text())
    renamed = {number: f"{label} (fr)" for number, label in stored["id2label"].items()}
    path.write_text(json.dumps(stored | {"id2label": renamed, "label2id": {}, "label_origin": None}))
    tagger = open_quick_tagger(str(folder), UNSET)
    found = [result["label"] for result in tagger(CAT, top_k=3)]
    expected = open_quick_tagger(DEFAULT_CHECKPOINT, UNSET)(CAT, top_k=3)
    assert found == [f"{result['label']} (fr)" for result in expected]
    assert set(found) <= set(AutoConfig.from_pretrained(folder).labels)


def test_calibration_is_taken_from_the_configuration(folder):
    path = folder / "config.json"
    fitted = {"score_scale": 0.0, "score_bias": 0.0, "score_thresholds": 0.5}  # every score reaches its threshold
    path.write_text(json.dumps(json.loads(path.read_text()) | fitted))
    results = open_quick_tagger(str(folder), UNSET)(CAT)
    assert [result["score"] for result in results] == [0.5] * 80


def test_a_folder_named_as_the_default_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taidpt-coco80").mkdir()
    assert open_quick_tagger("taidpt-coco80", UNSET) is None  # it holds no checkpoint


def test_nothing_of_the_stand_ins_is_left():
    code = "import sys; from taidpt_cli.quick import light_modules; light_modules()\n"
    code += "assert not [name for name in sys.modules if name.startswith('modeling_taidpt')]\n"
    code += "import modeling_taidpt; print(modeling_taidpt.TaiDptModel.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "TaiDptModel", done.stderr


def test_the_modules_of_the_quick_road_import_neither_torch_nor_transformers():
    code = "import sys; from taidpt_cli.quick import light_modules; light_modules()\n"
    code += "print([name for name in ('torch', 'transformers', 'httpx', 'onnx') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_checkpoint_that_ships_has_its_graph():
    assert (Path(DEFAULT_CHECKPOINT) / GRAPH_FILE).stat().st_size < 2_000_000
    assert isinstance(open_quick_tagger(quick.DEFAULT_MODEL, UNSET), quick.QuickTagger)
