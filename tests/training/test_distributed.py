"""Several processes learn what one does: torchrun on the CPU (gloo)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling_taidpt import TaiDptModel

from ..conftest import make_clip

ROOT = Path(__file__).parents[2]
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def start(command: list[str]) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def run(launcher: list[str], output: Path, batch_size: int, *options: str) -> dict:
    start([*launcher, "-m", "tests.training.distributed_run", str(output), str(batch_size), *options])
    return {
        **json.loads((output / "figures.json").read_text()),
        "contexts": load_file(output / "contexts.safetensors"),
    }


@pytest.mark.slow
def test_two_processes_learn_what_one_does_with_twice_the_batch(tmp_path):
    one = run([sys.executable], tmp_path / "one", 16)
    two = run(LAUNCHER, tmp_path / "two", 8, "chunks")
    sharded = run(LAUNCHER, tmp_path / "sharded", 8, "fsdp", "chunks")
    assert (one["processes"], two["processes"], sharded["processes"]) == (1, 2, 2)
    assert (two["model"], sharded["model"]) == ("TaiDptModel", "FSDPTaiDptModel")
    for several in (two, sharded):
        for name, expected in one["contexts"].items():
            torch.testing.assert_close(several["contexts"][name], expected, atol=1e-5, rtol=1e-5)
        # 23 held-out captions in batches of 4: the last ones are padded, and must count once
        for name in ("caption_map", "zero_shot_caption_map"):
            assert several[name] == pytest.approx(one[name], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("road", ["script", "command"])
def test_two_processes_train_one_model_where_there_is_no_gpu(road, tmp_path):
    """Nobody has to say `--use_cpu`: each process would train a model of its own into the same folder."""
    make_clip().save_pretrained(tmp_path / "base")
    captions = [f"A {name} in place {number}." for number in range(22) for name in ("dog", "cat", "bus")]
    (tmp_path / "captions.txt").write_text("\n".join(captions))  # 66, of which 3 are held out
    names = {
        "script": [
            "--clip",
            "--output_dir",
            "--max_steps=6",
            "--per_device_train_batch_size=10",
            "--add_templates=no",
        ],
        "command": ["--base", "--output", "--steps=6", "--batch-size=10", "--no-templates"],
    }
    base, output, *others = names[road]
    options = [base, str(tmp_path / "base"), output, str(tmp_path / "model"), *others, "--labels", "dog,cat,bus"]
    options += ["--captions", str(tmp_path / "captions.txt")]
    result = start([*LAUNCHER, "-m", "tests.training.distributed_road", road, *options])
    assert result.stdout.count(f"The model is in {tmp_path / 'model'}.") == 1
    assert result.stderr.count("Recipe: ") == 1
    assert result.stdout.count("Waited 1 times.") == 2  # in each process
    state = json.loads((tmp_path / "model" / "trainer_state.json").read_text())
    assert state["epoch"] == 2  # three steps of 2 x 10 captions in each
    assert TaiDptModel.from_pretrained(tmp_path / "model").config.labels == ["dog", "cat", "bus"]


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp", "FSDP"), ("deepspeed_zero2", "DEEPSPEED")])
def test_configurations_of_accelerate_load(name, kind):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(ROOT / "examples" / "accelerate" / f"{name}.yaml"))
    assert getattr(config.distributed_type, "value", config.distributed_type) == kind
    assert config.num_processes == 8
