"""Other dual encoders of transformers: every feature against the model's own calls, every prompt written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
    pipeline,
)

from modeling_taidpt import CaptionFeatures, TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments

LABELS = ["dog", "traffic light", "cat"]
CAPTIONS = ["a dog at a traffic light", "a cat", "the cat and the dog see a cat"]
WORDS = ["a", "the", "of", "photo", "dog", "traffic", "light", "cat", "at", "and", "see"]
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LENGTH = 16


def word_tokenizer(start: str | None, end: str, pad: str, period: bool) -> PreTrainedTokenizerFast:
    """A word-level tokenizer framed as a family frames its texts; without `period` it strips punctuation."""
    tokens = ["<pad>", "<end>", "<start>", "<unk>", ".", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("isolated" if period else "removed")]
    )
    tokenizer.normalizer = normalizers.Lowercase()
    frame = f"{start} $A {end}" if start else f"$A {end}"
    specials = [(token, tokens.index(token)) for token in (start, end) if token]
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=specials)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        unk_token="<unk>",
        eos_token=end,
        model_max_length=LENGTH,
        padding_side="left",  # as Gemma's is by default
    )


def make(name: str, attention: str = "sdpa"):
    """A small random model of a family and a tokenizer that frames and pads as the family does."""
    torch.manual_seed(0)
    vocabulary = {"vocab_size": 40, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    vision = {**TOWER, "image_size": 32, "patch_size": 8}
    if name in ("siglip", "siglip2"):
        text = {**TOWER, **vocabulary, "max_position_embeddings": LENGTH}
        if name == "siglip":
            config, model = SiglipConfig(text_config=text, vision_config=vision), SiglipModel
            tokenizer = word_tokenizer(None, "<end>", "<end>", period=False)  # pads with its end, strips punctuation
        else:
            vision = {**TOWER, "num_patches": 16, "patch_size": 8}
            config, model = Siglip2Config(text_config=text, vision_config=vision), Siglip2Model
            tokenizer = word_tokenizer(None, "<end>", "<pad>", period=True)
    else:
        text = {**TOWER, **vocabulary, "max_position_embeddings": LENGTH + (name == "altclip"), "project_dim": 28}
        if name == "metaclip_2":
            config = MetaClip2Config(text_config=text, vision_config=vision, projection_dim=24)
        elif name == "chinese_clip":
            config = ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        else:
            config = AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        model = {"metaclip_2": MetaClip2Model, "chinese_clip": ChineseCLIPModel, "altclip": AltCLIPModel}[name]
        tokenizer = word_tokenizer("<start>", "<end>", "<pad>", period=True)
    config._attn_implementation = attention
    model = model(config).eval()
    for parameter in model.parameters():  # far enough from zero that every part matters
        torch.nn.init.normal_(parameter, std=0.15) if parameter.ndim > 1 else None
    return model, tokenizer


FAMILIES = ["metaclip_2", "siglip", "siglip2", "chinese_clip", "altclip"]


@pytest.fixture(params=FAMILIES)
def family(request):
    return (request.param, *make(request.param))


def unit(features):
    return features / features.norm(dim=-1, keepdim=True)


def own_text_features(name, clip, tokenizer, texts):
    """As the model's own documentation encodes texts; padded on the right, as they were trained."""
    full = {"padding": "max_length", "max_length": LENGTH} if "siglip" in name else {"padding": True}
    tokens = tokenizer(texts, return_tensors="pt", padding_side="right", **full)
    if "siglip" in name:
        return clip.get_text_features(tokens["input_ids"]).pooler_output
    return clip.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output


def own_image_features(name, clip, pixel_values, **options):
    if name != "siglip2":
        return clip.get_image_features(pixel_values, **options).pooler_output
    from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

    height, width = pixel_values.shape[-2] // 8, pixel_values.shape[-1] // 8
    patches = torch.stack([torch.from_numpy(convert_image_to_patches(image.numpy(), 8)) for image in pixel_values])
    mask, shapes = torch.ones(len(patches), height * width), torch.tensor([[height, width]] * len(patches))
    return clip.get_image_features(patches, mask, shapes).pooler_output


@torch.no_grad()
def test_zero_shot_and_captions_equal_the_text_features(family):
    name, clip, tokenizer = family
    model = TaiDptModel.zero_shot(clip, LABELS, tokenizer=tokenizer)
    expected = unit(own_text_features(name, clip, tokenizer, [f"a photo of a {label}." for label in LABELS]))
    for branch in model.encode_classes():
        torch.testing.assert_close(branch, expected, rtol=1e-4, atol=1e-5)
    tokens = tokenizer(CAPTIONS, padding=True, padding_side="right", return_tensors="pt")
    pooled, dense = model.encode_captions(tokens["input_ids"], tokens["attention_mask"])
    torch.testing.assert_close(pooled, unit(own_text_features(name, clip, tokenizer, CAPTIONS)), rtol=1e-4, atol=1e-5)
    for caption, features, mask in zip(CAPTIONS, dense, tokens["attention_mask"], strict=True):
        alone = tokenizer(caption, return_tensors="pt")
        single = model.encode_captions(alone["input_ids"], alone["attention_mask"])[1][0]
        assert len(single) == mask.sum()
        torch.testing.assert_close(features[: len(single)], single, rtol=1e-4, atol=1e-5)
        assert not features[len(single) :].any()
        assert single.norm(dim=-1).allclose(torch.ones(len(single)))


@torch.no_grad()
def test_pooled_image_features_are_the_models_own(family):
    name, clip, tokenizer = family
    model = TaiDptModel.zero_shot(clip, LABELS, tokenizer=tokenizer)
    for height, width in ((32, 32), (24, 40)):
        pixel_values = torch.randn(2, 3, height, width)
        options = {"interpolate_pos_encoding": True} if (height, width) != (32, 32) else {}
        pooled, dense = model.encode_images(pixel_values, **options)
        expected = unit(own_image_features(name, clip, pixel_values, **options))
        torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-5)
        assert dense.shape == (2, height // 8, width // 8, model.config.embedding_dim)


@pytest.mark.parametrize("option", ["value", "value_residual", "sclip", "clearclip", "naclip"])
@torch.no_grad()
def test_dense_features_of_an_attention_pool(option):
    from .test_image_encoding import gaussian, mix, norm, project

    clip, tokenizer = make("siglip")
    model = TaiDptModel.zero_shot(clip, LABELS, tokenizer=tokenizer, dense_features=option)
    pixel_values, vision = torch.randn(1, 3, 32, 32), clip.vision_model
    hidden = vision.embeddings(pixel_values)
    hidden = vision.encoder.layers[0](hidden, None)[0]  # (cells, width), before the last of two blocks
    layer = vision.encoder.layers[1]
    q, k, v = (project(getattr(layer.self_attn, f"{part}_proj"), norm(layer.layer_norm1, hidden)) for part in "qkv")
    y = project(layer.self_attn.out_proj, mix(option, q, k, v, 4, gaussian(4, 4, 0)))
    if option in ("value_residual", "sclip"):
        y = hidden + y
        y = y + layer.mlp(norm(layer.layer_norm2, y))
    y = norm(vision.post_layernorm, y)
    head = vision.head  # a pool over one patch gives it all its attention
    y = project(head.attention.out_proj, y @ head.attention.in_proj_weight[64:].T + head.attention.in_proj_bias[64:])
    y = y + head.mlp(norm(head.layernorm, y))
    torch.testing.assert_close(model.encode_images(pixel_values)[1][0].flatten(0, 1), unit(y), rtol=1e-4, atol=1e-5)


def plain_class_embeddings(name, model):
    """One class, one branch at a time, through the text tower with its own embeddings replaced."""
    clip, config, results = model.clip, model.config, []
    table = clip.text_model.get_input_embeddings()
    for context in (model.prompt_learner.global_context, model.prompt_learner.local_context):
        rows = []
        for index, ids in enumerate(config.class_input_ids):
            vectors = context[index] if config.class_specific_context else context
            start = [2] if "siglip" not in name else []
            period = [4] if name != "siglip" else []
            ids = [*start, *[3] * len(vectors), *ids, *period, 1]  # unknown tokens where the context stands
            if "siglip" in name:
                ids += [config.pad_token_id] * (LENGTH - len(ids))

            first = len(start)

            def put_context(module, inputs, output, vectors=vectors, first=first):
                return torch.cat([output[:, :first], vectors[None], output[:, first + len(vectors) :]], dim=1)

            hook = table.register_forward_hook(put_context)
            rows.append(unit(clip.get_text_features(torch.tensor([ids])).pooler_output[0]))
            hook.remove()
        results.append(torch.stack(rows))
    return torch.stack(results)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("class_specific", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_learned_prompts_equal_the_plain_computation(name, class_specific, attention):
    clip, tokenizer = make(name, attention)
    model = TaiDptModel.from_clip(
        clip, LABELS, tokenizer, num_context_tokens=4, class_specific_context=class_specific
    ).train()
    contexts = list(model.prompt_learner.parameters())
    torch.manual_seed(1)
    with torch.no_grad():
        for context in contexts:
            context.copy_(torch.randn_like(context) * 0.3)
    ours, plain = torch.stack(model.encode_classes()), plain_class_embeddings(name, model)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    weights = torch.randn(ours.shape)
    for left, right in zip(
        torch.autograd.grad((ours * weights).sum(), contexts),
        torch.autograd.grad((plain * weights).sum(), contexts),
        strict=True,
    ):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_scores_save_and_load(family, tmp_path):
    _, clip, tokenizer = family
    clip.save_pretrained(tmp_path / "base")
    model = TaiDptModel.from_clip(str(tmp_path / "base"), LABELS, tokenizer, context_init="a photo of a")
    assert torch.equal(model.prompt_learner.global_context[1], clip.text_model.get_input_embeddings().weight[8])
    pixel_values = torch.randn(2, 3, 32, 32)
    outputs = model(pixel_values=pixel_values)
    pooled, dense = model.encode_images(pixel_values)
    g, h = model.encode_classes()
    s = torch.einsum("bhwd,cd->bhwc", dense, h).flatten(1, 2)
    expected = 0.5 * 4 * pooled @ g.T + 0.5 * (4 * s * torch.softmax(40 * s, dim=1)).sum(dim=1)
    torch.testing.assert_close(outputs.logits, expected, rtol=1e-4, atol=1e-5)
    for prompts_only in (False, True):
        model.save_pretrained(tmp_path / "prompts", prompts_only=prompts_only)
        loaded = TaiDptModel.from_pretrained(tmp_path / "prompts")
        torch.testing.assert_close(loaded(pixel_values=pixel_values).logits, outputs.logits, rtol=1e-5, atol=1e-6)
    other = model.with_labels(["cat", "photo of light"])
    torch.testing.assert_close(other.encode_classes()[0][0], g[2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.bake()(pixel_values=pixel_values).logits, outputs.logits)


def test_kept_caption_features_are_those_of_the_model(family, tmp_path):
    _, clip, tokenizer = family
    model = TaiDptModel.from_clip(clip, LABELS, tokenizer, num_context_tokens=2)
    labels = torch.tensor([[1, 1, 0], [0, 0, 1], [1, 0, 1]]).numpy()
    kept = CaptionFeatures.encode(model, CAPTIONS, labels, tokenizer, cache_dir=tmp_path, progress=False)
    for index, caption in enumerate(CAPTIONS):
        alone = tokenizer(caption, return_tensors="pt")
        pooled, tokens = model.encode_captions(alone["input_ids"], alone["attention_mask"])
        torch.testing.assert_close(kept[index]["caption_embeds"], pooled[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(kept[index]["token_embeds"], tokens[0], rtol=1e-4, atol=1e-5)


def test_saved_models_keep_an_image_processor_that_fits(tmp_path):
    from transformers import Siglip2ImageProcessor

    from modeling_taidpt.hub import find_image_processor

    clip, tokenizer = make("siglip2")
    Siglip2ImageProcessor(patch_size=8).save_pretrained(tmp_path)  # cuts patches: of no use here
    options = {"num_context_tokens": 2, "base_model_name_or_path": str(tmp_path)}
    model = TaiDptModel.from_clip(clip, LABELS, tokenizer, **options)
    processor = find_image_processor(model.config)
    assert (type(processor).__name__.removesuffix("Pil"), dict(processor.size)) == (
        "SiglipImageProcessor",
        {"height": 32, "width": 32},
    )


def test_clear_errors(tmp_path):
    clip, tokenizer = make("siglip")
    model = TaiDptModel.from_clip(clip, LABELS, tokenizer, num_context_tokens=2)
    tokens = tokenizer(CAPTIONS, padding=True, return_tensors="pt")
    with pytest.raises(ValueError, match="padded on the left"):
        model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    with pytest.raises(ValueError, match=r"The prompt of class 'dog' has .* tokens, the text tower takes 16"):
        TaiDptModel.from_clip(clip, LABELS, tokenizer, num_context_tokens=15)
    clip, tokenizer = make("siglip2")
    model = TaiDptModel.from_clip(clip, LABELS, tokenizer, num_context_tokens=2)
    with pytest.raises(ValueError, match="cuts no patches, as `SiglipImageProcessor`"):
        model(pixel_values=torch.randn(1, 16, 192))


@pytest.mark.parametrize("name", FAMILIES)
def test_training_saving_and_the_pipeline(name, tmp_path):
    clip, tokenizer = make(name)
    clip.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = TaiDptModel.from_clip(str(tmp_path / "base"), LABELS, num_context_tokens=2)
    before = model.prompt_learner.global_context.detach().clone()
    args = TaiDptTrainingArguments(
        str(tmp_path / "run"),
        max_steps=3,
        learning_rate=1e-2,
        per_device_train_batch_size=2,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        add_templates=False,
        feature_cache_dir=str(tmp_path / "cache"),
        report_to="none",
        disable_tqdm=True,
    )
    captions = Dataset.from_dict({"caption": [*CAPTIONS, "a dog", "the traffic light", "a dog and a cat"]})
    trainer = TaiDptTrainer(model, args, train_dataset=captions, processing_class=tokenizer)
    trainer.train()
    assert not torch.equal(model.prompt_learner.global_context, before)
    trainer.save_model()
    model.save_pretrained(tmp_path / "prompts", prompts_only=True)
    model.bake().save_pretrained(tmp_path / "baked")
    size = {folder: (tmp_path / folder / "model.safetensors").stat().st_size for folder in ("run", "prompts", "baked")}
    assert size["prompts"] < 0.1 * size["run"] and size["baked"] < 0.7 * size["run"]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8))
    scores = []
    for folder in ("run", "prompts", "baked"):
        tagger = pipeline("multi-label-image-classification", model=str(tmp_path / folder), device="cpu")
        results = tagger(image, return_heatmaps=True, center_crop=False)
        assert all(result["heatmap"].shape == (48, 40) and np.isfinite(result["heatmap"]).all() for result in results)
        scores.append({result["label"]: result["score"] for result in results})
    assert scores[0] == pytest.approx({label: scores[1][label] for label in LABELS}, abs=1e-6)
    assert scores[0] == pytest.approx({label: scores[2][label] for label in LABELS}, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("siglip2", "torch"),
        ("chinese_clip", "torch"),
        *(pytest.param(name, "onnx", marks=pytest.mark.slow) for name in FAMILIES),
    ],
)
def test_exports_take_any_number_and_size_of_images(name, kind, tmp_path):
    from modeling_taidpt.export.programs import export_onnx, export_torch

    clip, tokenizer = make(name)
    model = TaiDptModel.from_clip(clip, LABELS, tokenizer, num_context_tokens=2)
    file = (export_torch if kind == "torch" else export_onnx)(model, tmp_path, heatmaps=True)
    if kind == "torch":
        program = torch.export.load(file).module()
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(file)

        def program(pixels):
            return [torch.from_numpy(value) for value in session.run(None, {"pixel_values": pixels.numpy()})]

    for shape in ((1, 3, 32, 32), (3, 3, 40, 64)):
        pixels = torch.randn(shape)
        with torch.no_grad():
            expected = model(pixel_values=pixels, interpolate_pos_encoding=True)
            probabilities, similarity = program(pixels)
        torch.testing.assert_close(probabilities, expected.logits.sigmoid(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(similarity, expected.similarity_map, rtol=1e-4, atol=1e-5)
