"""What went wrong with a folder or a Hub repository, in one sentence."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session, validate_repo_id
from safetensors import SafetensorError
from transformers.utils import CONFIG_NAME

ANSWER_TIMEOUT = 5.0  # seconds


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
    if os.path.isdir(name):
        return f"The folder {name!r} holds no whole model: {_one_line(error)}."
    if caused_by(GatedRepoError):
        return f"The repository {name!r} is gated: ask for access on its page and pass `token=`."
    if caused_by(RevisionNotFoundError):
        return f"The repository {name!r} has no revision {revision!r}: give a branch, tag or commit of it."
    if caused_by(RepositoryNotFoundError):
        return (
            f"There is no repository {name!r} on {constants.ENDPOINT} that this user may read: check the name, and "
            "for a private one log in with `hf auth login` or pass `token=`."
        )
    if caused_by(HFValidationError) or name.startswith((".", os.sep, "~")):
        return f"{name!r} is neither a folder nor the name of a repository, as 'org/model': check the path."
    unanswered = caused_by(HTTPError) and not caused_by(HfHubHTTPError)  # whichever client the Hub's library has
    if unanswered or caused_by(LocalEntryNotFoundError, OfflineModeIsEnabled):
        return _no_connection(None if writing else name)
    if caused_by(HfHubHTTPError):
        response = next(cause.response for cause in causes if isinstance(cause, HfHubHTTPError))
        if response.status_code in (401, 403):
            return (
                f"{constants.ENDPOINT} refuses this user for {name!r}: log in with `hf auth login`, or pass a "
                "`token=` that may do this."
            )
    return _one_line(error) + "."


def require_answer(name: str) -> None:
    """Says at once that a repository cannot be had: the Hub's library tries for half a minute.

    Args:
        name (`str`): folder or repository; it is looked for in the cache at its usual place.

    Raises:
        OSError: it is not in the cache, and the Hub gives no answer or HF_HUB_OFFLINE is set; one sentence.
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        return  # no repository; reading it says what it is
    if os.path.exists(name) or isinstance(try_to_load_from_cache(name, CONFIG_NAME), str):
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=ANSWER_TIMEOUT)
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise PlainError(_no_connection(name)) from error


def _no_connection(wanted: str | None) -> str:
    """That the Hub cannot be reached, and what was wanted of it if not to write there."""
    absent = f"{wanted!r} is not in the cache and " if wanted else ""
    if constants.is_offline_mode():
        return f"{absent}{constants.ENDPOINT} cannot be reached while HF_HUB_OFFLINE is set: unset it to use the Hub."
    return f"{absent}{constants.ENDPOINT} cannot be reached: check the network connection."


@contextlib.contextmanager
def plain_errors(name: str, revision: str | None = None) -> Iterator[None]:
    """Turns the errors of reading a folder or repository into one sentence each.

    Args:
        name (`str`): folder or repository.
        revision (`str`, *optional*): the revision that is asked for.

    Raises:
        OSError: the repository, revision or a file of it cannot be read.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if type(error) is PlainError:
            raise
        raise PlainError(explain(name, error, revision)) from error


class PlainError(OSError):
    """An `OSError` whose message is one sentence for the user."""


def _causes(error: BaseException | None) -> list[BaseException]:
    """An error, what it was raised from, and so on."""
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


__all__ = ["PlainError", "explain", "plain_errors", "require_answer"]
