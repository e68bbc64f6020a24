"""A Hub that refuses, stops in the middle or is gone: one sentence each, and nothing half is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .hub_server import TOKEN, HubServer
from .test_hub import assert_one_sentence

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with HubServer().running() as server:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
        environment |= {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "LOOPBACK_TOKEN": TOKEN}
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, str(ROOT / "tests" / "hub" / "faulty_client.py"), str(home / "found.json")]
        done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-5000:]
    return json.loads((home / "found.json").read_text())


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("storage", "500 Internal Server Error"),
        ("refused storage", "413"),
        ("commit", "503 Service Unavailable"),
        ("preupload", "502 Bad Gateway"),
        ("full", "507"),
        ("many", "429"),
    ],
)
def test_a_push_that_fails_leaves_no_empty_repository(found, what, said):
    assert_one_sentence(found["vain"][what], "Nothing was pushed to 'org/vain'", said)
    assert "Request ID" not in found["vain"][what] and "/lfs/" not in found["vain"][what]
    assert found["vain"][f"{what} left"] is False


def test_a_training_that_cannot_be_pushed_says_so_before_it_starts_or_in_one_sentence(found):
    assert_one_sentence(found["vain"]["trained"], "Nothing was pushed to 'org/trained'", "500")
    assert found["vain"]["trained left"] is False
    assert_one_sentence(found["vain"]["wrong token"], "Nothing can be pushed", "refuses this user")
    assert found["vain"]["own token"] == "no error"


def test_a_private_push_is_never_public(found):
    privacy = found["privacy"]
    assert_one_sentence(privacy["private onto public"], "the repository is public and private was asked for")
    assert_one_sentence(privacy["public onto private"], "the repository is private and public was asked for")
    assert privacy["still private"] is True and privacy["token is nowhere"] is True


def test_prompts_pushed_onto_a_whole_checkpoint_leave_nothing_of_it(found):
    files = set(found["privacy"]["prompts files"])
    assert {"model.safetensors", "config.json", "README.md"} < files
    assert not files & {"tokenizer.json", "tokenizer_config.json"}


def test_folders_of_this_machine_are_not_published(found):
    assert_one_sentence(found["privacy"]["prompts on a folder"], "is a folder of this machine")
    assert found["privacy"]["base of another machine"] is None


@pytest.mark.parametrize("status", ["500", "429", "503"])
def test_a_hub_that_answers_with_an_error_is_not_called_unreachable(found, status):
    assert_one_sentence(found["read"][status], status)
    assert "cannot be reached" not in found["read"][status]


def test_a_mistyped_folder_is_said_to_be_absent(found):
    assert_one_sentence(found["read"]["typo"], "no folder of that name here")


def test_the_command_ends_in_a_sentence_and_code_2(found):
    for name, said in (
        ("cut", "Nothing was pushed to 'org/cut'"),
        ("cut json", "Nothing was pushed to 'org/cut'"),
        ("private", "is public and private was asked for"),
        ("typo", "is neither a folder nor the name of a repository"),
        ("typo name", "no folder of that name here"),
    ):
        code, output = found["commands"][name]
        assert code == 2 and output.count("\n") == 1 and said in output, (name, output)


def test_a_hub_that_is_down_costs_seconds(found):
    assert found["down"]["labels"] == ["dog", "traffic light", "cat"]
    assert found["down"]["seconds"] < 20
