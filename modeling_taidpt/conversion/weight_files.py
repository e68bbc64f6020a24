"""Published weight files, read without running anything that stands in them.

Three forms are met: `torch.save` of a state dict, the same beside an optimizer and a learning rate schedule (whose
objects `weights_only` refuses), and TorchScript archives such as OpenAI's. All go through torch's restricted
unpickler; every class in the file that it does not know becomes an inert record of its attributes.
"""

from __future__ import annotations

import pickle
import tempfile
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

_TORCHSCRIPT_MARK = "constants.pkl"
_CODE = ("code/", "constants", "extra/", "debug_pkl")  # records of a TorchScript archive that are no weights


class _Record:
    """Stands for an object of any class: it keeps the attributes and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """An empty record, whatever the class was to be built with."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Keep the attributes of an object that has them by name."""
        if isinstance(state, dict):
            self.__dict__.update(state)


def _empty_dict(*args: Any) -> dict:
    return {}


def read_weights(path: str | Path) -> dict[str, Any]:
    """Reads a file of weights.

    Args:
        path (`str` or `Path`): a file of `torch.save`, a TorchScript archive, or a safetensors file.

    Returns:
        `dict[str, Any]`: a TorchScript archive as its parameters and buffers by dotted name; anything else as it was
        saved. Tensors are on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is none of these, or holds no dictionary.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"The weight file {str(path)!r} {what}: give the path of a file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = _read(path)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(
            f"The weight file {str(path)!r} cannot be read as weights ({reason[:120].rstrip('.')}): give a file of "
            "torch.save, a TorchScript archive or a safetensors file."
        ) from error
    if isinstance(content, _Record):
        return _named_tensors(content)
    if not isinstance(content, dict):
        raise ValueError(f"The weight file {str(path)!r} holds a {type(content).__name__}, not a state dict.")
    return content


def _read(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        return torch.load(path, map_location="cpu", weights_only=True)  # the form before torch 1.6
    with zipfile.ZipFile(path) as archive:
        is_torchscript = any(name.endswith(f"/{_TORCHSCRIPT_MARK}") for name in archive.namelist())
        if is_torchscript:
            with tempfile.TemporaryFile() as weights:
                _copy_weights(archive, weights)
                return _load_inert(weights)
    with path.open("rb") as file:
        return _load_inert(file)


def _copy_weights(archive: zipfile.ZipFile, target: BinaryIO) -> None:
    """Copies the records of a TorchScript archive without its code, so that torch takes it for a state dict."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as copy:
        for name in archive.namelist():
            if not name.partition("/")[2].startswith(_CODE):
                copy.writestr(name, archive.read(name))
    target.seek(0)


def _load_inert(file: BinaryIO) -> Any:
    unknown: list[Any] = []
    for name in get_unsafe_globals_in_checkpoint(file):
        unknown.append((_empty_dict if name == "collections.defaultdict" else _Record, name))
    file.seek(0)
    with safe_globals(unknown):
        return torch.load(file, map_location="cpu", weights_only=True)


def _named_tensors(value: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    tensors: dict[str, torch.Tensor] = {}
    for name, child in vars(value).items() if isinstance(value, _Record) else ():
        tensors.update(_named_tensors(child, f"{prefix}.{name}" if prefix else str(name)))
    return tensors


__all__ = ["read_weights"]
