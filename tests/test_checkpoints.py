"""Checkpoints: baked, prompts-only, sharded; what the auto classes find in a saved folder."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import stat

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoProcessor,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    pipeline,
)

from modeling_taidpt import (
    DEFAULT_CHECKPOINT,
    CLIPResNetConfig,
    CLIPResNetModel,
    TaiDptConfig,
    TaiDptModel,
    tokenization_taidpt,
)
from modeling_taidpt.hub import find_image_processor

from .conftest import assert_same_scores, make_clip

LABELS = ["dog", "traffic light", "cat"]


def make_resnet() -> CLIPResNetModel:
    """A small random CLIP with OpenAI's convolutional tower."""
    torch.manual_seed(0)
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "projection_dim": 24}
    text |= {"projection_dim": 24, "eos_token_id": 49407}
    return CLIPResNetModel(CLIPResNetConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()


@pytest.fixture
def model(clip):
    return TaiDptModel.from_clip(clip, labels=LABELS, num_context_tokens=4, score_scale=[1.0, 2.0, 3.0])


@pytest.fixture
def pixel_values():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def score(model, pixel_values):
    output = model(pixel_values=pixel_values)
    return output.logits, output.similarity_map


def size(folder):
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


# ------------------------------------------------------------------ baked


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_a_baked_model_scores_the_same_without_its_text_tower(tower, tmp_path):
    clip = make_clip() if tower == "vit" else make_resnet()
    model = TaiDptModel.from_clip(clip, labels=LABELS, num_context_tokens=4)
    side = 32 if tower == "vit" else 64
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    expected = score(model, pixels)
    baked = model.bake()
    model.save_pretrained(tmp_path / "full")
    baked.save_pretrained(tmp_path / "baked")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "baked")
    for each in (baked, loaded, loaded.bake()):
        torch.testing.assert_close(score(each, pixels), expected)
        assert each.config.labels == LABELS
        assert not any(parameter.requires_grad for parameter in each.parameters())
    assert type(loaded) is TaiDptModel
    names = set(load_file(tmp_path / "baked" / "model.safetensors"))
    assert not any("text" in name for name in names)
    assert {"class_embeddings_global", "class_embeddings_local"} < names
    assert size(tmp_path / "baked") < 0.2 * size(tmp_path / "full")
    # the model that was baked is whole
    assert model.encode_texts(["a dog"]).shape == (1, 24)
    assert any(parameter.requires_grad for parameter in model.parameters())


def test_a_baked_model_says_that_it_takes_no_text(model, tokenizer):
    baked = model.bake()
    for use in (
        lambda: baked.with_labels(["horse"]),
        lambda: baked.encode_texts(["a horse"]),
        lambda: baked.encode_templates(),
        lambda: baked(**tokenizer(["a horse"], return_tensors="pt")),
    ):
        with pytest.raises(ValueError, match=r"^The model is baked: it has no text tower [^\n]*baked from\.$"):
            use()


def test_class_embeddings_stay_in_fp32_beside_a_half_precision_clip(model, tmp_path, pixel_values):
    model.bake().save_pretrained(tmp_path)
    loaded = TaiDptModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.clip.visual_projection.weight.dtype == torch.bfloat16
    assert loaded.class_embeddings_global.dtype == torch.float32
    torch.testing.assert_close(score(loaded, pixel_values)[0], score(model, pixel_values)[0], atol=5e-2, rtol=0)


# ------------------------------------------------------------------ what a saved folder holds


def test_the_auto_classes_find_everything_in_a_saved_folder(model, tmp_path, pixel_values):
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is TaiDptConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is TaiDptModel
    assert type(AutoModelForImageClassification.from_pretrained(tmp_path)) is TaiDptModel
    assert AutoTokenizer.from_pretrained(tmp_path)("a dog")["input_ids"][0] == 49406
    assert AutoImageProcessor.from_pretrained(tmp_path).crop_size["height"] == 32
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert type(processor) is CLIPProcessor
    assert processor.image_processor.crop_size["height"] == 32
    assert pipeline("multi-label-image-classification", model=str(tmp_path)).model.config.labels == LABELS
    names = {file.name for file in tmp_path.iterdir()}
    assert {"README.md", "handler.py", "modeling_taidpt.py", "multi_label_image_classification.py"} < names
    assert not [name for name in names if name.startswith(".") or name.endswith(".bin")]
    # only the stored configuration speaks of code
    assert "AutoModel" in json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert not hasattr(model.config, "auto_map") and not hasattr(model.config, "custom_pipelines")
    model.save_pretrained(tmp_path / "bare", include_code=False)
    assert not list((tmp_path / "bare").glob("*.py"))
    assert "auto_map" not in json.loads((tmp_path / "bare" / "config.json").read_text())


def test_shards_load_and_a_later_save_leaves_no_old_ones(model, tmp_path, pixel_values):
    model.save_pretrained(tmp_path, max_shard_size="1MB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    loaded = TaiDptModel.from_pretrained(tmp_path, device_map="cpu")
    assert_same_scores(score(loaded, pixel_values)[0], score(model, pixel_values)[0])
    loaded.save_pretrained(tmp_path)  # into the folder that it came from
    assert [file.name for file in tmp_path.glob("model*.safetensors*")] == ["model.safetensors"]
    assert_same_scores(score(TaiDptModel.from_pretrained(tmp_path), pixel_values)[0], score(model, pixel_values)[0])


def test_an_interrupted_save_leaves_the_old_files_whole(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("modeling_taidpt.repository.copy_code", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.with_labels(["horse"]).save_pretrained(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert model.config.prompts_only is False and not hasattr(model.config, "auto_map")


def test_weights_are_read_from_safetensors_alone(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="read from safetensors files alone"):
        TaiDptModel.from_pretrained(tmp_path, use_safetensors=False)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"^'[^\n]*' holds no model.safetensors: [^\n]* are not read\.$"):
        TaiDptModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("cut", [10, 100_000])
def test_a_broken_weight_file_is_one_sentence(model, tmp_path, cut):
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(OSError, match=r"^A weight file of '[^\n]*' is broken or cut off \([^\n]*again\.$"):
        TaiDptModel.from_pretrained(tmp_path)


def test_no_such_folder_is_one_sentence(tmp_path):
    for name in (str(tmp_path / "absent"), "./absent"):
        with pytest.raises(OSError, match=r"^'[^\n]*absent' is neither a folder nor the name[^\n]*\.$"):
            TaiDptModel.from_pretrained(name)
        with pytest.raises(OSError, match="is neither a folder"):
            TaiDptModel.from_clip(name, labels=LABELS)
    with pytest.raises(OSError, match=r"^There is no folder 'org/absent' here, [^\n]* cannot be reached[^\n]*\.$"):
        TaiDptModel.from_pretrained("org/absent")  # the tests run without network
    with pytest.raises(ValueError, match=r"holds no model: its config.json is absent"):
        (tmp_path / "empty").mkdir()
        TaiDptModel.from_pretrained(tmp_path / "empty")


# ------------------------------------------------------------------ prompts only


@pytest.fixture
def base(tmp_path):
    make_clip().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("specific", [False, True])
def test_prompts_only_checkpoints_are_small_and_whole(base, specific, tmp_path, pixel_values):
    options = {"class_specific_context": specific, "num_context_tokens": 4}
    model = TaiDptModel.from_clip(str(base), labels=LABELS, **options)
    folder = tmp_path / "prompts"
    model.save_pretrained(folder, prompts_only=True, max_shard_size="1KB")
    vectors = 2 * (len(LABELS) if specific else 1) * 4
    assert size(folder) - vectors * 32 * 4 < 1000  # the header
    assert not (folder / "tokenizer.json").exists()  # found beside the base
    assert AutoImageProcessor.from_pretrained(folder).crop_size["height"] == 32
    for loader in (TaiDptModel, AutoModel, AutoModelForImageClassification):
        for options in ({}, {"device_map": "cpu"}):
            loaded = loader.from_pretrained(folder, **options)
            assert_same_scores(score(loaded, pixel_values)[0], score(model, pixel_values)[0])
    half = TaiDptModel.from_pretrained(folder, dtype=torch.bfloat16)  # rounding does not make another base of it
    assert half.clip.visual_projection.weight.dtype == torch.bfloat16
    assert loaded.with_labels(["horse"]).config.labels == ["horse"]
    loaded.save_pretrained(tmp_path / "full")
    full = TaiDptModel.from_pretrained(tmp_path / "full")
    assert_same_scores(score(full, pixel_values)[0], score(model, pixel_values)[0])


def test_shared_contexts_of_a_clip_of_real_width_stay_under_200_kb(tmp_path):
    model = TaiDptModel.from_clip(DEFAULT_CHECKPOINT, labels=LABELS)
    model.save_pretrained(tmp_path, prompts_only=True)
    config, weights = (tmp_path / "config.json").stat().st_size, (tmp_path / "model.safetensors").stat().st_size
    assert config + weights < 200_000
    assert TaiDptModel.from_pretrained(tmp_path).config.base_model_name_or_path == "taidpt-coco80"


def test_another_base_is_noticed(base, tmp_path, pixel_values):
    folder = tmp_path / "prompts"
    model = TaiDptModel.from_clip(str(base), labels=LABELS)
    model.save_pretrained(folder, prompts_only=True)
    make_clip(seed=1).save_pretrained(base)  # other weights under the same name
    with pytest.raises(ValueError, match=r"^The prompts in [^\n]* were learned on other weights than [^\n]*anew\.$"):
        TaiDptModel.from_pretrained(folder)
    make_resnet().save_pretrained(base)
    with pytest.raises(ValueError, match=r"learned on a CLIP with `vision_config` clip_vision_model of width 32"):
        TaiDptModel.from_pretrained(folder)
    make_clip().save_pretrained(tmp_path / "moved")
    loaded = TaiDptModel.from_pretrained(folder, base_model_name_or_path=str(tmp_path / "moved"))
    assert_same_scores(score(loaded, pixel_values)[0], score(model, pixel_values)[0])


def test_a_missing_base_is_one_sentence(base, tmp_path):
    folder = tmp_path / "prompts"
    TaiDptModel.from_clip(str(base), labels=LABELS).save_pretrained(folder, prompts_only=True)
    base.rename(tmp_path / "gone")
    with pytest.raises(OSError, match=r"^The base '[^\n]*base' of the prompts in [^\n]* cannot be loaded [^\n]*\.$"):
        TaiDptModel.from_pretrained(folder)
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stored, "base_model_name_or_path": None}))
    with pytest.raises(ValueError, match=r"^The checkpoint [^\n]* does not say on which CLIP they were learned[^\n]*"):
        TaiDptModel.from_pretrained(folder)


def test_prompts_on_a_random_clip_refuse_to_run(base, tmp_path, pixel_values):
    TaiDptModel.from_clip(str(base), labels=LABELS).save_pretrained(tmp_path, prompts_only=True)
    random = AutoModel.from_config(AutoConfig.from_pretrained(tmp_path))
    with pytest.raises(ValueError, match="are on a random CLIP: load it with"):
        random(pixel_values=pixel_values)
    with pytest.raises(ValueError, match="A baked model has no prompts"):
        TaiDptModel.from_pretrained(tmp_path).bake().save_pretrained(tmp_path, prompts_only=True)


def test_a_base_without_tokenizer_gets_that_of_clip(tmp_path):
    """For a folder of weights alone transformers makes a tokenizer that knows no word: all captions would be equal."""
    make_clip().save_pretrained(tmp_path)
    model = TaiDptModel.from_clip(str(tmp_path), labels=LABELS)
    assert model.get_tokenizer()("a dog")["input_ids"] == [49406, 320, 1929, 49407]
    with pytest.raises(ValueError, match="has no tokenizer files"):
        model.get_tokenizer(str(tmp_path))


# ------------------------------------------------------------------ where everything comes from


@pytest.fixture
def hub_cache(model, tmp_path, monkeypatch):
    """A cache of the Hub with a repository of two revisions, whose processors, tokenizers and counts differ."""
    cache = tmp_path / "cache"
    repository = cache / "models--org--tagger"
    main, second = (repository / "snapshots" / (letter * 40) for letter in "ab")
    model.config.word_counts = "counts.json.gz"
    for folder, count in ((main, 5), (second, 500)):
        model.save_pretrained(folder)
        with gzip.open(folder / "counts.json.gz", "wt") as file:
            json.dump({"dog": count}, file)
    CLIPImageProcessor(size={"shortest_edge": 32}, image_mean=[0.5] * 3).save_pretrained(second)
    table = json.loads((second / "tokenizer.json").read_text())
    words = table["model"]["vocab"]
    words["bus</w>"], words["zoo</w>"] = words["zoo</w>"], words["bus</w>"]
    (second / "tokenizer.json").write_text(json.dumps(table))
    (repository / "refs").mkdir()
    for name, letter in (("main", "a"), ("v2", "b")):
        (repository / "refs" / name).write_text(letter * 40)
    shutil.copytree(second, tmp_path / "parent" / "inside")
    return cache, second, tmp_path / "parent"


def test_everything_comes_from_where_the_weights_came_from(hub_cache, tmp_path):
    cache, second, parent = hub_cache
    expected = TaiDptModel.from_pretrained(second)
    loaded = [
        TaiDptModel.from_pretrained("org/tagger", revision="v2", cache_dir=cache, token="hf_secret"),
        AutoModel.from_pretrained("org/tagger", revision="v2", cache_dir=cache),
        TaiDptModel.from_pretrained(parent, subfolder="inside"),
        AutoModelForImageClassification.from_pretrained(parent, subfolder="inside"),
    ]
    for index, model in enumerate(loaded):
        relabelled = model.with_labels(["bus"])
        assert relabelled.config.class_input_ids == expected.with_labels(["bus"]).config.class_input_ids
        assert relabelled.rare_words(["dog"]) == {}  # 500 times there, 5 times in the main branch
        folder = tmp_path / f"again{index}"
        relabelled.save_pretrained(folder)
        assert tuple(AutoImageProcessor.from_pretrained(folder).image_mean) == (0.5,) * 3
        assert (folder / "counts.json.gz").read_bytes() == (second / "counts.json.gz").read_bytes()
        assert "hf_secret" not in "".join(path.read_text() for path in folder.glob("*.json"))
    main = TaiDptModel.from_pretrained("org/tagger", cache_dir=cache)
    assert main.rare_words(["dog"]) == {"dog": ["dog"]}
    started = TaiDptModel.from_clip("org/tagger", labels=["bus"], revision="v2", cache_dir=cache)
    assert started.config.class_input_ids == loaded[0].with_labels(["bus"]).config.class_input_ids
    assert started.config.base_model_revision == "b" * 40
    assert tuple(find_image_processor(started.config).image_mean) == (0.5,) * 3


def test_a_clip_that_is_handed_over_is_of_the_revision_that_is_named(hub_cache):
    cache, _, _ = hub_cache
    started = TaiDptModel.from_clip("org/tagger", labels=["bus"], revision="v2", cache_dir=cache)
    repository = cache / "models--org--tagger" / "snapshots"
    for letter in "ab":
        started.clip.save_pretrained(repository / (letter * 40))
    clip = CLIPModel.from_pretrained("org/tagger", revision="v2", cache_dir=cache)
    model = TaiDptModel.from_clip(clip, labels=["bus"], revision="v2", cache_dir=cache)
    assert model.config.class_input_ids == started.config.class_input_ids
    assert model.config.base_model_revision == "v2"
    assert tuple(find_image_processor(model.config).image_mean) == (0.5,) * 3


def test_a_relative_base_is_kept_by_its_full_path(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = TaiDptModel.from_clip("base", labels=LABELS)
    assert model.config.base_model_name_or_path == str(base)
    monkeypatch.chdir(base)
    assert TaiDptModel.from_clip("../base", labels=LABELS).config.base_model_name_or_path == str(base)


# ------------------------------------------------------------------ loading options, damage, interruptions


def test_loading_options_are_taken_where_they_change_nothing(model, tmp_path, pixel_values):
    model.save_pretrained(tmp_path)
    for options in (
        {"num_labels": 3},
        {"ignore_mismatched_sizes": True},
        {"attn_implementation": "sdpa"},
        {"attn_implementation": "eager"},
        {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}},
    ):
        for loader in (TaiDptModel, AutoModelForImageClassification):
            loaded = loader.from_pretrained(tmp_path, **options)
            torch.testing.assert_close(score(loaded, pixel_values)[0], score(model, pixel_values)[0])
    renamed = TaiDptModel.from_pretrained(tmp_path, id2label={0: "Hund", 1: "Ampel", 2: "Katze"})
    assert renamed.config.labels == ["Hund", "Ampel", "Katze"]
    for options in ({"num_labels": 2}, {"id2label": {0: "a"}, "label2id": {"a": 0}}):
        for loader in (TaiDptModel, AutoModelForImageClassification):
            for more in ({}, {"ignore_mismatched_sizes": True}):
                with pytest.raises(ValueError, match=r"^[^\n]*there are 3: [^\n]*with_labels\(\[\.\.\.\]\)`\.$"):
                    loader.from_pretrained(tmp_path, **options, **more)
    assert TaiDptModel.from_pretrained(DEFAULT_CHECKPOINT, attn_implementation="sdpa").config.num_labels == 80


def test_weights_and_configuration_of_two_saves_do_not_load(clip, tmp_path):
    older, newer = (TaiDptModel.from_clip(clip, labels=labels) for labels in (["dog", "cat"], ["sun", "moon"]))
    older.save_pretrained(tmp_path / "older")
    newer.save_pretrained(tmp_path / "newer")
    for name in ("model.safetensors", "config.json"):  # as after a kill between the two
        shutil.copytree(tmp_path / "older", tmp_path / name)
        shutil.copyfile(tmp_path / "newer" / name, tmp_path / name / name)
        for loader in (TaiDptModel, AutoModel):
            with pytest.raises(ValueError, match=r"^The weights and the configuration [^\n]*not of one save[^\n]*\.$"):
                loader.from_pretrained(tmp_path / name)
    # what somebody edits in the configuration on purpose, or who saved without a digest, is not refused
    stored = json.loads((tmp_path / "older" / "config.json").read_text())
    (tmp_path / "older" / "config.json").write_text(json.dumps(stored | {"local_weight": 0.25}))
    loaded = TaiDptModel.from_pretrained(tmp_path / "older")
    assert loaded.config.local_weight == 0.25 and not hasattr(loaded.config, "weights_digest")
    stored.pop("weights_digest")
    (tmp_path / "config.json" / "config.json").write_text(json.dumps(stored))
    TaiDptModel.from_pretrained(tmp_path / "config.json")


def test_a_save_that_is_killed_between_two_renames_leaves_no_mixture(clip, tmp_path, monkeypatch):
    older, newer = (TaiDptModel.from_clip(clip, labels=labels) for labels in (["dog", "cat"], ["sun", "moon"]))
    pixels = torch.randn(1, 3, 32, 32)
    expected = {tuple(m.config.labels): score(m, pixels)[0] for m in (older, newer)}
    older.save_pretrained(tmp_path / "older")
    replace, left = os.replace, [0]

    def move(*arguments):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        replace(*arguments)

    monkeypatch.setattr("modeling_taidpt.atomic.os.replace", move)
    found = []
    for moves, shards in ((0, "5GB"), (2, "5GB"), (4, "1MB"), (14, "5GB"), (1000, "1MB")):
        folder = tmp_path / f"{moves}-{shards}"
        shutil.copytree(tmp_path / "older", folder)
        left[0] = moves
        with contextlib.suppress(KeyboardInterrupt):
            newer.save_pretrained(folder, max_shard_size=shards)
        left[0] = 1000  # the next process
        loaded = TaiDptModel.from_pretrained(folder)
        torch.testing.assert_close(score(loaded, pixels)[0], expected[tuple(loaded.config.labels)])
        found.append(loaded.config.labels[0])
    assert found == sorted(found) and found[0] == "dog"  # not all was written
    assert found[-2:] == ["sun", "sun"]  # the moves that were left are made when it is read
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_prompts_alone_over_a_whole_checkpoint_leave_nothing_of_it(base, tmp_path):
    model = TaiDptModel.from_clip(str(base), labels=LABELS)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    (folder / "notes.txt").write_text("mine")
    model.save_pretrained(folder, prompts_only=True)
    names = {path.name for path in folder.iterdir()}
    assert not names & {"tokenizer.json", "tokenizer_config.json"} and "notes.txt" in names
    assert TaiDptModel.from_pretrained(folder).config.labels == LABELS


def test_a_configuration_larger_than_its_weights_is_not_allocated(model, tmp_path):
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    for change in ({"caption_bank_size": 1_000_000, "image_standardization": "captions"}, {"hidden_size": 1_000_000}):
        changed = json.loads(json.dumps(stored))
        (changed["clip_config"]["vision_config"] if "hidden_size" in change else changed).update(change)
        path.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=r"^[^\n]*(does not hold the whole model|cannot be loaded)[^\n]*\.$"):
            TaiDptModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", ["[]", "7", "{", "null", '{"a": ' * 100_000, "\ud800", '{"model_type": []}'])
def test_a_damaged_configuration_is_one_sentence(model, tmp_path, content):
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises((ValueError, OSError)) as error:
        TaiDptModel.from_pretrained(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 700 and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", 7])
def test_an_index_names_files_beside_it(model, tmp_path, name):
    model.save_pretrained(tmp_path, max_shard_size="1MB")
    index = tmp_path / "model.safetensors.index.json"
    stored = json.loads(index.read_text())
    stored["weight_map"] |= {"clip.logit_scale": name}
    index.write_text(json.dumps(stored))
    with pytest.raises((ValueError, OSError), match=r"^[^\n]*\.$"):
        TaiDptModel.from_pretrained(tmp_path)


def test_word_counts_that_unpack_to_gigabytes_are_refused(model, tmp_path):
    model.config.word_counts = "counts.json.gz"
    model.save_pretrained(tmp_path)
    path = tmp_path / "counts.json.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(100):
            file.write(bytes(1_000_000))
    for content in (path.read_bytes(), b"no gzip", gzip.compress(b"[1]"), gzip.compress(b'{"dog": "x"}'), b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^The word counts [^\n]*counts\.json\.gz'[^\n]*\.$"):
            TaiDptModel.from_pretrained(tmp_path).rare_words(["dog"])


def test_files_are_readable_as_the_umask_says(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    before = os.umask(0o022)
    try:
        model.save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()} == {0o644}


def test_code_without_the_package_says_where_the_vocabulary_is(monkeypatch, tmp_path):
    monkeypatch.setattr(tokenization_taidpt, "ASSETS", tmp_path)
    tokenization_taidpt.read_merges.cache_clear()
    with pytest.raises(FileNotFoundError, match=r"comes with the package .*: pass `tokenizer=`"):
        TaiDptModel.from_clip(make_clip(), LABELS)
    monkeypatch.undo()
    assert TaiDptModel.from_clip(make_clip(), LABELS).config.labels == LABELS
