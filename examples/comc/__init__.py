"""CoMC: a linear classifier that captions train and images use, beside the learned prompts of TaI-DPT."""

from .scorer import CoMCScorer, fit_comc

__all__ = ["CoMCScorer", "fit_comc"]
