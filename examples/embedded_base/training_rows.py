"""Rows of the tables of training: what each changes of the recipe, and the checkpoint that it learns."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import set_seed

from modeling_taidpt import (
    CaptionFeatures,
    ImageFeatures,
    TaiDptModel,
    default_labeler,
    make_captions,
)
from modeling_taidpt.captions.labels import label_captions
from modeling_taidpt.captions.statistics import cooccurrence
from modeling_taidpt.captions.synthetic import template_sentences

from .gap_model import GapModel, draw_memory, feature_means
from .study_trainer import StudyArguments, StudyTrainer

BASELINE = "recipe"
CORPORA = ("real", "templates", "made", "made, co-occurrence")


@dataclass(frozen=True)
class Row:
    """What a row changes of the recipe.

    Args:
        training (`dict`): fields of [`StudyArguments`].
        model (`dict`): options of [`TaiDptModel.from_clip`].
        corpus (`str`): what is learned from, one of `CORPORA`.
        images (`bool`): whether the trainer gets unlabelled images.
        prompts (`str`, *optional*): the row whose learned prompts are taken; nothing is learned then.
        memory (`dict`, *optional*): `size`, and `scale` and `weight`, of the caption memory that images are mapped to.
    """

    training: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    corpus: str = "real"
    images: bool = False
    prompts: str | None = None
    memory: Mapping[str, float] | None = None


def _training(**arguments: Any) -> Row:
    return Row(arguments)


RECIPE = {BASELINE: Row()}
OPTIONS = RECIPE | {
    "ranking loss alone (paper)": _training(caption_prototype_weight=0.0, loss_weight=1.0),
    "learned scales, positive and negative prompts": Row(
        {"caption_prototype_weight": 0.0, "loss_weight": 1.0, "loss_on": "merged"},
        {"prompt_pair": "positive_negative", "local_weight": 0.5},
    ),
    "prototypes alone": _training(loss_weight=0.0),
    "prototype weight 30": _training(caption_prototype_weight=30.0),
    "prototypes not centred": _training(caption_prototype_centering=[0.0, 0.0]),
    "prototypes centred by 0.5, 0.7": _training(caption_prototype_centering=[0.5, 0.7]),
    "noise 0.01": _training(feature_noise=0.01),
    "noise 0.03": _training(feature_noise=0.03),
    "noise 0.06": _training(feature_noise=0.06),
    "composition 0.5": _training(caption_composition=0.5),
    "centring, captions": _training(center_features=True),
    "centring, captions and images": Row({"center_features": True}, images=True),
    "caption memory": Row(prompts=BASELINE, memory={"size": 4096}),
    "16 context vectors": Row(model={"num_context_tokens": 16, "context_init": None}),
    "shared context": Row(model={"class_specific_context": False}),
}
CAPTIONS = {
    "template sentences": Row(corpus="templates"),
    "made captions": Row(corpus="made"),
    "made captions, real co-occurrence": Row(corpus="made, co-occurrence"),
    "real captions": Row(),
}
BALANCE = RECIPE | {
    "class weights, beta 0.99": _training(class_balance_beta=0.99),
    "class weights, beta 0.999": _training(class_balance_beta=0.999),
}
MEMORY = {"size": 4096, "scale": 20, "weight": 1.0}
TOGETHER = RECIPE | {
    **{
        f"caption memory, sharpness {scale}, share {weight}": Row(
            prompts=BASELINE, memory={"size": 4096, "scale": scale, "weight": weight}
        )
        for scale in (10, 20, 40)
        for weight in (0.5, 1.0)
    },
    "800 steps": _training(max_steps=800),
    "800 steps, caption memory": Row(prompts="800 steps", memory=MEMORY),
    "class weights, beta 0.999, 400 steps": _training(class_balance_beta=0.999),
}
LATER_BASES = RECIPE | {  # caption prototypes alone are ahead of the recipe there
    "prototypes alone": _training(loss_weight=0.0),
    "prototypes alone, not centred": _training(loss_weight=0.0, caption_prototype_centering=[0.0, 0.0]),
    "prototype weight 30": _training(caption_prototype_weight=30.0),
    "prototypes alone, 800 steps, rate 3e-3": _training(loss_weight=0.0, max_steps=800, learning_rate=3e-3),
    "800 steps, rate 3e-3": _training(max_steps=800, learning_rate=3e-3),
    "not centred": _training(caption_prototype_centering=[0.0, 0.0]),
    "not centred, ranking weight 0.03": _training(loss_weight=0.03, caption_prototype_centering=[0.0, 0.0]),
    "not centred, 800 steps": _training(caption_prototype_centering=[0.0, 0.0], max_steps=800),
    "prototypes alone, not centred, 800 steps": _training(
        loss_weight=0.0, caption_prototype_centering=[0.0, 0.0], max_steps=800
    ),
}
TABLES = {
    "options": OPTIONS,
    "together": TOGETHER,
    "later bases": LATER_BASES,
    "captions": CAPTIONS,
    "balance": BALANCE,
}


class Corpora:
    """Captions to learn from, with the labels of a model.

    Args:
        labels (`Sequence[str]`): the labels, also what the prompts say.
        captions (`Sequence[str]`): the real captions.
    """

    def __init__(self, labels: Sequence[str], captions: Sequence[str]) -> None:
        """Label the real captions."""
        self.labels = list(labels)
        self.real, self.named = self._labelled(captions)

    def encode(self, base: TaiDptModel) -> CaptionFeatures:
        """Features of the real captions that name a label."""
        return CaptionFeatures.encode(base, list(self.real["caption"]), self.named, dtype="float16", progress=False)

    def _labelled(self, captions: Sequence[str]) -> tuple[datasets.Dataset, np.ndarray]:
        labeler = default_labeler(self.labels, self.labels)
        labels = label_captions(labeler, list(captions), self.labels)  # (captions, classes)
        rows = np.flatnonzero(labels.any(axis=1))
        table = {"caption": [captions[row] for row in rows], "labels": list(labels[rows])}
        return datasets.Dataset.from_dict(table), labels[rows]

    def __getitem__(self, corpus: str) -> datasets.Dataset:
        """The corpus of a name in `CORPORA`."""
        if corpus == "templates":
            sentences, one_hot = template_sentences(self.labels)  # (sentences, classes)
            return datasets.Dataset.from_dict({"caption": sentences, "labels": list(one_hot)})
        if corpus == "real":
            return self.real
        chances = cooccurrence(self.named) if corpus == "made, co-occurrence" else None  # (classes, classes)
        return self._labelled(make_captions(self.labels, cooccurrence=chances)["caption"])[0]


def load_row(folder: Path, row: Row, captions: CaptionFeatures, images: ImageFeatures | None, seed: int) -> GapModel:
    """Loads a row's prompts with what it does at the time of scoring.

    Args:
        folder (`Path`): of [`learn`].
        row (`Row`): the row.
        captions ([`CaptionFeatures`]): the captions that it learned from, for memory and means.
        images ([`ImageFeatures`], *optional*): unlabelled images, for the means of rows that take them.
        seed (`int`): draws the memory.

    Returns:
        [`GapModel`].
    """
    model = GapModel.from_pretrained(folder)
    if row.memory:
        model.caption_memory = draw_memory(captions, int(row.memory["size"]), seed)  # (captions, dim)
        model.memory_scale, model.memory_weight = row.memory.get("scale", 40.0), row.memory.get("weight", 1.0)
    if row.training.get("center_features"):
        model.feature_means = feature_means(captions, images if row.images else None)
    return model


def learn(
    clip: str,
    recipe: Mapping[str, Any],
    row: Row,
    seed: int,
    folder: Path,
    corpora: Corpora,
    held_out: CaptionFeatures,
    images: ImageFeatures | None = None,
    steps: int | None = None,
) -> Path:
    """Learns a row's prompts and keeps them in a folder; what is there already is not learned again.

    Args:
        clip (`str`): the base, in a folder or on the Hub.
        recipe (`Mapping`): `{"model": {...}, "training": {...}}`.
        row (`Row`): what is changed of it.
        seed (`int`): of the training.
        folder (`Path`): for a checkpoint of the prompts alone, with `all_results.json`.
        corpora (`Corpora`): the captions.
        held_out ([`CaptionFeatures`]): captions that are measured at the end.
        images ([`ImageFeatures`], *optional*): unlabelled images, for rows that take them.
        steps (`int`, *optional*): instead of the recipe's.

    Returns:
        `Path`: the folder.

    Raises:
        ValueError: the folder holds another recipe's prompts.
    """
    changes = {"training": dict(row.training), "model": dict(row.model), "corpus": row.corpus, "images": row.images}
    captions = corpora[row.corpus]
    asked = {"recipe": recipe, "row": changes, "seed": seed, "steps": steps, "captions": len(captions)}
    asked = json.loads(json.dumps(asked))
    kept = folder / "row.json"
    if kept.is_file():
        if json.loads(kept.read_text(encoding="utf-8")) != asked:
            raise ValueError(f"{folder} holds prompts of another recipe or corpus: give another --output.")
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # of a training that was stopped
    set_seed(seed)  # context vectors may start at random
    model = GapModel.from_clip(clip, corpora.labels, recipe="paper", **{**recipe["model"], **row.model})
    quiet = {"report_to": "none", "disable_tqdm": True, "logging_strategy": "no", "save_strategy": "no"}
    own = {"label_column": "labels", "feature_dtype": "float16", "save_prompts_only": True, "seed": seed}
    own |= {"max_steps": steps} if steps else {}
    own |= {"add_templates": False} if row.corpus == "templates" else {}
    args = StudyArguments.from_recipe(recipe, output_dir=str(folder), **{**quiet, **own, **row.training})
    trainer = StudyTrainer(
        model,
        args,
        train_dataset=captions,
        eval_dataset=held_out,
        unlabeled_images=images if row.images else None,
    )
    trainer.train()
    trainer.save_model()
    kept.write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")  # last: the folder is whole
    return folder


__all__ = ["BASELINE", "CORPORA", "TABLES", "Corpora", "Row", "learn", "load_row"]
