"""Runs the training script or `taidpt train` in every process of a launcher; `test_distributed.py` starts it."""

from __future__ import annotations

import atexit
import runpy
import sys
from pathlib import Path
from unittest.mock import patch

import torch

from taidpt_cli.app import app


def main(road: str, *options: str) -> None:
    if road == "command":
        app(["train", *options], standalone_mode=False)
    else:
        runpy.run_path(str(Path(__file__).parents[2] / "examples" / "train.py"))["main"](list(options))
    assert not torch.distributed.is_initialized()


def says_whether_it_waits(*command: str) -> None:
    """Tells on standard output whether the threads of gloo were waited for when Python ends."""
    with patch("modeling_taidpt.training.arguments._wait_for_threads") as wait:  # what is registered last runs first
        atexit.register(lambda: print(f"Waited {wait.call_count} times."))
        main(*command)


if __name__ == "__main__":
    says_whether_it_waits(*sys.argv[1:])
