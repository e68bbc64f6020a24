"""Mean average precision of multi-label scores, as an `evaluate` module."""

import datasets
import evaluate

from modeling_taidpt.evaluation.metrics import mean_average_precision

_DESCRIPTION = """
Mean average precision (mAP) over classes: all points, tied scores in one group as in scikit-learn's
average_precision_score. A class without positives is left out of the mean and counted.
"""

_INPUTS = """
Args:
    predictions: scores, one list of floats per image with one score per class.
    references: labels, one list of 0 and 1 per image.

Returns:
    map (percent), per_class (percent, NaN for a class without positives), classes_without_positives.
"""

_CITATION = """
@inproceedings{guo2023texts,
  title={Texts as Images in Prompt Tuning for Multi-Label Image Recognition},
  author={Guo, Zixian and Dong, Bowen and Ji, Zhilong and Bai, Jinfeng and Guo, Yiwen and Zuo, Wangmeng},
  booktitle={CVPR},
  year={2023}
}
"""


class MultilabelMap(evaluate.Metric):
    """`evaluate` metric around [`modeling_taidpt.evaluation.metrics.mean_average_precision`]."""

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

    def _compute(self, predictions: list, references: list) -> dict:
        result = mean_average_precision(predictions, references)
        return {**result, "per_class": result["per_class"].tolist()}
