"""Images tagged per second, against the bare vision tower and transformers' zero-shot pipeline; the first prediction.

    python benchmarks/tagging.py [--images 64] [--num_workers 0] [--json FILE]

One random CLIP ViT-B/32 and the 80 COCO labels for all three. The baseline is the vision tower alone on pixels that
are ready, in the same batches; ours reads JPEG files, decodes and scores both branches. The two are timed in turn, and
each of our runs is compared with the mean of the baseline's before and after it: what else the machine does meanwhile
hits both. The ratio is the median of these; its quartiles say how far to trust it.
transformers' `zero-shot-image-classification` encodes all labels again for every image; it is timed on a few.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from common import machine, median_seconds, seconds, write_figures
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, HfArgumentParser, Pipeline, pipeline

from modeling_taidpt import TaiDptModel, clip_tokenizer, load_class_table
from modeling_taidpt.pipelines.image_batches import read_batch
from modeling_taidpt.pipelines.image_reading import open_encoded

ROOT = Path(__file__).parent.parent


@dataclass
class Arguments:
    """What to tag."""

    images: int = field(default=64, metadata={"help": "Images; copies of the photographs that ship."})
    batch_size: int = field(default=16, metadata={"help": "Images in a batch."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode; 0: threads, between batches."})
    zero_shot_images: int = field(default=2, metadata={"help": "Images that the zero-shot pipeline tags."})
    repeats: int = field(default=7, metadata={"help": "Timed runs after one warm-up, at least 2; the median counts."})
    json: str | None = field(default=None, metadata={"help": "File for the figures."})


def write_images(folder: Path, count: int) -> list[str]:
    """JPEG files of 640 x 480 pixels, as COCO has them."""
    files = sorted((ROOT / "examples/images").glob("*.jpg"))
    images = [open_encoded(file).convert("RGB").resize((640, 480)) for file in files]
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        images[number % len(images)].save(path, quality=90)
    return [str(path) for path in paths]


@torch.inference_mode()
def bare(clip: CLIPModel, pixels: torch.Tensor, count: int) -> None:
    """The vision tower on `count` images in batches of ready pixels `(batch, 3, height, width)`."""
    for start in range(0, count, len(pixels)):
        clip.vision_model(pixel_values=pixels[: count - start])


@torch.inference_mode()
def both_features(model: TaiDptModel, pixels: torch.Tensor, count: int) -> None:
    """Pooled and dense features of as many images, in the same batches."""
    for start in range(0, count, len(pixels)):
        model.encode_images(pixels[: count - start])


def read_images(tagger: Pipeline, files: list[str], batch_size: int) -> dict[str, float]:
    """Milliseconds an image to read, decode, resize and crop: of one core, and elapsed with PyTorch's threads."""
    elapsed, cores = time.perf_counter(), time.process_time()
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        read_batch(tagger.preprocess, batch, batch, tagger.image_processor)
    cores, elapsed = time.process_time() - cores, time.perf_counter() - elapsed
    return {"reading_core_ms": 1000 * cores / len(files), "reading_ms": 1000 * elapsed / len(files)}


def first_prediction(image: str) -> float:
    """Seconds from the start of an interpreter to the labels of one image, with the checkpoint that ships."""
    code = "import modeling_taidpt\nfrom transformers import pipeline\n"
    code += f"pipeline('multi-label-image-classification')({image!r})"
    command = [sys.executable, "-c", code]
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True))


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig()).eval()
    labels = [row["name"] for row in load_class_table("coco80")]
    processor, tokenizer = CLIPImageProcessor(), clip_tokenizer()
    model = TaiDptModel.from_clip(clip, labels, tokenizer=tokenizer)
    tagger = pipeline("multi-label-image-classification", model=model, image_processor=processor)
    zero_shot = pipeline("zero-shot-image-classification", model=clip, tokenizer=tokenizer, image_processor=processor)
    options = {"batch_size": arguments.batch_size, "num_workers": arguments.num_workers}
    with tempfile.TemporaryDirectory() as folder:
        files = write_images(Path(folder), arguments.images)
        pixels = torch.randn(arguments.batch_size, 3, 224, 224)  # (batch, 3, height, width)
        tagger(files[: arguments.batch_size], **options)  # encodes the classes, once
        bare(clip, pixels, arguments.batch_size)
        baseline, ours = [seconds(lambda: bare(clip, pixels, len(files)))], []
        for _ in range(arguments.repeats):
            ours.append(seconds(lambda: tagger(files, top_k=5, **options)))
            baseline.append(seconds(lambda: bare(clip, pixels, len(files))))
        reading = read_images(tagger, files, arguments.batch_size)
        features = median_seconds(lambda: both_features(model, pixels, len(files)), arguments.repeats)
        few = files[: arguments.zero_shot_images]
        theirs = median_seconds(lambda: zero_shot(few, candidate_labels=labels), 1) / len(few)
        cold = statistics.median(first_prediction(files[0]) for _ in range(2))
    baseline_seconds, our_seconds = statistics.median(baseline), statistics.median(ours)
    around = [statistics.mean(pair) for pair in itertools.pairwise(baseline)]  # (repeats,), seconds of the baseline
    ratios = [before / own for before, own in zip(around, ours, strict=True)]  # (repeats,)
    ratio, (lower, _, upper) = statistics.median(ratios), statistics.quantiles(ratios, n=4)
    sizes = [
        sum(tensor.numel() * tensor.element_size() for tensor in m.state_dict().values()) / 1e6
        for m in (model, model.bake())
    ]
    count = len(files)
    faster = theirs * count / our_seconds
    print(f"machine    {machine()}")
    print(f"sizes      {count} JPEG files of 640 x 480, {options}")
    print(f"baseline   {count / baseline_seconds:.1f} images a second (bare vision tower, pixels ready)")
    spread = f"{ratio:.2f} of the baseline (quartiles {lower:.2f} to {upper:.2f})"
    print(f"ours       {count / our_seconds:.1f} images a second: {spread}")
    print("reading    {reading_core_ms:.1f} ms an image of one core, {reading_ms:.1f} ms elapsed".format(**reading))
    print(f"features   both of ready pixels: {baseline_seconds / features:.2f} of the baseline")
    print(
        f"zero-shot  {1 / theirs:.2f} images a second (transformers' pipeline, 80 labels): {faster:.0f} times slower"
    )
    print(f"baked      {sizes[1]:.0f} MB instead of {sizes[0]:.0f} MB")
    print(f"first      {cold:.1f} s from a cold interpreter to the labels of an image, checkpoint that ships")
    figures = {"images": count, "batch_size": arguments.batch_size, "num_workers": arguments.num_workers}
    figures |= {"baseline_seconds": baseline_seconds, "seconds": our_seconds, "ratio": ratio, "ratios": ratios}
    figures |= {"zero_shot_seconds_per_image": theirs, "first_prediction_seconds": cold, "megabytes": sizes}
    figures |= {**reading, "features_ratio": baseline_seconds / features}
    write_figures(arguments.json, figures)


if __name__ == "__main__":
    main()
