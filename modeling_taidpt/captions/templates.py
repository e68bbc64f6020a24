"""Sentences made of templates, which stand beside the captions when prompts are learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..prompt_templates import load_templates

PLAIN_TEMPLATE_COPIES = 9  # of "a photo of a {}." beside the 80 templates, as in the published code


def template_sentences(class_names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The sentences that the published code mixes among the captions.

    Args:
        class_names (`Sequence[str]`): what the prompt says for each class.

    Returns:
        `tuple`: 9 times "a photo of a {}." and 80 templates for each class, and one-hot labels
        `(89 * classes, classes)`.
    """
    templates = load_templates("default") * PLAIN_TEMPLATE_COPIES + load_templates("imagenet")
    names = [name.replace("_", " ") for name in class_names]
    sentences = [template.replace("{}", name) for name in names for template in templates]
    return sentences, np.repeat(np.eye(len(names), dtype=np.uint8), len(templates), axis=0)


__all__ = ["PLAIN_TEMPLATE_COPIES", "template_sentences"]
