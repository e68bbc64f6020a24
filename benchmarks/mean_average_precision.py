"""mAP in one vectorised pass, against scikit-learn's loop over classes.

    python benchmarks/mean_average_precision.py [--images 50000] [--classes 4585] [--json FILE]

The baseline is `sklearn.metrics.average_precision_score` per class on the same scores; with many classes it is timed
on the first ones and scaled linearly. The two must agree to 1e-9.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from common import machine, median_seconds, peak_megabytes, seconds, write_figures
from sklearn.metrics import average_precision_score
from transformers import HfArgumentParser

from modeling_taidpt import mean_average_precision


@dataclass
class Arguments:
    """Sizes; the defaults are COCO val2014."""

    images: int = field(default=40_504, metadata={"help": "Rows."})
    classes: int = field(default=80, metadata={"help": "Columns."})
    baseline_classes: int = field(default=80, metadata={"help": "Most columns that scikit-learn is timed on."})
    repeats: int = field(default=3, metadata={"help": "Timed runs after one warm-up; the median counts."})
    json: str | None = field(default=None, metadata={"help": "File for the figures."})


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    draw = np.random.default_rng(0)
    shape = (arguments.images, arguments.classes)
    scores = draw.standard_normal(shape, dtype=np.float32)  # (images, classes)
    labels = (draw.random(shape, dtype=np.float32) < 0.03).astype(np.uint8)  # (images, classes)
    labels[0] = 1  # every class has a positive
    few = min(arguments.classes, arguments.baseline_classes)
    expected = []

    def loop() -> None:
        expected[:] = [average_precision_score(labels[:, c], scores[:, c]) for c in range(few)]

    baseline = seconds(loop) * arguments.classes / few
    before = peak_megabytes()
    ours = median_seconds(lambda: mean_average_precision(scores, labels), arguments.repeats)
    growth = peak_megabytes() - before
    per_class = np.asarray(mean_average_precision(scores[:, :few], labels[:, :few])["per_class"]) / 100
    difference = float(np.abs(per_class - np.asarray(expected)).max())
    print(f"machine    {machine()}")
    print(f"sizes      {shape[0]:,} images x {shape[1]:,} classes, fp32 scores")
    print(f"baseline   {baseline:.2f} s (scikit-learn, class by class, timed on {few} classes)")
    print(f"ours       {ours:.2f} s: {baseline / ours:.1f} times faster; {growth:.0f} MB on top of the inputs")
    print(f"largest difference of an average precision {difference:.1e}")
    if difference > 1e-9:
        raise RuntimeError(f"The two differ by {difference}: this must not be.")
    figures = {"images": shape[0], "classes": shape[1], "baseline_seconds": baseline, "seconds": ours}
    write_figures(arguments.json, figures | {"ratio": baseline / ours, "extra_mb": growth, "difference": difference})


if __name__ == "__main__":
    main()
