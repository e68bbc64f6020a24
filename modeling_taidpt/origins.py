"""Where the parts of a model come from: its own folder or repository, and that of its CLIP.

Tokenizer, image processor, word counts, card and code are read from where the weights came from: the same commit, the
same folder inside the repository, the same cache, with the same token.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils import CONFIG_NAME, cached_file
from transformers.utils.hub import extract_commit_hash

from .tokenization_taidpt import ASSETS

HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
KEPT_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "subfolder")  # for what is read later
WHEREVER = ("token", "cache_dir", "local_files_only")  # those that hold for other repositories, too
SHIPPED_BASES = ("taidpt-coco80",)  # they come with the package


@dataclass(frozen=True)
class Origin:
    """A folder or Hub repository, and what it takes to read there.

    Args:
        name (`str`): folder, repository, or name of a base that ships with the package.
        arguments (`Mapping[str, Any]`): `revision`, `subfolder`, `token`, `cache_dir`, `local_files_only`.
        runs_code (`bool`): whether the code that runs now comes from there: nobody has to be asked again.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)  # with a token
    runs_code: bool = False

    def find(self, file_name: str) -> str | None:
        """Path of a file there, `None` where it is not to be had."""
        try:
            return cached_file(
                resolve_source(self.name),
                file_name,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                **self.arguments,
            )
        except OSError:
            return None

    def load(self, auto_class: Any) -> Any:
        """What an auto class makes of the files there; code of a repository is not run, and nobody is asked."""
        # without a word transformers would ask on the terminal, and wait
        return auto_class.from_pretrained(
            resolve_source(self.name), trust_remote_code=self.runs_code, **self.arguments
        )


def is_remote_code() -> bool:
    """Whether this package runs as code of a Hub repository, not installed."""
    return __name__.startswith("transformers_modules")


def own_origin(config: Any) -> Origin | None:
    """Where a model was loaded from; `None` of one that was made in this process."""
    if not config._name_or_path:
        return None
    return Origin(config._name_or_path, getattr(config, "_hub_arguments", {}), is_remote_code())


def base_origin(config: Any) -> Origin | None:
    """Where the CLIP of a model came from, if that has a name."""
    if not config.base_model_name_or_path:
        return None
    arguments = getattr(config, "_hub_arguments", {})
    if config._name_or_path:  # they are those of the prompts' own repository
        arguments = {key: value for key, value in arguments.items() if key in WHEREVER}
    if config.base_model_revision and not os.path.isdir(resolve_source(config.base_model_name_or_path)):
        arguments = {**arguments, "revision": config.base_model_revision}
    return Origin(config.base_model_name_or_path, arguments)


def origins(config: Any) -> list[Origin]:
    """Where files of a model are looked for, in this order."""
    return [origin for origin in (own_origin(config), base_origin(config)) if origin is not None]


def keep_origin(config: Any, arguments: Mapping[str, Any]) -> None:
    """Notes on a configuration, for this process alone, how the files beside its weights are read."""
    config._hub_arguments = {key: arguments[key] for key in KEPT_ARGUMENTS if arguments.get(key) is not None}


def pinned(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments whose revision is the commit that it names now, so that all files are of one state.

    Args:
        name (`str`): folder or repository.
        arguments (`Mapping[str, Any]`): as of `from_pretrained`.

    Returns:
        `dict[str, Any]`: of a folder as they are.

    Raises:
        OSError: the repository or its configuration cannot be read.
    """
    commit = find_commit(name, **{key: value for key, value in arguments.items() if key in HUB_ARGUMENTS})
    return {**arguments, "revision": commit} if commit else dict(arguments)


def find_commit(name: str, **arguments: Any) -> str | None:
    """The commit that a revision of a Hub repository names; `None` for a folder."""
    name = resolve_source(name)
    if os.path.isdir(name):
        return None
    return extract_commit_hash(cached_file(name, CONFIG_NAME, **arguments), None)


def resolve_source(name_or_path: str) -> str:
    """The folder of a base that ships with the package, by its name; anything else as it is."""
    shipped = ASSETS / name_or_path
    if os.path.isdir(name_or_path) or name_or_path not in SHIPPED_BASES or not (shipped / CONFIG_NAME).is_file():
        return name_or_path
    return str(shipped)


def portable_source(name_or_path: str | None) -> str | None:
    """What a checkpoint says of its base: one of the package by its name, another folder by its full path."""
    if not name_or_path or not os.path.isdir(name_or_path):
        return name_or_path or None
    folder = Path(name_or_path).resolve()
    return folder.name if folder.parent == ASSETS.resolve() else str(folder)


__all__ = [
    "HUB_ARGUMENTS",
    "SHIPPED_BASES",
    "Origin",
    "base_origin",
    "find_commit",
    "is_remote_code",
    "keep_origin",
    "origins",
    "own_origin",
    "pinned",
    "portable_source",
    "resolve_source",
]
