"""Options of learning from captions, each alone: mAP on the selection photographs and on held-out captions.

    python examples/study_training.py --photographs coco_train voc2012 --captions train.jsonl \
        --held_out held_out.jsonl --output study.json [--rows base noise_0.02] [--steps 150] [--seeds 0 1 2]

Rows that `--output` holds are not computed again, so a study that was stopped goes on. The photographs are those of
fold 0 (CRC32 of the file name mod 5), which the base that ships was not trained on. Each row is a change of the recipe
in `examples/recipes/study_base.json`; the columns are the scoring options, which need no training: sharpness 40 (the
paper's), sharpness 8, and image features mapped to 4,096 caption features too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import torch
from evaluate import encode_photographs, read_photographs
from transformers import AutoImageProcessor, HfArgumentParser

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    CaptionFeatures,
    CaptionLabeler,
    TaiDptModel,
    TaiDptTrainer,
    TaiDptTrainingArguments,
    load_templates,
    make_captions,
    mean_average_precision,
    read_captions,
)
from modeling_taidpt.class_balance import cooccurrence, frequency_groups
from modeling_taidpt.image_features import ImageFeatures
from modeling_taidpt.prototypes import caption_memory

LABELS = Path(__file__).parent / "data" / "coco80.txt"
RECIPE = Path(__file__).parent / "recipes" / "study_base.json"
MEMORY = 4096
# name: (image_spatial_scale, whether image features are mapped to captions)
SCORINGS = {"paper": (40.0, False), "blunt": (8.0, False), "memory": (8.0, True)}
# Each row: changed training arguments, and changed model options under "model", and "captions" for another corpus.
ROWS: dict[str, dict] = {
    "base": {},
    "ranking_alone": {"caption_prototype_weight": 0.0, "loss_weight": 1.0},
    "prototypes_alone": {"loss_weight": 0.0},
    "prototype_weight_3": {"caption_prototype_weight": 3.0},
    "prototype_weight_30": {"caption_prototype_weight": 30.0},
    "prototype_centering_0": {"caption_prototype_centering": [0.0, 0.0]},
    "prototype_captions_350": {"prototype_max_captions": 350},
    "prototype_label_power_1": {"prototype_label_power": 1.0},
    "prototypes_4_per_class": {"prototypes_per_class": 4},
    "noise_0.02": {"feature_noise": 0.02},
    "noise_0.05": {"feature_noise": 0.05},
    "composition_0.5": {"caption_composition": 0.5},
    "centering_captions": {"center_features": True},
    "centering_both": {"center_features": True, "unlabeled": True},
    "smoothing_0.5": {"cooccurrence_smoothing": 0.5},
    "16_context_vectors": {"model": {"num_context_tokens": 16, "context_init": None}},
    "shared_context": {"model": {"class_specific_context": False}},
    "balance_0.99": {"class_balance_beta": 0.99},
    "rarest_class_300": {"max_captions_per_class": 300},
    "noise_filter_0.1": {"noise_filter": 0.1},
    "more_captions": {"captions": "more"},
    "templates_only": {"captions": "templates"},
    "made_captions": {"captions": "made"},
    "made_captions_cooccurrence": {"captions": "made_cooccurrence"},
}


@dataclass
class Arguments:
    """What to study, and on what."""

    photographs: list[str] = field(metadata={"help": "Folders with labels.json and images/."})
    captions: str = field(metadata={"help": "Captions to learn from."})
    held_out: str = field(metadata={"help": "Captions of other images."})
    output: str = field(metadata={"help": "JSON file of the rows; what it holds is not computed again."})
    more_captions: list[str] = field(default_factory=list, metadata={"help": "Further corpora, for one row."})
    unlabeled: int = field(default=300, metadata={"help": "Photographs of other folds whose means are taken."})
    clip: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "The base."})
    rows: list[str] = field(default_factory=lambda: list(ROWS), metadata={"help": "Rows to compute."})
    steps: int = field(default=150, metadata={"help": "Steps of each training."})
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds of each row."})
    cache: str = field(default="outputs/study", metadata={"help": "Folder for features and runs."})


class Study:
    """Reads captions and photographs once, then trains and scores rows."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments, self.cache = arguments, Path(arguments.cache)
        self.labels = LABELS.read_text(encoding="utf-8").split("\n")[:80]
        self.recipe = json.loads(RECIPE.read_text(encoding="utf-8"))
        self.labeler = CaptionLabeler.from_preset("coco80")
        self.base = TaiDptModel.from_clip(arguments.clip, self.labels, **self.recipe["model"])
        self.train = self._labelled(read_captions(arguments.captions).captions)
        held_out = self._labelled(read_captions(arguments.held_out).captions)
        self.held_out = self._encode(held_out)
        self.train_features = self._encode(self.train)
        self.counts = np.asarray(self.train["labels"]).sum(axis=0)  # (classes,)
        self.photographs = [self._photographs(Path(folder)) for folder in arguments.photographs]
        self.memory = caption_memory(self.train_features, MEMORY)  # (captions, dim)

    def _labelled(self, captions: Sequence[str]) -> datasets.Dataset:
        labels = self.labeler(list(captions))  # (captions, classes)
        named = np.flatnonzero(labels.any(axis=1))
        rows = {"caption": [captions[row] for row in named], "labels": list(labels[named])}
        return datasets.Dataset.from_dict(rows)

    def _encode(self, rows: datasets.Dataset) -> CaptionFeatures:
        labels = np.asarray(rows["labels"])  # (captions, classes)
        options = {"cache_dir": self.cache / "captions", "dtype": "float16", "progress": False}
        return CaptionFeatures.encode(self.base, list(rows["caption"]), labels, **options)

    def _photographs(self, folder: Path) -> dict:
        """Features and labels of a folder's selection photographs, and the columns of its labels; kept in a file."""
        file = self.cache / f"{folder.name}.pt"
        if not file.is_file():
            rows, categories = read_photographs(folder, 0)
            labels = np.zeros((len(rows), len(categories)), dtype=np.int64)  # (images, classes)
            for row, present in enumerate(rows["labels"]):
                labels[row, present] = 1
            processor = AutoImageProcessor.from_pretrained(self.arguments.clip)
            pooled, dense = encode_photographs(self.base, processor, rows["file"])
            columns = [int(column) for column in self.labeler(categories).argmax(axis=1)]
            file.parent.mkdir(parents=True, exist_ok=True)
            kept = {"pooled": pooled, "dense": dense, "labels": torch.from_numpy(labels), "columns": columns}
            torch.save(kept, file)
        return {"folder": folder.name, **torch.load(file, weights_only=True)}

    def _unlabeled_images(self) -> ImageFeatures:
        """Photographs of the other folds, without their labels."""
        files = []
        for folder in map(Path, self.arguments.photographs):
            kept, _ = read_photographs(folder, None)
            selection, _ = read_photographs(folder, 0)
            files += sorted(set(kept["file"]) - set(selection["file"]))
        drawn = np.random.default_rng(0).permutation(len(files))[: self.arguments.unlabeled]
        rows = datasets.Dataset.from_dict({"image": [files[place] for place in drawn]})
        options = {"cache_dir": self.cache / "images", "progress": False, "label_column": None}
        return ImageFeatures.encode(
            self.base, rows, AutoImageProcessor.from_pretrained(self.arguments.clip), **options
        )

    def _captions(self, corpus: str) -> datasets.Dataset:
        if corpus == "templates":
            templates = load_templates("imagenet")
            return self._labelled([text.replace("{}", name) for name in self.labels for text in templates])
        if corpus == "made":
            return self._labelled(make_captions(self.labels, 8_000)["caption"])
        if corpus == "made_cooccurrence":
            chances = cooccurrence(np.asarray(self.train["labels"]))
            return self._labelled(make_captions(self.labels, 8_000, cooccurrence=chances)["caption"])
        if corpus == "more":
            further = [text for file in self.arguments.more_captions for text in read_captions(file).captions]
            return self._labelled([*self.train["caption"], *further])
        return self.train

    def row(self, change: dict, seed: int) -> dict:
        """Trains with a change of the recipe and scores what was learned."""
        change = dict(change)
        model_options = {**self.recipe["model"], **change.pop("model", {})}
        captions = self._captions(change.pop("captions", "real"))
        images = self._unlabeled_images() if change.pop("unlabeled", False) else None
        torch.manual_seed(seed)
        model = TaiDptModel.from_clip(self.base.clip, self.labels, self.base.get_tokenizer(), **model_options)
        options = {"max_steps": self.arguments.steps, "seed": seed, **change}
        args = TaiDptTrainingArguments.from_recipe(
            self.recipe,
            output_dir=str(self.cache / "run"),
            feature_cache_dir=str(self.cache / "captions"),
            feature_dtype="float16",
            label_column="labels",
            report_to="none",
            disable_tqdm=True,
            logging_steps=options["max_steps"],
            **options,
        )
        trainer = TaiDptTrainer(
            model, args, train_dataset=captions, eval_dataset=self.held_out, unlabeled_images=images
        )
        return {"held_out": trainer.train().metrics["caption_map"], **self.score(trainer.model.eval())}

    @torch.no_grad()
    def score(self, model: TaiDptModel) -> dict:
        """Figures of the selection photographs under each scoring: mAP by branch, and by frequency of the class."""
        figures = {}
        for name, (sharpness, mapped) in SCORINGS.items():
            model.config.image_spatial_scale = sharpness
            model.set_caption_memory(self.memory if mapped else None)
            figures[name] = {}
            for part in self.photographs:
                shown = part["labels"].sum(dim=0) > 0  # (classes of the folder,)
                columns = [column for column, is_shown in zip(part["columns"], shown, strict=True) if is_shown]
                outputs = model(image_embeds=part["pooled"], dense_embeds=part["dense"])
                truth = part["labels"][:, shown]  # (images, shown classes)
                for branch in ("logits_global", "logits_local", "logits"):
                    scores = getattr(outputs, branch)[:, columns]  # (images, shown classes)
                    measured = mean_average_precision(scores, truth)
                    figures[name][f"{part['folder']} {branch}"] = measured["map"]
                    if branch == "logits":
                        figures[name][f"{part['folder']} groups"] = self._groups(measured["per_class"], columns)
            merged = [value for key, value in figures[name].items() if key.endswith(" logits")]
            figures[name]["mean"] = float(np.mean(merged))
        return figures

    def _groups(self, per_class: np.ndarray, columns: list[int]) -> dict[str, float]:
        """The mAP of the head, middle and tail classes by number of training captions."""
        places = {column: place for place, column in enumerate(columns)}
        groups = {}
        for group, members in frequency_groups(self.counts).items():
            values = [per_class[places[column]] for column in members if column in places]
            groups[group] = float(np.mean(values)) if values else float("nan")
        return groups

    def baselines(self) -> dict[str, dict]:
        """Class vectors without learning: the template, 80 templates, prototypes."""
        plain = self.base
        vectors = {
            "template": plain.encode_templates(),
            "80_templates": plain.encode_templates(load_templates("imagenet")),
            "prototypes": self.train_features.class_prototypes(350)[0],
        }
        return {name: self.score(plain.with_class_embeddings(values)) for name, values in vectors.items()}


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    unknown = [name for name in arguments.rows if name not in ROWS]
    if unknown:
        raise SystemExit(f"There is no row {unknown[0]!r}: choose from {', '.join(ROWS)}.")
    output = Path(arguments.output)
    rows = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {}
    study = Study(arguments)

    def keep(name: str, figures: dict) -> None:
        rows[name] = figures
        temporary = output.with_suffix(".tmp")
        temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        temporary.replace(output)
        print(format_row(name, figures), flush=True)

    if "template" not in rows:
        for name, figures in study.baselines().items():
            keep(name, figures)
    for name in arguments.rows:
        for seed in arguments.seeds:
            key = f"{name} steps {arguments.steps} seed {seed}"
            if key not in rows:
                keep(key, study.row(ROWS[name], seed))


def format_row(name: str, figures: dict) -> str:
    """One line: mean merged mAP under each scoring, the folders' under the last, and that of held-out captions."""
    means = "  ".join(f"{scoring} {figures[scoring]['mean']:.2f}" for scoring in SCORINGS)
    last = figures[list(SCORINGS)[-1]]
    folders = "  ".join(f"{key.split()[0]} {value:.1f}" for key, value in last.items() if key.endswith(" logits"))
    held_out = f"  held-out captions {figures['held_out']:.1f}" if "held_out" in figures else ""
    return f"{name:40s} {means}  ({folders}){held_out}"


if __name__ == "__main__":
    main()
