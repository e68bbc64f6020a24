"""Trains, evaluates and saves a tiny model in every process that a launcher started; `test_distributed.py` runs it."""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import save_file

from modeling_taidpt import TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments

from ..conftest import make_clip

LABELS = ["dog", "cat", "horse", "car"]


def shard_on_the_cpu() -> None:
    """Has Accelerate take up FSDP, as `examples/accelerate/fsdp.yaml` sets it, with gloo: it does for GPUs alone."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="no_wrap",
        reshard_after_forward=True,
        state_dict_type="FULL_STATE_DICT",
        cpu_ram_efficient_loading=False,
    )
    start = AcceleratorState.__init__

    def start_sharded(self, *args, **kwargs):
        start(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin

    AcceleratorState.__init__ = start_sharded


def main(output: str, batch_size: int) -> None:
    torch.manual_seed(3)
    pairs = list(itertools.pairwise(LABELS))
    captions = [f"A {first} and a {second} number {number}." for number in range(40) for first, second in pairs]
    model = TaiDptModel.from_clip(make_clip(), labels=LABELS, num_context_tokens=4)
    args = TaiDptTrainingArguments(
        output,
        use_cpu=True,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=4,
        max_steps=20,
        learning_rate=0.05,
        lr_scheduler_type="constant",
        validation_size=23,  # no multiple of the batch: samples that only fill up must not count
        feature_cache_dir=os.path.join(Path(output).parent, "features"),
        add_templates=False,
        prompt_chunk_size=3 if "chunks" in sys.argv else None,
        disable_tqdm=True,
        report_to="none",
    )
    trainer = TaiDptTrainer(model, args, train_dataset=captions)
    figures = trainer.train().metrics
    assert trainer.state.global_step == 20
    trainer.save_model(os.path.join(output, "model"))
    processes = trainer.args.world_size
    trainer.accelerator.end_training()
    if trainer.is_world_process_zero():
        state = TaiDptModel.from_pretrained(os.path.join(output, "model")).prompt_learner.state_dict()
        save_file(state, Path(output) / "contexts.safetensors")
        kept = {name: figures[name] for name in ("caption_map", "zero_shot_caption_map")}
        (Path(output) / "figures.json").write_text(
            json.dumps({**kept, "processes": processes, "model": type(trainer.model).__name__})
        )


if __name__ == "__main__":
    if "fsdp" in sys.argv:
        shard_on_the_cpu()
    main(sys.argv[1], int(sys.argv[2]))
