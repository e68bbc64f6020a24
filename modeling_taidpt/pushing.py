"""Pushing a folder to the Hub: whole or not at all, and no repository is left that holds nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers.utils import CONFIG_NAME

from .atomic import scratch_folder
from .configuration_checks import check_word_counts
from .hub_errors import PlainError, explain
from .model_card import CARD_NAME, EXAMPLE_NAME, REPORT_NAME, add_tags, has_edited_card
from .onnx_graphs import GRAPH_FILE

PUSH_OPTIONS = ("commit_message", "commit_description", "private", "token", "revision", "create_pr")
WEIGHT_PATTERNS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
# Beside the weights: with other weights they would be of another model, and prompts alone take the base's.
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("vocab.json", "merges.txt", "added_tokens.json"),
)
COMPANIONS = (*WEIGHT_PATTERNS, *TOKENIZER, REPORT_NAME, GRAPH_FILE)


@dataclass
class Target:
    """A repository that is pushed to.

    Args:
        api (`HfApi`): with the token of who pushes.
        name (`str`): with its owner.
        created (`bool`): whether it was made for this push.
    """

    api: HfApi
    name: str
    created: bool


@contextlib.contextmanager
def pushing(
    repo_id: str, private: bool | None = None, token: str | bool | None = None, revision: str | None = None
) -> Iterator[Target]:
    """A repository to push to; what goes wrong is one sentence, and a repository made in vain is deleted again.

    Args:
        repo_id (`str`): made if it does not exist.
        private (`bool`, *optional*): whether one that is made is private; one that exists has to be so, too.
        token (`str` or `bool`, *optional*): of who pushes; the stored one by default.
        revision (`str`, *optional*): branch, made if it does not exist.

    Yields:
        [`Target`].

    Raises:
        OSError: the Hub cannot be reached, refuses, or stops in the middle.
        OSError: also where a repository that exists is public and `private` is asked for, or the other way round.
    """
    target = None
    try:
        target = _open_repository(HfApi(token=token), repo_id, private)
        if revision is not None and not revision.startswith("refs/pr"):
            target.api.create_branch(target.name, branch=revision, exist_ok=True)
        yield target
    except BaseException as error:
        if target is not None and target.created:
            with contextlib.suppress(Exception):
                target.api.delete_repo(target.name)
        if isinstance(error, PlainError) or not isinstance(error, Exception):
            raise
        # the client raises RuntimeError, ValueError, OSError and its own errors, by what broke where
        reason = explain(repo_id, error, revision, writing=True)
        raise PlainError(f"Nothing was pushed to {repo_id!r}: {reason}") from error


def check_target(repo_id: str, private: bool | None = None, token: str | bool | None = None) -> str:
    """Finds out, before there is anything to push, whether it can be pushed; nothing is made.

    Args:
        repo_id (`str`): repository; without an owner it is one of who pushes.
        private (`bool`, *optional*): as of [`pushing`].
        token (`str` or `bool`, *optional*): as of [`pushing`].

    Returns:
        `str`: the repository with its owner.

    Raises:
        OSError: the Hub cannot be reached, the token is none that it knows, or the repository is not private as asked.
    """
    api = HfApi(token=token)
    try:
        user = api.whoami()["name"]
        name = repo_id if "/" in repo_id else f"{user}/{repo_id}"
        if api.repo_exists(name):
            _check_privacy(api, name, private)
        return name
    except PlainError:
        raise
    except Exception as error:
        raise PlainError(f"Nothing can be pushed to {repo_id!r}: {explain(repo_id, error, None, True)}") from error


def _check_privacy(api: HfApi, name: str, private: bool | None) -> None:
    if private is not None and bool(api.model_info(name).private) is not private:
        is_there, asked = ("public", "private") if private else ("private", "public")
        raise PlainError(
            f"Nothing was pushed to {name!r}: the repository is {is_there} and {asked} was asked for, which holds for "
            "one that is made; change it in its settings, or push elsewhere."
        )


def _open_repository(api: HfApi, repo_id: str, private: bool | None) -> Target:
    try:
        return Target(api, api.create_repo(repo_id, private=private, exist_ok=False).repo_id, True)
    except HfHubHTTPError as error:
        if error.response.status_code not in (403, 409):  # it exists, or may and cannot be made by this user
            raise
    name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    _check_privacy(api, name, private)
    return Target(api, name, False)


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: list[str] | None = None,
) -> CommitInfo:
    """Pushes a saved model to a Hub repository in one commit; files of an older model are deleted there.

    Args:
        folder (`Path`): the saved model, and nothing else.
        repo_id (`str`): repository, made if it does not exist.
        commit_message (`str`, *optional*): title of the commit.
        commit_description (`str`, *optional*): its text.
        private (`bool`, *optional*): whether a repository that is made here is private.
        token (`str` or `bool`, *optional*): of who pushes; the stored one by default.
        revision (`str`, *optional*): branch, made if it does not exist.
        create_pr (`bool`, *optional*, defaults to `False`): proposes the commit instead of making it.
        tags (`list[str]`, *optional*): further tags of the card.

    Returns:
        `CommitInfo`: of the commit.

    Raises:
        OSError: the Hub cannot be reached, refuses or stops in the middle, or the repository is not private as asked;
            one sentence.
    """
    with pushing(repo_id, private, token, revision) as target:
        api, name = target.api, target.name
        keeps_card = _edited_on_the_hub(api, name, revision)
        if tags and not keeps_card:
            add_tags(folder, tags)
        obsolete = [*_word_counts_there(api, name, revision), *([] if keeps_card else [EXAMPLE_NAME])]
        return api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message=commit_message or "Upload model",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
            ignore_patterns=[CARD_NAME] if keeps_card else None,
            delete_patterns=[*COMPANIONS, *obsolete],
        )


def _edited_on_the_hub(api: HfApi, repo_id: str, revision: str | None) -> bool:
    if not api.file_exists(repo_id, CARD_NAME, revision=revision):
        return False
    with scratch_folder() as folder:
        api.hf_hub_download(repo_id, CARD_NAME, revision=revision, local_dir=folder)
        return has_edited_card(folder)


def _word_counts_there(api: HfApi, repo_id: str, revision: str | None) -> list[str]:
    """The name of the word counts that the model in a repository has."""
    if not api.file_exists(repo_id, CONFIG_NAME, revision=revision):
        return []
    with scratch_folder() as folder:
        path = api.hf_hub_download(repo_id, CONFIG_NAME, revision=revision, local_dir=folder)
        try:
            name = json.loads(Path(path).read_text(encoding="utf-8"))["word_counts"]
            check_word_counts(name)
        except (ValueError, LookupError, TypeError, RecursionError):
            return []
    return [] if name is None else [name]


__all__ = ["PUSH_OPTIONS", "TOKENIZER", "Target", "check_target", "push_folder", "pushing"]
