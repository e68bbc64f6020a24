"""What the weight files of a checkpoint hold, read from their headers: does it fit the configuration beside it?

Saving replaces file after file. If a machine stops between two, weights and configuration would be of two models and
load without a word; so each configuration holds a digest of the weights that it was saved with.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import initialization as init
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .origins import Origin

WEIGHT_FILE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
MARGIN = 1_000_000  # numbers of a model that need not be stored, as positions that are made anew


def find_weight_files(origin: Origin) -> list[str]:
    """Paths of the weight files of a folder or repository, shards in the order of their names.

    Args:
        origin (`Origin`): where the checkpoint is.

    Returns:
        `list[str]`: empty where there are none as safetensors.

    Raises:
        ValueError: the index of the shards is damaged or names other files than shards beside it.
        OSError: a shard is missing.
    """
    single = origin.find(SAFE_WEIGHTS_NAME)
    if single is not None:
        return [single]
    index = origin.find(SAFE_WEIGHTS_INDEX_NAME)
    if index is None:
        return []
    try:
        names = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"The index {index!r} of the weight files is damaged: fetch or save the model again."
        ) from error
    wrong = [name for name in names if not isinstance(name, str) or not WEIGHT_FILE.fullmatch(name)]
    if wrong:
        raise ValueError(f"The index {index!r} names {str(wrong[0])[:80]!r}, which is not a weight file beside it.")
    files = [origin.find(name) for name in names]
    if None in files:
        missing = names[files.index(None)]
        raise FileNotFoundError(f"The weight file {missing!r} of {origin.name!r} is missing: fetch or save it again.")
    return [str(file) for file in files]


def old_weights(folder: Path) -> set[str]:
    """Names of the weight files that are in a folder already."""
    return {file.name for file in folder.iterdir() if WEIGHT_FILE.fullmatch(file.name)} if folder.is_dir() else set()


def digest_weights(files: Sequence[str | Path]) -> str:
    """A digest of weights: all that is not of the CLIP, and the middle row of each of the CLIP's.

    Args:
        files (`Sequence[str | Path]`): safetensors files.

    Returns:
        `str`: 32 hexadecimal digits.
    """
    digest, found = hashlib.sha256(), {}
    for file in files:
        with torch.device("cpu"), safe_open(file, "pt") as weights:  # whatever device is the default
            for name in weights.keys():  # noqa: SIM118
                part = weights.get_slice(name)
                shape = part.get_shape()
                if name.startswith("clip.") and shape:
                    values = part[shape[0] // 2 : shape[0] // 2 + 1]  # (1, ...)
                else:
                    values = weights.get_tensor(name)
                found[name] = (str(values.dtype), shape, values.contiguous().reshape(-1).view(torch.uint8))
    for name, (dtype, shape, values) in sorted(found.items()):
        digest.update(f"{name} {dtype} {shape}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:32]


def require_same_save(name: str, expected: Any, files: Sequence[str]) -> None:
    """Raises a `ValueError` where the weights are not those that the configuration was saved with."""
    if expected is not None and digest_weights(files) != expected:
        raise ValueError(
            f"The weights and the configuration in {name!r} are not of one save (it may have been interrupted): save "
            "or fetch the model again; weights that were changed on purpose load without `weights_digest` in "
            "config.json."
        )


def require_plausible_size(name: str, model_class: Any, config: Any, files: Sequence[str]) -> None:
    """Raises a `ValueError` where a configuration describes more than is stored, before it is allocated."""
    with torch.device("meta"), init.no_init_weights():  # names and shapes alone
        described = sum(tensor.numel() for tensor in model_class(config).state_dict().values())
    stored = 0
    for file in files:
        with safe_open(file, "pt") as weights:
            stored += sum(torch.Size(weights.get_slice(key).get_shape()).numel() for key in weights.keys())  # noqa: SIM118
    if described > stored + MARGIN:
        raise ValueError(
            f"The checkpoint {name!r} does not hold the whole model: its configuration describes {described:,} "
            f"numbers and {stored:,} are stored. Nothing was loaded."
        )


__all__ = [
    "WEIGHT_FILE",
    "digest_weights",
    "find_weight_files",
    "old_weights",
    "require_plausible_size",
    "require_same_save",
]
