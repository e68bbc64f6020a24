"""Numbers of the published code, to 1e-4 of the largest value of each tensor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling_taidpt import TaiDptModel, convert_openai_clip

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("shared_context", "class_specific")
EOT = 49407


def read_clip(path: Path) -> dict[str, torch.Tensor]:
    """OpenAI state dict; the shipped files keep only the token rows that are not zero."""
    state_dict = load_file(path)
    if "token_embedding.rows" in state_dict:
        values, rows = state_dict.pop("token_embedding.values"), state_dict.pop("token_embedding.rows")
        table = torch.zeros(49408, values.shape[1], dtype=values.dtype)
        table[rows] = values
        state_dict["token_embedding.weight"] = table
    return state_dict


def assert_golden(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()


class Case:
    def __init__(self, folder: Path, name: str, attn_implementation: str) -> None:
        self.numbers = load_file(folder / f"{name}.safetensors")
        self.settings = json.loads((folder / f"{name}.json").read_text())
        clip = convert_openai_clip(read_clip(folder / f"{name}_clip.safetensors"))
        clip.text_model.set_attn_implementation(attn_implementation)
        self.model = TaiDptModel.from_clip(
            clip, labels=self.settings["classnames"], class_specific_context=self.settings["class_specific"]
        )
        with torch.no_grad():
            self.model.prompt_learner.global_context.copy_(self.numbers["ctx"])
            self.model.prompt_learner.local_context.copy_(self.numbers["ctx_double"])
        input_ids = self.numbers["captions.input_ids"]
        eot = (input_ids == EOT).int().argmax(dim=1)
        self.captions = {
            "input_ids": input_ids,
            "attention_mask": (torch.arange(input_ids.shape[1]) <= eot[:, None]).long(),
            "labels": self.numbers["captions.labels"],
        }


@pytest.fixture(params=[(name, attn) for name in NAMES for attn in ("sdpa", "eager")], ids="-".join)
def case(request) -> Case:
    return Case(GOLDEN, *request.param)


def test_trunk_and_pool_with_positions(case):
    with torch.no_grad():
        outputs = case.model.clip.vision_model(case.numbers["images"])
    assert_golden(outputs.last_hidden_state, case.numbers["images.trunk"])
    assert_golden(outputs.pooler_output, case.numbers["images.pooled_with_positions"])


@pytest.mark.parametrize("images", ["images", "images_96x128"])
def test_images(case, images):
    with torch.no_grad():
        outputs = case.model(pixel_values=case.numbers[images])
    similarity = outputs.similarity_map.flatten(2).permute(2, 0, 1)  # (cells, images, classes)
    assert_golden(similarity, case.numbers[f"{images}.dense_similarity"])
    assert_golden(outputs.logits_global, case.numbers[f"{images}.logits_global"])
    assert_golden(outputs.logits_local, case.numbers[f"{images}.logits_local"])


def test_captions_and_gradients(case):
    case.model.train()
    outputs = case.model(**case.captions)
    assert_golden(outputs.logits_global, case.numbers["captions.logits_global"])
    assert_golden(outputs.logits_local, case.numbers["captions.logits_local"])
    outputs.loss.backward()
    assert_golden(case.model.prompt_learner.global_context.grad, case.numbers["grad.ctx"])
    assert_golden(case.model.prompt_learner.local_context.grad, case.numbers["grad.ctx_double"])


def test_five_sgd_steps(case):
    case.model.train()
    contexts = [parameter for parameter in case.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(contexts, **case.settings["sgd"])
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = case.model(**case.captions).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert_golden(torch.stack(losses), case.numbers["losses_5_sgd_steps"])
    assert_golden(case.model.prompt_learner.global_context.detach(), case.numbers["ctx_after_5_steps"])
    assert_golden(case.model.prompt_learner.local_context.detach(), case.numbers["ctx_double_after_5_steps"])


def test_shipped_tokenizer_gives_the_published_ids(case, tokenizer):
    for caption, row in zip(case.settings["captions"], case.numbers["captions.input_ids"], strict=True):
        ids = tokenizer(caption)["input_ids"]
        assert ids == row[: len(ids)].tolist()
        assert not row[len(ids) :].any()


@pytest.mark.shared
@pytest.mark.parametrize("name", NAMES)
def test_whole_reference_files_give_the_same(shared, name):
    case = Case(shared / "reference" / "golden", name, "sdpa")
    with torch.no_grad():
        outputs = case.model(pixel_values=case.numbers["images"])
    assert_golden(outputs.logits_local, case.numbers["images.logits_local"])
    test_captions_and_gradients(case)
