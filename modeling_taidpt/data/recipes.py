"""Recipes: base, labels, model options, training arguments and data of an experiment, in a file.

A recipe is YAML or JSON: `training` (arguments of [`TaiDptTrainingArguments`]) and optionally `name`, `base`,
`labels`, `model` (options of [`TaiDptModel.from_clip`]), `data` (`captions` and `images`, each a `loader`, where it
reads, and its options) and `protocols`, whose entries are laid over the rest. Paths are relative to a folder that is
given when data is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset

from ..captions.class_tables import require_extent
from .loaders import load_captions, load_images

PROTOCOLS = ("clean", "paper")
PARTS = ("name", "base", "labels", "model", "training", "data", "protocols")
SUFFIXES = (".yaml", ".yml", ".json")
_FOLDERS = (Path(__file__).parents[1] / "recipe_files", Path(__file__).parents[2] / "examples" / "recipes")
_PLACES = {"captions": "files", "images": "folder"}
_PATHS = ("exclude_image_ids", "evaluation_set", "annotation_file", "image_folder", "label_file")


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted({path.stem for folder in _FOLDERS for path in folder.glob("*") if path.suffix in SUFFIXES})


def read_recipe(path_or_name: str | Path, protocol: str | None = None) -> dict[str, Any]:
    """Reads a recipe.

    Args:
        path_or_name (`str` or `Path`): a YAML or JSON file, or the name of a recipe that comes with the package:
            `"voc2007"`, `"coco2014"`, `"nuswide"`.
        protocol (`str`, *optional*): `"clean"` (no caption of a test image, the checkpoint is chosen on held-out
            captions; the default of a recipe that has protocols) or `"paper"` (all captions, the last epoch).

    Returns:
        `dict`: `name`, `training`, and `base`, `labels`, `model`, `data` where the recipe has them.

    Raises:
        FileNotFoundError: If there is no such recipe.
        ValueError: If the file is not a recipe, or has no such protocol.
    """
    check_protocol(protocol)
    path = _find(path_or_name)
    recipe = {"name": path.stem} | _parse(path)
    protocols = recipe.pop("protocols", {})
    if not protocols:
        check_protocol(protocol, repr(str(path)))
        return recipe
    protocol = protocol or PROTOCOLS[0]
    if protocol not in protocols:
        raise ValueError(f"The recipe {str(path)!r} has no protocol {protocol!r}: it has {', '.join(protocols)}.")
    return _laid_over(recipe, protocols[protocol])


def check_protocol(protocol: str | None, without: str | None = None) -> None:
    """Raises a `ValueError` where a protocol is unknown, or is chosen of a recipe that has none.

    Args:
        protocol (`str`, *optional*): as a person chose it.
        without (`str`, *optional*): name of a recipe that has no protocols.
    """
    if protocol is not None and protocol not in PROTOCOLS:
        raise ValueError(f"`protocol` is {protocol!r}: choose one of {', '.join(PROTOCOLS)}.")
    if protocol is not None and without is not None:
        raise ValueError(f"The recipe {without} has no protocols: leave `protocol` out.")


def _find(path_or_name: str | Path) -> Path:
    path = Path(path_or_name)
    if path.is_file():
        return path
    if path.name == str(path_or_name) and not path.suffix:
        for found in (folder / (path.name + suffix) for folder in _FOLDERS for suffix in SUFFIXES):
            if found.is_file():
                return found
    raise FileNotFoundError(
        f"There is no recipe {str(path_or_name)!r}: give a YAML or JSON file, or one of {', '.join(recipe_names())}."
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        recipe = json.loads(text) if path.suffix.lower() == ".json" else require_extent(yaml.safe_load(text))
    except RecursionError as error:
        raise ValueError(f"The recipe {str(path)!r} cannot be read: it is nested too deep.") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"The recipe {str(path)!r} cannot be read: {' '.join(str(error).split()).rstrip('.')}."
        ) from error
    if not isinstance(recipe, dict) or not isinstance(recipe.get("training"), dict):
        raise ValueError(f"The recipe {str(path)!r} has no 'training' arguments: write training: {{...}}.")
    unknown = [part for part in recipe if part not in PARTS]
    if unknown:
        raise ValueError(f"The recipe {str(path)!r} has a part {unknown[0]!r}: it may have {', '.join(PARTS)}.")
    return recipe


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
        merged[key] = _laid_over(below[key], value) if both else value
    return merged


def load_recipe_captions(recipe: Mapping[str, Any], root: str | Path = ".", **options: Any) -> Dataset:
    """Reads the captions of a recipe.

    Args:
        recipe (`Mapping`): of [`read_recipe`].
        root (`str` or `Path`, *optional*, defaults to the working directory): what the recipe's paths are relative to.
        **options: win over the recipe's, as `captions_per_image=5`.

    Returns:
        `Dataset`: as of [`load_captions`].

    Raises:
        FileNotFoundError: If a file is missing; it says which one and where it is had.
        ValueError: If the recipe names no captions; or see the loader.
    """
    return load_captions(**_arguments(recipe, "captions", Path(root), options))


def without_captions(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe for other captions than its own: without these, and without the column that holds their labels.

    Args:
        recipe (`Mapping`): of [`read_recipe`].

    Returns:
        `dict`: a new recipe.
    """
    if "captions" not in (recipe.get("data") or {}):
        return dict(recipe)
    data = {part: entry for part, entry in recipe["data"].items() if part != "captions"}
    training = {name: value for name, value in recipe["training"].items() if name != "label_column"}
    return {**recipe, "data": data, "training": training}


def load_recipe_images(recipe: Mapping[str, Any], root: str | Path = ".", **options: Any) -> Dataset:
    """Reads the test images of a recipe.

    Args:
        recipe (`Mapping`): of [`read_recipe`].
        root (`str` or `Path`, *optional*, defaults to the working directory): what the recipe's paths are relative to.
        **options: win over the recipe's, as `skip_missing=True`.

    Returns:
        `Dataset`: as of [`load_images`].

    Raises:
        FileNotFoundError: If a file is missing; it says which one and where it is had.
        ValueError: If the recipe names no images; or see the loader.
    """
    return load_images(**_arguments(recipe, "images", Path(root), options))


def _arguments(recipe: Mapping[str, Any], part: str, root: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a loader, paths made whole."""
    entry = dict((recipe.get("data") or {}).get(part) or {})
    place = _PLACES[part]
    if place not in entry:
        raise ValueError(f"The recipe {recipe.get('name')!r} names no {part}: write data: {part}: {place}: ...")
    where = entry.pop(place)
    entry = {key: root / value if key in _PATHS and isinstance(value, str) else value for key, value in entry.items()}
    data = root / where if isinstance(where, str) else [root / path for path in where]
    return {"data": data, **entry, **options}


__all__ = [
    "PROTOCOLS",
    "check_protocol",
    "load_recipe_captions",
    "load_recipe_images",
    "read_recipe",
    "recipe_names",
    "without_captions",
]
