"""Labels and scores made of others: ensembles of prompts and of the scores of two models."""

from .prompts import ensemble_prompts, with_hypernyms, with_negative_prompts
from .scores import ScoreEnsemble, predict_scores, read_scores

__all__ = [
    "ScoreEnsemble",
    "ensemble_prompts",
    "predict_scores",
    "read_scores",
    "with_hypernyms",
    "with_negative_prompts",
]
