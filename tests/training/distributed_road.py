"""Runs the training script or `taidpt train` in every process of a launcher; `test_distributed.py` starts it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import torch

from taidpt_cli.app import app


def main(road: str, *options: str) -> None:
    if road == "command":
        app(["train", *options], standalone_mode=False)
    else:
        runpy.run_path(str(Path(__file__).parents[2] / "examples" / "train.py"))["main"](list(options))
    assert not torch.distributed.is_initialized()


if __name__ == "__main__":
    main(*sys.argv[1:])
