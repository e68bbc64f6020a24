"""Labels and scores made of others: ensembles of prompts and of the scores of two models."""
