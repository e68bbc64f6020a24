"""Class embeddings of classes that a context was not learned on: each class is left out of the training once."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import torch

from modeling_taidpt import TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments

PARTS = 4


def learn(base: TaiDptModel, labels: list[str], table: datasets.Dataset, seed: int, steps: int, folder: Path):
    """A shared context learned on captions that mention some labels; saved in `folder`."""
    if (folder / "config.json").is_file():
        return TaiDptModel.from_pretrained(folder)
    recipe = dict(base.config.recommended_recipe["training"], max_steps=steps)
    model = TaiDptModel.from_clip(base.clip, labels, base.get_tokenizer(), recipe="paper", context_init="a photo of a")
    args = TaiDptTrainingArguments(
        str(folder),
        **recipe,
        seed=seed,
        label_column="labels",
        feature_dtype="float16",
        disable_tqdm=True,
        report_to="none",
    )
    names = set(labels)
    rows = table.map(lambda row: {"labels": [label for label in row["labels"] if label in names]})
    trainer = TaiDptTrainer(model, args, train_dataset=rows.filter(lambda row: len(row["labels"]) > 0))
    trainer.train()
    trainer.save_model()
    return model.eval()


def learned_without(base: TaiDptModel, table: datasets.Dataset, seed: int, steps: int, folder: Path) -> TaiDptModel:
    """All labels, each with the class embeddings of a context that was learned without it.

    Args:
        base: the model whose CLIP and labels are used.
        table: captions and the labels that they name.
        seed: of the deal into four parts and of the trainings.
        steps: of each training.
        folder: where the learned contexts are saved.
    """
    labels = base.config.labels
    order = np.random.default_rng(seed).permutation(len(labels))  # (classes,)
    both = torch.zeros(2, len(labels), base.config.embedding_dim)  # (2, classes, dim)
    for part in range(PARTS):
        held_out = order[part::PARTS]
        others = [label for index, label in enumerate(labels) if index not in set(held_out.tolist())]
        model = learn(base, others, table, seed, steps, folder / f"seed-{seed}-part-{part}")
        unseen = model.with_labels([labels[index] for index in held_out], tokenizer=base.get_tokenizer(), strict=True)
        both[:, held_out] = torch.stack(unseen.encode_classes())
    return base.with_class_embeddings(*both)
