"""What the study fits, and the settings that it chooses among."""

from __future__ import annotations

from modeling_taidpt.ensembles.scores import FEW_SHOT_WEIGHT, PARTIAL_LABEL_WEIGHT

WORDS = {"class_specific_context": True, "context_init": "a photo of a", "num_context_tokens": 4}
ADAM = {"optim": "adamw_torch", "learning_rate": 1e-3, "weight_decay": 0.0, "lr_scheduler_type": "cosine"}

PAIR = {**WORDS, "prompt_pair": "positive_negative"}  # as the published `fewshot` loss has them, with learned scales

# Changes of the model and of the training of `IMAGE_RECIPES`. The published learning rate comes first; class-specific
# contexts have four vectors instead of 16, to save time on a CPU.
CANDIDATES: dict[str, dict[str, tuple[dict, dict]]] = {
    "few_shot": {
        "SGD 2e-3": ({}, {}),
        "SGD 2e-2": ({}, {"learning_rate": 2e-2}),
        "words, AdamW 3e-4": (WORDS, {**ADAM, "learning_rate": 3e-4}),
        "words, AdamW 1e-3": (WORDS, ADAM),
        "words, AdamW 3e-3": (WORDS, {**ADAM, "learning_rate": 3e-3}),
        "words, positive and negative, AdamW 1e-3": (PAIR, ADAM),
        "words, positive and negative, AdamW 3e-4": (PAIR, {**ADAM, "learning_rate": 3e-4}),
    },
    "partial_labels": {
        "SGD 2e-3": ({"num_context_tokens": 4}, {}),
        "SGD 2e-2": ({"num_context_tokens": 4}, {"learning_rate": 2e-2}),
        "words, AdamW 1e-3": (WORDS, ADAM),
        "words, AdamW 3e-4": (WORDS, {**ADAM, "learning_rate": 3e-4}),
    },
}
# The rows of the table: recipe, and what it sees of the images.
SETTINGS: dict[str, tuple[str, dict]] = {
    **{f"few-shot {shots}": ("few_shot", {"shots": shots}) for shots in (1, 4, 16)},
    **{f"partial {known}": ("partial_labels", {"known_labels": known}) for known in (0.1, 0.5, 0.9)},
}
SELECTED_AT = {"few_shot": {"shots": 4}, "partial_labels": {"known_labels": 0.5}}
WEIGHTS = {"few_shot": FEW_SHOT_WEIGHT, "partial_labels": PARTIAL_LABEL_WEIGHT}  # the paper's, of the image prompts
