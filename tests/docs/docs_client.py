"""Runs pages of the docs in an interpreter of its own: `python docs_client.py REPORT FOLDER PAGE ...`.

Each page has a folder and a namespace; its blocks run in their order. HF_ENDPOINT and HF_HOME must be set before
huggingface_hub is imported, so the tests run this file as a program. The report says for each block "ok" or its error,
and what it printed.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import sys
import time
import traceback
from contextlib import redirect_stdout
from glob import glob
from io import StringIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":  # its own folder would make `tests` look like top-level modules
    sys.path[0] = str(ROOT)

SECONDS = int(os.environ.get("DOCS_BLOCK_SECONDS", "300"))  # a whole page takes 1 to 4 on a quiet machine
IMAGES = ROOT / "examples" / "images"
PETS = ["dog", "cat", "bicycle"]
PLACES = ("in the street", "by the door", "here", "at home", "in the garden", "on the stairs")
VERBS = ("stands", "is", "lies", "was", "rests", "waits")
TIMES = ("", " at night", " in the morning")  # with the templates, enough captions for a batch of the paper's recipe
CAPTIONS = [f"A {name} {verb} {place}{when}." for name in PETS for verb in VERBS for place in PLACES for when in TIMES]
GIVEN = {  # what a page takes for granted: data of the reader's
    "calibrate.md": {"captions": CAPTIONS},
}


def fill_hub() -> Any:
    """A small random CLIP under the name of a real one, and a model of prompts on it."""
    from transformers import CLIPImageProcessor

    from modeling_taidpt import TaiDptModel, clip_tokenizer
    from tests.conftest import make_clip

    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    for part in (make_clip(), clip_tokenizer(), processor):
        part.push_to_hub("openai/clip-vit-base-patch16")
    model = TaiDptModel.from_clip("openai/clip-vit-base-patch16", labels=PETS, num_context_tokens=4)
    model.push_to_hub("org/taidpt-coco")
    return model


def fill_folder(folder: Path, model: Any) -> None:
    """What a reader has at hand: captions, labels, photographs with labels, a CLIP, a model."""
    (folder / "examples").symlink_to(ROOT / "examples")
    for name in ("captions.txt", "corpus.txt"):
        (folder / name).write_text("\n".join(CAPTIONS))
    (folder / "labels.txt").write_text("\n".join(PETS))
    (folder / "photos").mkdir()
    rows = []
    for file, labels in (("cat.jpg", ["cat"]), ("coffee.jpg", ["cup", "spoon"]), ("astronaut.jpg", ["person"])):
        (folder / "photos" / file).write_bytes((IMAGES / file).read_bytes())
        rows.append({"file_name": file, "labels": labels})
    (folder / "photos" / "labels.json").write_text(json.dumps(rows))
    for copy, file in (("1", "cat"), ("2", "coffee"), ("photo", "cat"), ("street", "astronaut")):
        (folder / f"{copy}.jpg").write_bytes((IMAGES / f"{file}.jpg").read_bytes())
    model.clip.save_pretrained(folder / "RN50")
    for name in ("pets", "other"):
        model.save_pretrained(folder / "runs" / name)


def run_command(words: list[str]) -> None:
    """Runs `taidpt ...` or `python examples/...` in this process."""
    words = [found for word in words for found in ((sorted(glob(word)) if "*" in word else None) or [word])]
    if words[0] == "taidpt":
        from typer.testing import CliRunner

        from taidpt_cli.app import app

        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, f"{' '.join(words)}\n{result.output}\n{result.exception!r}"
        print(result.stdout, end="")
    elif words[0] == "python" and words[1].startswith("examples/"):
        arguments, places = sys.argv, list(sys.path)
        sys.argv, sys.path[:] = words[1:], [str(ROOT / "examples"), *places]
        try:
            runpy.run_path(words[1], run_name="__main__")
        finally:
            sys.argv, sys.path[:] = arguments, places
    else:
        raise AssertionError(f"there is no way to run `{' '.join(words)}` here: say why before the block")


def few_steps() -> None:
    """Every training of a page ends after two steps: that it runs is what is tested here."""
    from modeling_taidpt import TaiDptTrainer

    train = TaiDptTrainer.train

    def train_shortly(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        trainer.args.max_steps = 2
        return train(trainer, *args, **kwargs)

    TaiDptTrainer.train = train_shortly


def run_page(page: Path, folder: Path) -> dict[int, tuple[str, str]]:
    """What became of each block of a page and what it printed, by the number of its first line."""
    from tests.docs.docs_blocks import read_blocks

    os.chdir(folder)
    namespace: dict[str, Any] = {"__name__": "__main__", **GIVEN.get(page.name, {})}
    report = {}
    for block in read_blocks(page):
        if block.reason is not None or block.language not in ("python", "bash"):
            continue
        signal.alarm(SECONDS)
        printed = StringIO()
        try:
            with redirect_stdout(printed):
                if block.language == "python":
                    exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), namespace)
                else:
                    for words in block.commands():
                        run_command(words)
            report[block.line] = "ok", printed.getvalue()
        except (Exception, SystemExit):
            report[block.line] = traceback.format_exc(), printed.getvalue()
        finally:
            signal.alarm(0)
    return report


def stop_block(*_: Any) -> None:
    raise TimeoutError(f"the block took longer than {SECONDS} seconds")


def main() -> None:
    target, place, *pages = map(Path, sys.argv[1:])
    model = fill_hub()
    few_steps()
    gc.collect()
    gc.freeze()  # see tests/conftest.py
    signal.signal(signal.SIGALRM, stop_block)
    reports = {}
    for page in pages:
        folder = place / page.stem
        folder.mkdir(parents=True)
        fill_folder(folder, model)
        start = time.process_time()
        reports[page.name] = run_page(page, folder)
        print(f"{page.name}: {time.process_time() - start:.1f} s of CPU")
    target.write_text(json.dumps(reports))


if __name__ == "__main__":
    main()
