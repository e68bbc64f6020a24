"""Building, saving and loading the pipeline."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import pipeline
from transformers.pipelines import PIPELINE_REGISTRY

import modeling_taidpt
from modeling_taidpt import TaiDptModel
from modeling_taidpt.features import ImageFeatures
from modeling_taidpt.hub import find_image_processor
from modeling_taidpt.pipelines import TASK, MultiLabelImageClassificationPipeline

from .conftest import assert_same, make_processor, new_pipe, picture


@pytest.fixture(scope="module")
def checkpoint(model, processor, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in (model, processor, tokenizer):
        part.save_pretrained(folder)
    return folder


def test_from_a_folder_with_and_without_tokenizer(checkpoint, pipe, tmp_path):
    loaded = pipeline(TASK, model=str(checkpoint), device="cpu")
    assert loaded.tokenizer is not None
    assert_same(loaded(picture()), pipe(picture()))
    candidates = "zebra, traffic light"
    assert_same(loaded(picture(), candidate_labels=candidates), pipe(picture(), candidate_labels=candidates))
    for file in ("model.safetensors", "config.json", "preprocessor_config.json"):
        (tmp_path / file).write_bytes((checkpoint / file).read_bytes())
    bare = pipeline(TASK, model=str(tmp_path), device="cpu")
    assert_same(bare(picture()), pipe(picture()))
    assert_same(bare(picture(), candidate_labels=candidates), pipe(picture(), candidate_labels=candidates))


def test_the_task_alone_uses_the_default_checkpoint(checkpoint, pipe, monkeypatch):
    entry = PIPELINE_REGISTRY.supported_tasks[TASK]
    assert entry["default"]["model"][0] == modeling_taidpt.DEFAULT_CHECKPOINT
    monkeypatch.setitem(entry, "default", {"model": (str(checkpoint), "main")})
    assert_same(pipeline(TASK, device="cpu")(picture()), pipe(picture()))


def test_saving_and_loading(pipe, model, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert not hasattr(model.config, "custom_pipelines")  # transformers would ask for trust_remote_code
    stored = json.loads((tmp_path / "config.json").read_text())
    module = "multi_label_image_classification"
    assert stored["custom_pipelines"][TASK] == {
        "impl": f"{module}.MultiLabelImageClassificationPipeline",
        "pt": ["AutoModelForImageClassification"],
        "type": "image",
    }  # and no path of this machine
    for name in (module, "image_reading", "heatmaps"):  # flat siblings travel with it
        assert "modeling_taidpt import" not in (tmp_path / f"{name}.py").read_text()
    loaded = pipeline(TASK, model=str(tmp_path), device="cpu")  # the installed class: no trust_remote_code asked
    assert type(loaded) is MultiLabelImageClassificationPipeline
    assert_same(loaded(picture(), return_heatmaps=True), pipe(picture(), return_heatmaps=True))


def test_a_missing_image_processor_is_one_sentence(model, checkpoint, tmp_path):
    with pytest.raises(ValueError, match="image processor"):
        pipeline(TASK, model=model, device="cpu")
    for file in ("model.safetensors", "config.json"):
        (tmp_path / file).write_bytes((checkpoint / file).read_bytes())
    with pytest.raises(ValueError, match=rf"No image processor was found for '{tmp_path}'"):
        pipeline(TASK, model=str(tmp_path), device="cpu")


def test_a_model_in_training_is_set_to_eval(model, processor):
    model.train()
    new_pipe(model, processor)
    assert not model.training


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("crop_size", {"height": 100_000, "width": 100_000}),
        ("crop_size", {"height": 0, "width": 32}),
        ("crop_size", {"height": -5, "width": 5}),
        ("size", {"shortest_edge": 10**9}),
        ("size", {"height": -1, "width": 32}),
        ("pad_size", {"height": 10**6, "width": 32}),
        ("image_mean", [float("nan")] * 3),
        ("image_std", [0, 0, 0]),
        ("image_std", 0),
        ("rescale_factor", float("inf")),
        ("rescale_factor", "x"),
    ],
    ids=str,
)
def test_settings_of_an_image_processor_are_plausible(model, tmp_path, setting, value):
    processor = make_processor(tmp_path)
    setattr(processor, setting, value)
    with pytest.raises(ValueError, match=rf"^The image processor of .* cannot be used: `{setting}.*\.json\.$"):
        new_pipe(model, processor)
    with pytest.raises(ValueError, match="cannot be used"):
        ImageFeatures.encode(model, [picture()], processor, label_column=None, progress=False)


def test_a_damaged_image_processor_is_not_replaced_by_another(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").write_text('{"image_processor_type": "Unknown"}')
    loaded = TaiDptModel.from_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"^The image processor '[^\n]*' cannot be used: [^\n]*$"):
        find_image_processor(loaded.config)
