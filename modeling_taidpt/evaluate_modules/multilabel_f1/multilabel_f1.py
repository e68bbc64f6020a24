"""Per-class and overall precision, recall and F1 of multi-label scores, as an `evaluate` module."""

import datasets
import evaluate

from modeling_taidpt.evaluation.metrics import multilabel_f1

_DESCRIPTION = """
Per-class (CP, CR, CF1) and overall (OP, OR, OF1) precision, recall and F1 of the labels whose score reaches a
threshold, or that are among the top k of their image.
"""

_INPUTS = """
Args:
    predictions: scores, one list of floats per image with one score per class.
    references: labels, one list of 0 and 1 per image.
    threshold: smallest score that counts as predicted (0.5 when top_k is not given either).
    top_k: most labels predicted per image.

Returns:
    CP, CR, CF1, OP, OR, OF1, per_class_precision, per_class_recall, per_class_f1 (percent),
    classes_without_predictions, classes_without_positives.
"""

_CITATION = """
@inproceedings{chen2019multi,
  title={Multi-Label Image Recognition with Graph Convolutional Networks},
  author={Chen, Zhao-Min and Wei, Xiu-Shen and Wang, Peng and Guo, Yanwen},
  booktitle={CVPR},
  year={2019}
}
"""


class MultilabelF1(evaluate.Metric):
    """`evaluate` metric around [`modeling_taidpt.evaluation.metrics.multilabel_f1`]."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Sequence(datasets.Value("int8")),
                }
            ),
        )

    def _compute(
        self, predictions: list, references: list, threshold: float | None = None, top_k: int | None = None
    ) -> dict:
        if threshold is None and top_k is None:
            threshold = 0.5
        result = multilabel_f1(predictions, references, threshold=threshold, top_k=top_k)
        return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in result.items()}
