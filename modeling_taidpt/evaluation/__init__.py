"""Metrics, evaluation on labelled images, calibration of scores, and reports."""

from .calibration import fit_score_calibration, fit_thresholds, match_prevalence
from .evaluate import baseline_models, evaluate_scores, score_images, with_classes
from .metrics import (
    average_precision,
    bootstrap_map,
    compute_multilabel_metrics,
    mean_average_precision,
    metric_path,
    multilabel_f1,
    paired_bootstrap,
)
from .reliability_diagram import expected_calibration_error, plot_reliability, reliability
from .report import write_report
from .score_fitting import (
    calibrate,
    calibrate_without_labels,
    fit_caption_bank,
    fit_score_statistics,
    fit_score_thresholds,
)
from .visual_fitting import fit_visual_classifier

__all__ = [
    "average_precision",
    "baseline_models",
    "bootstrap_map",
    "calibrate",
    "calibrate_without_labels",
    "compute_multilabel_metrics",
    "evaluate_scores",
    "expected_calibration_error",
    "fit_caption_bank",
    "fit_score_calibration",
    "fit_score_statistics",
    "fit_score_thresholds",
    "fit_thresholds",
    "fit_visual_classifier",
    "match_prevalence",
    "mean_average_precision",
    "metric_path",
    "multilabel_f1",
    "paired_bootstrap",
    "plot_reliability",
    "reliability",
    "score_images",
    "with_classes",
    "write_report",
]
