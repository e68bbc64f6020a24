"""Published weight files, read without running anything that is written in them.

Three forms are met: `torch.save` of a state dict, the same beside an optimizer and a learning rate schedule (whose
objects `weights_only` refuses), and TorchScript archives such as OpenAI's. All go through torch's restricted
unpickler; every class in the file that it does not know becomes an inert record of its attributes. A file takes no
more memory than it has bytes: packed records and tensors larger than what they are made of are refused first.
"""

from __future__ import annotations

import pickletools
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from ..configuration_checks import one_line

_TORCHSCRIPT_MARK = "constants.pkl"
_CODE = ("code/", "constants", "extra/", "debug_pkl")  # records of a TorchScript archive that are not weights
_MAX_RECORD = 64_000_000  # bytes, unpacked, of a packed record: code and the names of weights are, weights are not
_MAX_RECORDS = 100_000
_MAX_OPCODES = 2_000_000  # of all pickles of a file; each may make an object, and a large CLIP has some ten thousand
_MAKES_BYTES = ("builtins bytearray", "__builtin__ bytearray")  # of any length, out of a number
_LEGACY_PICKLES = 5  # in a file of torch before 1.6: mark, version, machine, content, names of storages


class _Record:
    """Stands for an object of any class: it keeps the attributes and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """An empty record, whatever the class was to be built with."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Keep the attributes of an object that has them by name."""
        if isinstance(state, dict):
            self.__dict__.update({str(name): value for name, value in state.items()})


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
        FileNotFoundError: there is no such file.
        ValueError: the file is none of these, would take more memory than it has bytes, or holds no dictionary.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not a file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"The weight file {str(path)!r} {what}: give the path of a file.")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _read(path)
        if isinstance(content, _Record):
            content = _named_tensors(content)
        if isinstance(content, dict):
            _check_tensors(content, path.stat().st_size + _MAX_RECORD)
    except PermissionError:
        raise
    except Exception as error:  # the unpickler stumbles over damaged files in every way that there is
        reason = one_line(error).removesuffix(".")
        raise ValueError(
            f"The weight file {str(path)!r} cannot be read as weights ({reason[:160]}): give a file of torch.save, a "
            "TorchScript archive or a safetensors file."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"The weight file {str(path)!r} holds a {type(content).__name__}, not a state dict.")
    return content


def state_dict_of(content: dict[str, Any], source: str | Path) -> dict[str, torch.Tensor]:
    """The tensors in what a weight file holds, by their names.

    Args:
        content (`dict`): of [`read_weights`]; a state dict, or one that has it as `state_dict`.
        source (`str` or `Path`): the file, for the error.

    Returns:
        `dict[str, torch.Tensor]`: without `module.` at the front of the names.

    Raises:
        ValueError: there are none.
    """
    state = content.get("state_dict", content)
    named = state.items() if isinstance(state, dict) else ()
    tensors = {str(name).removeprefix("module."): value for name, value in named if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ValueError(f"The weight file {str(source)!r} holds no tensors with names: it is not a state dict.")
    return tensors


def _read(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        if tarfile.is_tarfile(path):
            raise ValueError("it is a tar archive, the form of torch before 0.4")
        with path.open("rb") as file:
            _check_pickles(file)
            file.seek(0)
            return _load_inert(file)  # the form before torch 1.6
    with zipfile.ZipFile(path) as archive:
        _check_records(archive)
        is_torchscript = any(name.endswith(f"/{_TORCHSCRIPT_MARK}") for name in archive.namelist())
        if is_torchscript:
            with tempfile.TemporaryFile() as weights:
                _copy_weights(archive, weights)
                return _load_inert(weights)
    with path.open("rb") as file:
        return _load_inert(file)


def _check_records(archive: zipfile.ZipFile) -> None:
    """Raises a `ValueError` where records of an archive unpack to more than they should."""
    records = archive.infolist()
    if len(records) > _MAX_RECORDS:
        raise ValueError(f"it has {len(records)} records, at most {_MAX_RECORDS} are read")
    if sum(record.compress_size for record in records) > Path(str(archive.filename)).stat().st_size:
        raise ValueError("its records overlap")
    packed = [record for record in records if record.file_size > record.compress_size]
    if sum(record.file_size for record in packed) > _MAX_RECORD:
        raise ValueError(f"its packed records are larger than {_MAX_RECORD:,} bytes, which weights never are")
    pickles = [record for record in records if record.filename.endswith(".pkl")]
    if any(record.file_size > _MAX_RECORD for record in pickles):
        raise ValueError(f"its names of weights are larger than {_MAX_RECORD:,} bytes")
    left = _MAX_OPCODES
    for record in pickles:
        with archive.open(record) as file:
            left = _check_opcodes(file, left)


def _check_pickles(file: BinaryIO) -> None:
    left = _MAX_OPCODES
    for _ in range(_LEGACY_PICKLES):
        left = _check_opcodes(file, left)


def _check_opcodes(file: Any, most: int) -> int:
    """Raises a `ValueError` where a pickle makes much out of little; else returns how many opcodes are left."""
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(file):
        most -= 1
        if most < 0:
            raise ValueError(f"its names of weights are made in more than {_MAX_OPCODES:,} steps")
        if isinstance(argument, str):
            strings = [*strings[-1:], argument]
        name = argument if opcode.name == "GLOBAL" else " ".join(strings) if opcode.name == "STACK_GLOBAL" else ""
        if name in _MAKES_BYTES:
            raise ValueError("it makes a bytearray, which weights never hold")
    return most


def _copy_weights(archive: zipfile.ZipFile, target: BinaryIO) -> None:
    """Copies the records of a TorchScript archive without its code, so that torch takes it for a state dict."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as copy:
        for name in archive.namelist():
            if not name.partition("/")[2].startswith(_CODE):
                with archive.open(name) as record, copy.open(name, "w", force_zip64=True) as into:
                    shutil.copyfileobj(record, into, 1 << 20)
    target.seek(0)


def _load_inert(file: BinaryIO) -> Any:
    unknown: list[Any] = []
    if zipfile.is_zipfile(file):
        file.seek(0)
        for name in get_unsafe_globals_in_checkpoint(file):
            unknown.append((_empty_dict if name == "collections.defaultdict" else _Record, name))
    file.seek(0)
    with safe_globals(unknown):
        return torch.load(file, map_location="cpu", weights_only=True)


def _named_tensors(record: _Record) -> dict[str, torch.Tensor]:
    """Tensors among the attributes of records in records, by dotted names; each record is visited once."""
    tensors: dict[str, torch.Tensor] = {}
    waiting: list[tuple[str, Any]] = [("", record)]
    seen: set[int] = set()
    while waiting:
        prefix, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            tensors[prefix] = value
        elif isinstance(value, _Record) and id(value) not in seen:
            seen.add(id(value))
            waiting += [(f"{prefix}.{name}" if prefix else name, child) for name, child in vars(value).items()]
    return tensors


def _check_tensors(content: dict[Any, Any], most: int) -> None:
    """Raises a `ValueError` where tensors are not of plain numbers, or larger than their storage or the file."""
    storages: dict[int, int] = {}  # bytes by address; none of them is touched yet
    for name, tensor in _tensors_in(content, 0):
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise ValueError(f"the tensor {str(name)[:80]!r} is not one of plain numbers")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"the tensor {str(name)[:80]!r} is larger than what is stored of it")
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        if sum(storages.values()) > most:
            raise ValueError(f"the tensor {str(name)[:80]!r} is larger than the file")


def _tensors_in(content: dict[Any, Any], depth: int) -> Iterator[tuple[Any, torch.Tensor]]:
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, dict) and depth < 3:
            yield from _tensors_in(value, depth + 1)


__all__ = ["read_weights", "state_dict_of"]
