"""What went wrong with a folder or a Hub repository, in one sentence."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session, validate_repo_id
from safetensors import SafetensorError
from transformers.utils import CONFIG_NAME, logging

logger = logging.get_logger(__name__)

ANSWER_TIMEOUT = 5.0  # seconds
MOST_NAMES = 5  # of a folder, in a message
LONGEST = 400  # characters of a message that is handed on
# Request ids and addresses in the Hub's messages, which say nothing to who reads them.
NOISE = re.compile(
    r"\(Request ID: [^)]*\)|\bfor url:? '?\S+|(?:For more information|See|Visit)[^.]*https?://\S+|https?://\S+"
)


class PlainError(OSError):
    """An `OSError` whose message is one sentence for the user."""


class UnusableError(ValueError):
    """A `ValueError` about a checkpoint whose message is one sentence for the user."""


def explain(name: str, error: BaseException, revision: str | None = None, writing: bool = False) -> str:
    """One sentence for an error of reading or writing a repository.

    Args:
        name (`str`): folder or repository.
        error (`BaseException`): what transformers or huggingface_hub raised.
        revision (`str`, *optional*): the revision that was asked for.
        writing (`bool`, *optional*, defaults to `False`): whether something was to be written there.

    Returns:
        `str`: what was wrong and what to do.
    """
    causes = _causes(error)

    def caused_by(*types: type[BaseException]) -> bool:
        return any(isinstance(cause, types) for cause in causes)

    if caused_by(SafetensorError):
        return f"A weight file of {name!r} is broken or cut off ({_one_line(error)}): fetch or save it again."
    if os.path.isdir(name) and not writing:
        return f"The folder {name!r} holds no whole model: {_one_line(error)}."
    if caused_by(LocalTokenNotFoundError):
        return f"{constants.ENDPOINT} wants to know who you are: log in with `hf auth login`, or pass a `token=`."
    if caused_by(GatedRepoError):
        return f"The repository {name!r} is gated: ask for access on its page and pass `token=`."
    if caused_by(RevisionNotFoundError):
        return f"The repository {name!r} has no revision {revision!r}: give a branch, tag or commit of it."
    if caused_by(RepositoryNotFoundError) and not writing:
        return (
            f"There is no repository {name!r} on {constants.ENDPOINT} that this user may read, and no folder of that "
            "name here: check the name, and for a private one log in with `hf auth login` or pass `token=`."
        )
    if caused_by(HFValidationError) or name.startswith((".", os.sep, "~")):
        return f"{name!r} is neither a folder nor the name of a repository, as 'org/model': check the path."
    answers = [cause.response.status_code for cause in causes if isinstance(cause, HfHubHTTPError)]
    if answers:
        return _explain_status(name, answers[0], causes, writing)
    if caused_by(HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled):  # whichever client the Hub's library has
        return _no_connection(None if writing else name)
    return _one_line(error) + "."


def _explain_status(name: str, status: int, causes: list[BaseException], writing: bool) -> str:
    """One sentence for an answer of the Hub that is an error."""
    if status in (401, 403) or (writing and status == 404):
        return (
            f"{constants.ENDPOINT} refuses this user for {name!r}: log in with `hf auth login`, or pass a `token=` "
            "that may do this."
        )
    known = status in HTTPStatus._value2member_map_
    meaning = f"{status} {HTTPStatus(status).phrase}" if known else str(status)
    if status == 429:
        return f"{constants.ENDPOINT} takes no more requests from here for now ({meaning}): wait some minutes."
    if status >= 500:
        return f"{constants.ENDPOINT} answers, but with an internal error ({meaning}): try again later."
    said = next((_one_line(cause) for cause in causes if isinstance(cause, HfHubHTTPError)), "")
    return f"{constants.ENDPOINT} does not do this for {name!r} ({meaning}): {said}."


def prefer_cache(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that read the cache alone where the Hub gives no answer: its library tries half a minute per file.

    Args:
        arguments (`Mapping[str, Any]`): as of `from_pretrained`.

    Returns:
        `dict[str, Any]`: with `local_files_only=True` if the Hub does not answer.
    """
    if arguments.get("local_files_only") or constants.is_offline_mode() or answers():
        return dict(arguments)
    logger.warning(f"{constants.ENDPOINT} gives no answer: what is in the cache is used.")
    return {**arguments, "local_files_only": True}


def answers() -> bool:
    """Whether the Hub answers within some seconds, and not with an internal error."""
    try:
        return get_session().head(constants.ENDPOINT, timeout=ANSWER_TIMEOUT).status_code < 500
    except (HTTPError, OSError):
        return False


def require_answer(name: str) -> None:
    """Says at once that a repository cannot be had, or that only its cache is: the Hub's library tries for minutes.

    Args:
        name (`str`): folder or repository; it is looked for in the cache at its usual place.

    Raises:
        OSError: it is not in the cache, and the Hub gives no answer or HF_HUB_OFFLINE is set; one sentence.
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        return  # not a repository; reading it says what it is
    if os.path.exists(name) or (not constants.is_offline_mode() and answers()):
        return
    if not isinstance(try_to_load_from_cache(name, CONFIG_NAME), str):
        raise PlainError(_no_connection(name))
    if not constants.is_offline_mode():
        logger.warning(f"{constants.ENDPOINT} gives no answer: what is in the cache is used.")
        constants.HF_HUB_OFFLINE = True  # for this process, which a command owns: nothing is tried in vain


def _no_connection(wanted: str | None) -> str:
    """That the Hub cannot be reached, and what was wanted of it if not to write there."""
    absent = f"There is no folder {wanted!r} here{_beside(wanted)}, it is not in the cache, and " if wanted else ""
    if constants.is_offline_mode():
        closed = "cannot be reached while HF_HUB_OFFLINE is set"
        return (
            f"{absent}{constants.ENDPOINT} {closed}: {'check the path, or ' if wanted else ''}unset it to use the Hub."
        )
    check = "check the path or, for a repository, the network connection" if wanted else "check the network connection"
    return f"{absent}{constants.ENDPOINT} cannot be reached: {check}."


def _beside(path: str) -> str:
    """What the folder holds in which something was looked for in vain, where that folder is there."""
    folder = os.path.dirname(path)
    if not folder or not os.path.isdir(folder):
        return ""
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    held = ", ".join(map(repr, names[:MOST_NAMES])) + (", ..." if names[MOST_NAMES:] else "")
    return f" ({folder!r} holds {held or 'no folders'})"


@contextlib.contextmanager
def plain_errors(name: str, revision: str | None = None) -> Iterator[None]:
    """Turns the errors of reading a folder or repository into one sentence each.

    Args:
        name (`str`): folder or repository.
        revision (`str`, *optional*): the revision that is asked for.

    Raises:
        OSError: the repository, revision or a file of it cannot be read.
        ValueError: a file of it is damaged, or holds what no model has.
    """
    try:
        yield
    except (PlainError, UnusableError, MemoryError, torch.OutOfMemoryError):  # the checkpoint may be whole
        raise
    except (OSError, SafetensorError, HFValidationError) as error:
        raise PlainError(explain(name, error, revision)) from error
    except (ValueError, TypeError, ImportError) as error:
        if "\n" not in str(error) and len(str(error)) <= LONGEST:  # ours, and what says enough
            raise
        raise UnusableError(_unusable(name, error)) from error
    except Exception as error:  # whatever transformers stumbles over in a file that is not what it should be
        raise UnusableError(_unusable(name, error)) from error


def _unusable(name: str, error: BaseException) -> str:
    return (
        f"The checkpoint {name!r} cannot be loaded ({type(error).__name__}: {_one_line(error)}): if a file of it is "
        "damaged, fetch or save it again."
    )


def _causes(error: BaseException | None) -> list[BaseException]:
    """An error, what it was raised from, and so on."""
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def _one_line(error: BaseException) -> str:
    text = " ".join(NOISE.sub("", str(error)).split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return text.rstrip(". ") or type(error).__name__


__all__ = ["PlainError", "UnusableError", "explain", "plain_errors", "prefer_cache", "require_answer"]
