"""Templates that make a prompt of a class name, by name; written in code, so that they travel with a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from .languages import ENGLISH, default_template, full_stop

DEFAULT_TEMPLATE = default_template()

# The 80 templates of CLIP's ImageNet ensemble (Radford et al. 2021, https://github.com/openai/CLIP, MIT license).
IMAGENET_TEMPLATES = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)

TEMPLATES = {
    "default": (DEFAULT_TEMPLATE,),
    "imagenet": IMAGENET_TEMPLATES,
    "coarse": ("[{}]",),
    "fine": ("{{}}",),
}


def load_templates(name: str = "imagenet", language: str = ENGLISH) -> list[str]:
    """The prompt templates of a name.

    Args:
        name (`str`, *optional*, defaults to `"imagenet"`): `"imagenet"`, the 80 templates of CLIP's ImageNet
            ensemble; `"default"`, "a photo of a {}." alone; `"coarse"`, "[dog]"; or `"fine"`, "{dog}".
        language (`str`, *optional*, defaults to `"en"`): code of the language. Another one has its own template for
            `"default"`, and for `"imagenet"` that and the name alone.

    Returns:
        `list[str]`: templates with one `{}` for the class name.

    Raises:
        ValueError: there are no templates of that name.
    """
    if name not in TEMPLATES:
        raise ValueError(f"Unknown templates {name!r}: choose one of {', '.join(TEMPLATES)}.")
    if language != ENGLISH and name in ("default", "imagenet"):
        own = [default_template(language), f"{{}}{full_stop(language)}"]
        return list(dict.fromkeys(own[:1] if name == "default" else own))
    return list(TEMPLATES[name])


def branch_templates(
    templates: Sequence[str] | str | None, local_templates: Sequence[str] | str | None, language: str
) -> list[str] | dict[str, list[str]] | None:
    """Templates of a zero-shot model as its configuration keeps them.

    Args:
        templates (`Sequence[str]` or `str`, *optional*): those of both branches, or the name of a list of them.
        local_templates (`Sequence[str]` or `str`, *optional*): those of the local branch; `templates` by default.
        language (`str`): code of the labels' language.

    Returns:
        `list[str]`, or `dict` of `global` and `local` where they differ; `None` for the default.

    Raises:
        ValueError: there are no templates of that name.
    """
    both = (templates, local_templates)
    found = [load_templates(names, language) if isinstance(names, str) else names for names in both]
    first, second = (None if names is None else list(names) for names in found)
    return first if second is None else {"global": first or load_templates("default", language), "local": second}


__all__ = ["DEFAULT_TEMPLATE", "TEMPLATES", "branch_templates", "load_templates"]
