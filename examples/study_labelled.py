"""What labelled photographs reach on the same base: the share of the gap that no text can close.

    python examples/study_labelled.py --images voc2012

Logistic regression on the global features of the photographs outside the selection part, one class at a time, its
penalty by cross-validation within them; scored on the selection part beside the checkpoint as it ships. Gains are over
the checkpoint, with the interval of a paired bootstrap over photographs, for all classes and for those that at least
`--min_positives` selection photographs show.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from embedded_base.labelled import encode_labelled
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import HfArgumentParser

from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel, mean_average_precision, paired_bootstrap
from modeling_taidpt.evaluation.predict import score_features
from modeling_taidpt.features.images import ImageFeatures

FOLDS, PENALTIES = 3, {"logisticregression__C": 10.0 ** np.arange(-5, 0)}


@dataclass
class Arguments:
    """What to measure, on what."""

    images: str = field(metadata={"help": "Folder with labels.json and images/."})
    model: str = field(default=DEFAULT_CHECKPOINT, metadata={"help": "Checkpoint for the 80 COCO labels."})
    min_positives: int = field(default=16, metadata={"help": "Selection photographs that show a frequent class."})


def global_features(photographs: ImageFeatures) -> np.ndarray:
    """Global features `(images, dim)`."""
    return torch.stack([photographs[row]["image_embeds"].float() for row in range(len(photographs))]).numpy()


def probe(features: np.ndarray, present: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Scores `(scored images, classes)` of logistic regression on `(images, dim)` and labels `(images, classes)`."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    search = GridSearchCV(model, PENALTIES, scoring="average_precision", cv=FOLDS)
    columns = [search.fit(features, labels).decision_function(scored) for labels in present.T]  # (scored images,) each
    return np.stack(columns, axis=1)  # (scored images, classes)


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    model = TaiDptModel.from_pretrained(arguments.model)
    fitted, scored = (encode_labelled(model, arguments.images, selection) for selection in (False, True))
    known = (np.asarray(scored.labels) != 0).all(axis=0)  # (classes,)
    labels = [np.asarray(part.labels)[:, known] > 0 for part in (fitted, scored)]  # (images, known classes) each
    text = score_features(model, scored).logits.numpy()[:, known]  # (images, known classes)
    labelled = probe(global_features(fitted), labels[0], global_features(scored))  # (images, known classes)
    frequent = labels[1].sum(axis=0) >= arguments.min_positives  # (known classes,)
    print(f"{arguments.images}: fitted on {len(fitted)} photographs, scored on {len(scored)}")
    for name, classes in (("all classes", np.ones_like(frequent)), ("frequent classes", frequent)):
        truth = labels[1][:, classes].astype(np.int64)  # (images, classes)
        gain = paired_bootstrap(labelled[:, classes], text[:, classes], truth, num_resamples=2000, seed=0)
        interval = f"{gain['difference']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]"
        values = [mean_average_precision(scores[:, classes], truth)["map"] for scores in (text, labelled)]
        count = int((truth.any(axis=0)).sum())
        print(f"  {name} ({count}): text alone {values[0]:.1f}, labelled photographs {values[1]:.1f}, gain {interval}")


if __name__ == "__main__":
    main()
