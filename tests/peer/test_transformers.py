"""ModelTesterMixin and ConfigTester of transformers on our models and configurations."""

from __future__ import annotations

import unittest
from typing import Any, ClassVar

import pytest
import torch
from transformers import CLIPConfig

from modeling_taidpt import CLIPResNetConfig, CLIPResNetModel, CLIPResNetVisionConfig, TaiDptConfig, TaiDptModel

from . import suites

pytestmark = pytest.mark.slow

try:
    common = suites.load("test_modeling_common")
    ConfigTester = suites.load("test_configuration_common").ConfigTester
except (FileNotFoundError, ModuleNotFoundError) as error:
    pytest.skip(f"transformers' test suites cannot be loaded: {error}", allow_module_level=True)

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": 24,
}
TEXT = {**TOWER, "vocab_size": 99, "max_position_embeddings": 20, "eos_token_id": 98, "bos_token_id": 97}
VISION = {**TOWER, "image_size": 32, "patch_size": 8}
LABELS = ["dog", "cat", "bus"]
RESNET = {"layers": [1, 1, 1, 1], "width": 4, "image_size": 64, "projection_dim": 24, "num_attention_heads": 2}


def clip_config() -> CLIPConfig:
    return CLIPConfig(text_config=dict(TEXT), vision_config=dict(VISION), projection_dim=24)


class _Tester:
    """What ModelTesterMixin asks about a model: a configuration and inputs."""

    is_training = True
    batch_size, num_hidden_layers, seq_length, hidden_size, num_attention_heads = 3, 2, 17, 32, 4

    def __init__(self, parent: unittest.TestCase) -> None:
        self.parent = parent

    def pixel_values(self, side: int = 32) -> torch.Tensor:
        return common.floats_tensor([self.batch_size, 3, side, side])  # (batch, 3, side, side)


class TaiDptTester(_Tester):
    """A learned model of three labels on a tiny CLIP."""

    options: ClassVar[dict[str, Any]] = {}

    def get_config(self) -> TaiDptConfig:
        return TaiDptConfig(
            clip_config=clip_config(),
            id2label=dict(enumerate(LABELS)),
            label2id={label: index for index, label in enumerate(LABELS)},
            class_names=LABELS,
            class_input_ids=[[5], [6, 7], [8]],
            num_context_tokens=4,
            bos_token_id=97,
            eos_token_id=98,
            period_token_id=9,
            **self.options,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[TaiDptConfig, dict[str, torch.Tensor]]:
        return self.get_config(), {"pixel_values": self.pixel_values()}


class CLIPResNetTester(_Tester):
    """A tiny CLIP with a convolutional tower."""

    def get_config(self) -> CLIPResNetConfig:
        return CLIPResNetConfig(text_config=dict(TEXT), vision_config=dict(RESNET), projection_dim=24)

    def prepare_config_and_inputs_for_common(self) -> tuple[CLIPResNetConfig, dict[str, torch.Tensor]]:
        ids = common.ids_tensor([self.batch_size, self.seq_length], 96)  # (batch, length)
        ids[:, -1] = 98
        return self.get_config(), {"input_ids": ids, "pixel_values": self.pixel_values(64)}


# Tests that do not apply, and why.
TAIDPT = {
    "test_cannot_load_with_meta_device_context_manager": "refused too, as a ValueError that names the checkpoint",
    "test_keep_in_fp32_modules_exist": "modules that some configurations have: fixed classes, a head, learned scales",
    "test_keep_in_fp32_modules": "the parts in fp32 are those of a configuration, see tests/test_checkpoints.py",
    "test_model_forward_default_config_values": "token ids of class names belong to a vocabulary: a model's own",
    "test_model_weights_reload_no_missing_tied_weights": "a checkpoint without weights is refused, never made up",
    "test_retain_grad_hidden_states_attentions": "the towers are frozen and run without a graph",
    "test_training_gradient_checkpointing": "the towers are frozen; the learned prompts have their own chunks",
    "test_training_gradient_checkpointing_use_reentrant_false": "as above",
    "test_training_gradient_checkpointing_use_reentrant_true": "as above",
}
CLIP_RESNET = {
    "test_get_image_features_output_0": "the cells are (batch, channels, height, width), as transformers' ResNet's",
    "test_get_image_features_output_1": "as above",
    "test_get_image_features_output_2": "as above",
    "test_get_image_features_hidden_states": "as above",
    "test_hidden_states_output": "CLIP's output has none of its own; those of the towers are tested above",
    "test_retain_grad_hidden_states_attentions": "as above",
    "test_training": "its forward pass gives no loss, as that of a CLIP without `return_loss`",
}


def leave_out(reasons: dict[str, str]) -> Any:
    """Skips tests of a class, each with its reason."""

    def decorate(case: type) -> type:
        for name, reason in reasons.items():
            assert hasattr(case, name), f"the suite has no {name}: take it off the list"
            setattr(case, name, unittest.skip(reason)(getattr(case, name)))
        return case

    return decorate


class _OurModel(common.ModelTesterMixin):
    """The mixin for a model whose towers are frozen and whose labels are multi-hot."""

    _is_composite = True
    test_resize_embeddings = False  # class names are stored as token ids: the vocabulary is CLIP's
    has_attentions = False  # attentions are those of the towers, tested where CLIP is
    test_all_params_have_gradient = False  # only the contexts learn

    def _prepare_for_class(self, inputs_dict: dict, model_class: type, return_labels: bool = False) -> dict:
        inputs = super()._prepare_for_class(inputs_dict, model_class)
        if return_labels and model_class is TaiDptModel:
            inputs["labels"] = torch.eye(_Tester.batch_size, len(LABELS))  # (batch, classes)
        return inputs


@leave_out(TAIDPT)
class TaiDptModelTest(_OurModel, unittest.TestCase):
    all_model_classes = (TaiDptModel,)

    def setUp(self) -> None:
        self.model_tester = TaiDptTester(self)


@leave_out(CLIP_RESNET)
class CLIPResNetModelTest(_OurModel, unittest.TestCase):
    all_model_classes = (CLIPResNetModel,)

    def setUp(self) -> None:
        self.model_tester = CLIPResNetTester(self)


class ConfigurationTest(unittest.TestCase):
    """ConfigTester on each of our configurations."""

    def run_common_tests(self, config_class: type, inputs: dict[str, Any], common: list[str] | None = None) -> None:
        tester = ConfigTester(
            self, config_class=config_class, has_text_modality=False, common_properties=common, **inputs
        )
        with self.subTest("properties"):
            tester.create_and_test_config_common_properties()
        for name in ("to_json_string", "to_json_file", "with_num_labels"):
            with self.subTest(name):
                getattr(tester, f"create_and_test_config_{name}")()
        for name in ("", "_subfolder", "_composite"):
            with self.subTest(f"from_and_save_pretrained{name}"):
                getattr(tester, f"create_and_test_config_from_and_save_pretrained{name}")()
        with self.subTest("without arguments"):
            tester.check_config_can_be_init_without_params()

    def test_taidpt(self) -> None:
        self.run_common_tests(TaiDptConfig, {"num_context_tokens": 4, "logit_scale": 3.0})

    def test_clip_resnet(self) -> None:
        self.run_common_tests(CLIPResNetConfig, {"projection_dim": 24})

    def test_clip_resnet_vision(self) -> None:
        self.run_common_tests(CLIPResNetVisionConfig, {"width": 4}, ["width", "image_size", "num_attention_heads"])
