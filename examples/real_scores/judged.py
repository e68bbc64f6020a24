"""What is measured of probabilities and thresholds on images that nothing was fitted on."""

from __future__ import annotations

import numpy as np
import torch

from modeling_taidpt.evaluation.reliability_diagram import expected_calibration_error
from modeling_taidpt.evaluation.score_fitting import overall_f1


class Judged:
    """Means over draws of what is measured on images that nothing was fitted on."""

    def __init__(self) -> None:
        self.figures: dict[str, list[float]] = {}

    def add(
        self, probabilities: torch.Tensor, thresholds: float | list[float], labels: np.ndarray, seen: np.ndarray
    ) -> None:
        """Measures probabilities of some images against their labels; a label that is not `seen` does not count.

        Args:
            probabilities (`torch.Tensor` of shape `(images, classes)`): of each label.
            thresholds (`float` or `list[float]`): least probability that is tagged.
            labels (`np.ndarray` of shape `(images, classes)`): 0 or 1.
            seen (`np.ndarray` of shape `(images, classes)`): whether the label is known, bool.
        """
        present, known = torch.from_numpy(labels), torch.from_numpy(seen)  # (images, classes) each
        chosen = (probabilities >= torch.as_tensor(thresholds, dtype=torch.float64)) & known  # (images, classes)
        shows = (present > 0).any(dim=1)  # (images,)
        columns = [slice(column, column + 1) for column in range(present.shape[1])]
        each = [expected_calibration_error(probabilities[:, c], present[:, c], known=known[:, c]) for c in columns]
        figures = {
            "error": expected_calibration_error(probabilities, present, known=known),
            "error per label": float(np.mean(each)),
            "F1": overall_f1(probabilities, present, thresholds, known),
            "labels per image": float(chosen.double().sum(dim=1).mean()),
            "untagged": 100 * float((shows & ~chosen.any(dim=1)).double().sum() / shows.double().sum()),
        }
        for name, value in figures.items():
            self.figures.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        """Mean of each figure."""
        return {name: float(np.mean(values)) for name, values in self.figures.items()}


__all__ = ["Judged"]
