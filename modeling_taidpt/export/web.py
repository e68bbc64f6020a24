"""A static page that tags photographs in the browser, where nothing leaves the machine.

The graph of [`export_onnx`] runs in transformers.js. Offline pages hold the library and its ONNX Runtime, which npm
fetches when the page is built, in the versions that the page was tested with.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from ..atomic import scratch_folder, staged_folder
from ..modeling_taidpt import TaiDptModel
from .programs import LABELS_FILE, LARGEST_ONNX, export_onnx

TEMPLATES = Path(__file__).parents[1] / "assets" / "web"
LIBRARY, LIBRARY_FILE = "@huggingface/transformers@4.3.2", "transformers.min.js"
RUNTIME = "onnxruntime-web@1.31.0-dev.20260914-8d85527a0"  # what this version of the library depends on
RUNTIME_FILES = {"mjs": "ort-wasm-simd-threaded.mjs", "wasm": "ort-wasm-simd-threaded.wasm"}
CDN = "https://cdn.jsdelivr.net"
RESAMPLES = (2, 3)  # Pillow's bilinear and bicubic, as the page has them
NPM_SECONDS = 600


def export_web(
    model: TaiDptModel,
    output: str | Path,
    *,
    cdn: bool = False,
    title: str = "Tag photographs",
    image_processor: Any = None,
) -> Path:
    """Writes a folder that is a page: `python -m http.server --directory OUTPUT` serves it, as any static host does.

    It holds `index.html`, `tagger.js`, `config.json`, `preprocessor_config.json`, `labels.json` with the thresholds of
    the checkpoint, and `onnx/model.onnx` with heatmaps as the pipeline draws them, at the size of the scores; in
    `lib/` transformers.js with its runtime.

    Args:
        model ([`TaiDptModel`]): the model.
        output (`str` or `Path`): folder; files of an earlier export there are replaced, other files stay.
        cdn (`bool`, *optional*, defaults to `False`): the page loads the library from jsDelivr instead of holding it:
            20 MB less, but a network is needed to open it.
        title (`str`, *optional*, defaults to `"Tag photographs"`): heading of the page.
        image_processor (`BaseImageProcessor`, *optional*): the one beside the checkpoint by default, else CLIP's.

    Returns:
        `Path`: the page, `index.html`.

    Raises:
        ImportError: the extra `taidpt[onnx]` or npm is not installed.
        OSError: npm could not fetch the library.
        ValueError: `output` is a file, or the model is too large or its images are resized as no page can.
    """
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"`output` {str(output)!r} is a file: give a folder.")
    config: Any = model.config
    if sum(weights.numel() * 4 for weights in model.parameters()) > LARGEST_ONNX:
        raise ValueError("The model is too large for a browser: its graph would not fit into one file of 2 GB.")
    library = {f"lib/{name}" for name in (LIBRARY_FILE, *RUNTIME_FILES.values())}  # of an earlier page
    with staged_folder(output, lambda written: library) as folder:
        export_onnx(model, folder / "onnx", heatmaps="shares", image_processor=image_processor)
        for name in ("preprocessor_config.json", LABELS_FILE):
            shutil.move(folder / "onnx" / name, folder / name)
        _check_processor(folder / "preprocessor_config.json")
        settings = {
            "model_type": config.model_type,
            "architectures": ["TaiDptModel"],
            "problem_type": "multi_label_classification",
            "id2label": {str(index): label for index, label in enumerate(config.labels)},
            "label2id": {label: index for index, label in enumerate(config.labels)},
        }
        (folder / "config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")
        meta: dict[str, Any] = {"library": f"{CDN}/npm/{LIBRARY}/dist/{LIBRARY_FILE}", "wasm": None}
        if not cdn:
            _fetch_library(folder / "lib")
            files = {kind: f"lib/{name}" for kind, name in RUNTIME_FILES.items()}
            meta = {"library": f"lib/{LIBRARY_FILE}", "wasm": files}
        page = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True).get_template("index.html")
        text = page.render(meta=meta, title=title, hosts=CDN if cdn else "")
        (folder / "index.html").write_text(text, encoding="utf-8")
        shutil.copyfile(TEMPLATES / "tagger.js", folder / "tagger.js")
    return output / "index.html"


def _check_processor(path: Path) -> None:
    """Refuses what the page cannot do to pixels."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    size = settings.get("size") or {}
    sized = "shortest_edge" in size or {"height", "width"} <= set(size)
    if settings.get("do_resize", True) and (settings.get("resample") not in RESAMPLES or not sized):
        raise ValueError(
            "The page resizes images bicubically or bilinearly, to a shortest edge or a height and width; the image "
            f"processor says resample {settings.get('resample')} and size {size}."
        )


def _fetch_library(folder: Path) -> None:
    """Puts the library, its license and its runtime into a folder."""
    folder.mkdir()
    _fetch(
        LIBRARY, {f"package/dist/{LIBRARY_FILE}": LIBRARY_FILE, "package/LICENSE": "LICENSE.transformers.js"}, folder
    )
    _fetch(RUNTIME, {f"package/dist/{name}": name for name in RUNTIME_FILES.values()}, folder)


def _fetch(package: str, wanted: dict[str, str], folder: Path) -> None:
    """Takes files out of an npm package, by their names in it; npm checks what it fetched."""
    npm = shutil.which("npm")
    if npm is None:
        raise ImportError(
            "A page for offline use holds transformers.js, which npm fetches, and npm is not installed: install "
            "Node.js, or let the page load the library from a CDN (`--cdn`)."
        )
    with scratch_folder() as scratch:
        command = [npm, "pack", package, "--ignore-scripts", "--silent", "--pack-destination", str(scratch)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=NPM_SECONDS, cwd=scratch)
        archives = list(scratch.glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            reason = " ".join(done.stderr.split())[-300:] or f"exit code {done.returncode}"
            raise OSError(f"npm could not fetch {package} ({reason}): try again, or use a CDN (`--cdn`).")
        with tarfile.open(archives[0]) as archive:
            for member, name in wanted.items():
                content = archive.extractfile(member)
                if content is None:
                    raise OSError(f"The npm package {package} holds no file {member!r}.")
                (folder / name).write_bytes(content.read())


__all__ = ["export_web"]
