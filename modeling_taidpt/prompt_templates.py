"""Templates that make a prompt of a class name, by name."""

from __future__ import annotations

import json

from .tokenization_taidpt import ASSETS

TEMPLATES = ("default", "imagenet", "coarse", "fine")


def load_templates(name: str = "imagenet") -> list[str]:
    """Load prompt templates.

    Args:
        name (`str`, *optional*, defaults to `"imagenet"`): `"imagenet"`, the 80 templates of CLIP's ImageNet
            ensemble; `"default"`, "a photo of a {}." alone; `"coarse"`, "[dog]"; or `"fine"`, "{dog}".

    Returns:
        `list[str]`: Templates with one `{}` for the class name.

    Raises:
        ValueError: If there are no such templates.
    """
    if name not in TEMPLATES:
        raise ValueError(f"Unknown templates {name!r}: choose one of {', '.join(TEMPLATES)}.")
    templates = json.loads((ASSETS / "templates.json").read_text(encoding="utf-8"))[name]
    return [templates] if isinstance(templates, str) else templates


__all__ = ["TEMPLATES", "load_templates"]
