"""Metrics, evaluation on labelled images, calibration of scores, and reports."""
