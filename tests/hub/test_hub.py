"""Push and pull against a Hub on loopback: with the package, without it, and without network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from .hub_server import TOKEN, HubServer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server():
    with HubServer().running() as server:
        yield server


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a step of `hub_client.py` in a fresh interpreter and returns what it found."""
    out = tmp_path_factory.mktemp("found")

    def run(step: str, home: Path, url: str, **more: str) -> dict:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
        environment |= {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "LOOPBACK_TOKEN": TOKEN}
        environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        environment |= more
        command = [sys.executable, str(ROOT / "tests" / "hub" / "hub_client.py"), step, str(out / f"{step}.json")]
        done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-5000:]
        return json.loads((out / f"{step}.json").read_text())

    return run


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def pushed(run, server, home):
    return run("push", home, server.url)


@pytest.fixture(scope="module")
def remote(run, server, pushed, tmp_path_factory):
    return run("remote", tmp_path_factory.mktemp("clean"), server.url)


def assert_same_scores(found, expected, tolerance=1e-5):
    assert [entry["label"] for entry in found] == [entry["label"] for entry in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert abs(ours["score"] - theirs["score"]) < tolerance


def assert_one_sentence(message: str, *parts: str):
    assert "\n" not in message and message.endswith(".")
    for part in parts:
        assert part in message


def test_a_pushed_model_is_a_pipeline_s_repository_that_needs_no_flag(pushed):
    assert_same_scores(pushed["pulled"], pushed["expected"])
    files = set(pushed["files"])
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json", "README.md"} < files
    assert {"modeling_taidpt.py", "multi_label_image_classification.py", "handler.py"} < files
    assert not [name for name in files if "/" in name or name.startswith(".saving")]
    assert pushed["title"] == "A tagger"


def test_the_card_of_a_model_that_was_never_evaluated_says_so(pushed):
    card = ModelCard(pushed["card"])
    assert "**This model was never evaluated**" in card.content
    assert card.data.eval_results is None
    assert card.data.tags == ["multi-label-image-classification", "taidpt", "prompt-tuning", "clip", "pets"]
    assert 'model="org/tagger"' in card.content


def test_pipeline_processor_tokenizer_branch_and_proposal(pushed):
    assert_same_scores(pushed["pipe"], pushed["expected"])
    assert pushed["pipe files"] == pushed["files"]
    assert pushed["parts"] == ["CLIPTokenizer", pushed["parts"][1]] and "CLIPImageProcessor" in pushed["parts"][1]
    assert pushed["processor"] == "CLIPProcessor"
    assert_same_scores(pushed["baked"], pushed["expected"])
    assert pushed["proposal"] == 1


def test_a_card_shows_the_picture_that_was_pushed_with_it(pushed):
    card, is_there = pushed["example"]
    assert is_there and "](example.jpg)" in card and "says nothing of how often" in card
    card, is_there = pushed["no example"]
    assert not is_there and "example.jpg" not in card


def test_edited_cards_stay_and_old_weights_go(pushed):
    assert pushed["kept card"].endswith("My words.\n")
    assert_same_scores(pushed["sharded"], pushed["expected"])
    assert "model.safetensors" not in pushed["sharded files"]
    assert "model.safetensors.index.json" in pushed["sharded files"]


def test_a_private_repository_wants_a_token(pushed):
    assert_same_scores(pushed["secret"], pushed["expected"])
    assert_one_sentence(pushed["secret without token"], "There is no repository 'org/secret'", "pass `token=`")


def test_prompts_alone_are_pinned_to_their_base(pushed):
    assert pushed["revision"] is True and pushed["pinned"] is True
    assert_one_sentence(pushed["other base"], "learned on other weights than 'org/base' holds at revision 'main'")
    assert_one_sentence(pushed["no such base revision"], "The base 'org/base'", "has no revision 'v9'")
    assert_one_sentence(pushed["no such base"], "The base 'org/gone'", "There is no repository 'org/gone'")


def test_what_is_not_there_is_one_sentence(pushed, server):
    assert_one_sentence(pushed["no such repository"], "There is no repository 'org/absent'", server.url)
    assert_one_sentence(pushed["no such revision"], "The repository 'org/tagger' has no revision 'v9'")
    assert_one_sentence(pushed["no such model"], "'org/parts'")
    assert_one_sentence(pushed["no weights"], "'org/bare' holds no model.safetensors")
    assert_one_sentence(pushed["no token"], "Nothing was pushed to 'org/mine'", "refuses this user", "`hf auth login`")
    assert "org/mine" not in server.repositories
    assert pushed["unknown option"].startswith("TypeError: `branch` is not an option of push_to_hub")


def test_the_trainer_pushes_a_card_of_what_it_measured(pushed):
    trained = pushed["trained"]
    assert trained["same"] is True
    card, report = ModelCard(trained["card"]), trained["report"]
    ((metric, on, value),) = trained["figures"]
    assert (metric, value) == ("mAP, merged score", round(report["caption_map"], 1))
    assert on.split()[0].isdecimal() and on.endswith("held-out captions")
    assert f"| {round(report['zero_shot_caption_map'], 1)} |" in card.content
    assert (card.data.license, card.data.model_name, card.data.library_name) == ("mit", "trained", "transformers")
    assert "pets" in card.data.tags
    for text in (
        "Recipe: paper (sgd",
        "Seed 7.",
        "from my captions.txt; 4 more",
        "| traffic light | ",
        "# org/trained",
    ):
        assert text in card.content
    assert "never evaluated" not in card.content
    assert "/home" not in card.content and "/tmp" not in card.content  # no folder of this machine
    assert {"model.safetensors", "tokenizer.json", "training_report.json", "modeling_taidpt.py"} < set(
        trained["files"]
    )


@pytest.mark.slow
def test_without_the_package_the_repository_s_own_code_runs(pushed, remote):
    assert remote["installed"] is False and remote["still not installed"] is True
    assert_same_scores(remote["pulled"], pushed["expected"])
    assert_same_scores(remote["own labels"], pushed["own labels"])
    assert_same_scores(remote["baked"], pushed["expected"])
    assert remote["classes"] == ["TaiDptConfig", "TaiDptModel", "TaiDptModel", "CLIPProcessor"]
    assert remote["prompts"] == ["dog", "traffic light", "cat"]
    assert "trust_remote_code" in remote["untrusted"]
    assert_same_scores(remote["saved"], pushed["expected"])
    assert remote["asked"] is None
    assert set(pushed["files"]) - {".gitattributes"} == set(remote["saved files"])
    assert "horse, cow" in remote["saved card"]
    assert_same_scores(remote["again"], pushed["expected"])


@pytest.mark.slow
def test_without_network_what_was_pulled_still_loads(pushed, run, home):
    found = run("offline", home, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")  # nothing listens there
    assert_same_scores(found["pulled"], pushed["expected"])
    assert found["prompts"] == ["dog", "traffic light", "cat"]
    assert_one_sentence(
        found["never pulled"], "There is no folder 'org/never' here, it is not in the cache", "cannot be reached"
    )
