"""Processes that are killed while they push to a Hub on loopback, over an older model or into a new repository.

The Hub makes a commit whole or not at all; what is asked here is that nobody needs more than the one that failed: no
half commit, no model left among the temporary files, and the same push goes through afterwards. A repository that was
made for a push that is killed stays, empty: nobody is left to delete it.
"""

from __future__ import annotations

import signal

import pytest

from ..hub.hub_server import HubServer, Repository
from .conftest import pick
from .killing import run

pytestmark = pytest.mark.slow
OLD = {".gitattributes": b"*.safetensors filter=lfs\n", "vocab.json": b"{}", "mine.txt": b"kept"}
NEW = {".gitattributes": OLD[".gitattributes"]}


def start_over(server: HubServer, number: int) -> None:
    """The repository as it was before: with files of an older model and others, or, for odd numbers, none."""
    server.repositories.clear()
    server.objects.clear()
    if number % 2 == 0:
        server.repositories["org/tagger"] = Repository()
        server.repositories["org/tagger"].commit("main", OLD, "older")


def pushed(server: HubServer) -> dict[str, bytes] | None:
    repository = server.repositories.get("org/tagger")
    return None if repository is None else repository.commits[repository.branches["main"]]


def test_a_killed_push_leaves_no_half_commit_and_nothing_among_temporary_files(base, tmp_path, generator, count):
    with HubServer().running() as server:

        def attempt(number: int, **point):
            folder = tmp_path / str(number) / "out"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "hub").write_text(server.url)
            return folder, run("push", base, folder, **point)

        expected, seconds, events = {}, 0.0, 0
        for number in (0, 1):
            start_over(server, number)
            folder, whole = attempt(1000 + number)
            assert whole.code == 0 and whole.events > 0
            assert [path.name for path in folder.iterdir()] == ["hub"]
            expected[number], seconds, events = pushed(server), whole.seconds, whole.events
        assert expected[0] == expected[1] | {"mine.txt": b"kept"}
        points = [{"after": generator.uniform(0, seconds)} for _ in range(pick(3, 20))]
        points += [{"at_event": generator.randint(1, events)} for _ in range(pick(1, 10))]
        for number, point in enumerate(points):
            start_over(server, number)
            killed = attempt(number, **point)[1]
            assert killed.code in (-signal.SIGKILL, 0)
            assert pushed(server) in ((OLD, expected[0]) if number % 2 == 0 else (None, NEW, expected[1])), point
            folder, again = attempt(number)
            assert again.code == 0, f"push does not go on after {point}"
            assert pushed(server) == expected[number % 2], point
            assert [path.name for path in folder.iterdir()] == ["hub"], point
            count("kills of push" if killed.code else "runs of push that ended before they were killed")
