"""Other dual encoders of transformers: every feature against the model's own calls, every prompt written out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    BertConfig,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegModel,
    CLIPVisionConfig,
    DistilBertConfig,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerFast,
    RobertaConfig,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
    Tipsv2Config,
    Tipsv2Model,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
    pipeline,
)

from modeling_taidpt import CaptionFeatures, TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments
from modeling_taidpt.hub import find_image_processor

LABELS = ["dog", "traffic light", "cat"]
CAPTIONS = ["a dog at a traffic light", "a cat", "the cat and the dog see a cat"]
WORDS = ["a", "the", "of", "photo", "dog", "traffic", "light", "cat", "at", "and", "see"]
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LENGTH = 16


def word_tokenizer(start: str | None, end: str | None, pad: str, period: bool) -> PreTrainedTokenizerFast:
    """A word-level tokenizer framed as a family frames its texts; without `period` it strips punctuation."""
    tokens = ["<pad>", "<end>", "<start>", "<unk>", ".", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("isolated" if period else "removed")]
    )
    tokenizer.normalizer = normalizers.Lowercase()
    frame = " ".join(filter(None, (start, "$A", end)))
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
    text = {**TOWER, **vocabulary, "max_position_embeddings": LENGTH}
    tokenizer = word_tokenizer("<start>", "<end>", "<pad>", period=True)
    if name == "siglip":
        config, model = SiglipConfig(text_config=text, vision_config=vision), SiglipModel
        tokenizer = word_tokenizer(None, "<end>", "<end>", period=False)  # pads with its end, strips punctuation
    elif name == "siglip2":
        vision = {**TOWER, "num_patches": 16, "patch_size": 8}
        config, model = Siglip2Config(text_config=text, vision_config=vision), Siglip2Model
        tokenizer = word_tokenizer(None, "<end>", "<pad>", period=True)
    elif name == "tipsv2":
        vision |= {"mlp_ratio": 2, "layerscale_value": 0.7}
        config, model = Tipsv2Config(text_config=text, vision_config=vision), Tipsv2Model
        tokenizer = word_tokenizer(None, None, "<pad>", period=True)
    elif name in ("vit-roberta", "clip-bert"):
        towers = (
            (ViTConfig(**vision), RobertaConfig(**text | {"max_position_embeddings": LENGTH + 1}))
            if name == "vit-roberta"
            else (CLIPVisionConfig(**vision), BertConfig(**text))
        )
        config = VisionTextDualEncoderConfig.from_vision_text_configs(*towers, projection_dim=24)
        model = VisionTextDualEncoderModel
    else:
        text |= {"project_dim": 28} | ({"max_position_embeddings": LENGTH + 1} if name == "altclip" else {})
        kinds = {
            "metaclip_2": (MetaClip2Config, MetaClip2Model),
            "clipseg": (CLIPSegConfig, CLIPSegModel),
            "chinese_clip": (ChineseCLIPConfig, ChineseCLIPModel),
            "altclip": (AltCLIPConfig, AltCLIPModel),
        }
        config_class, model = kinds[name]
        config = config_class(text_config=text, vision_config=vision, projection_dim=24)
    config._attn_implementation = attention
    model = model(config).eval()
    for parameter in model.parameters():  # far enough from zero that every part matters
        torch.nn.init.normal_(parameter, std=0.15) if parameter.ndim > 1 else None
    return model, tokenizer


FAMILIES = [
    *("metaclip_2", "siglip", "siglip2", "chinese_clip", "altclip"),
    *("tipsv2", "clipseg", "vit-roberta", "clip-bert"),  # the last two are vision-text dual encoders
]


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
        options = {} if name == "tipsv2" else options  # its positions always fit
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


@pytest.mark.parametrize("option", ["value", "value_residual", "sclip", "clearclip", "naclip"])
@pytest.mark.parametrize("name", ["tipsv2", "vit-roberta"])
@torch.no_grad()
def test_dense_features_of_other_blocks(name, option):
    """TIPS v2: a class token, a register, scaled layers; ViT: a pooler before the projection."""
    from .test_image_encoding import gaussian, mix, norm, project

    clip, tokenizer = make(name)
    model = TaiDptModel.zero_shot(clip, LABELS, tokenizer=tokenizer, dense_features=option)
    vision, heights = clip.vision_model, ((4, 4), (3, 5))
    layers = vision.encoder.layer if name == "tipsv2" else vision.layers
    first, last = layers
    norms, prefix = (
        ((last.norm1, last.norm2), 2) if name == "tipsv2" else ((last.layernorm_before, last.layernorm_after), 1)
    )
    scales = (last.layer_scale1.lambda1, last.layer_scale2.lambda1) if name == "tipsv2" else (1, 1)
    for height, width in heights:
        pixel_values = torch.randn(1, 3, 8 * height, 8 * width)
        options = {} if name == "tipsv2" else {"interpolate_pos_encoding": True}
        hidden = first(vision.embeddings(pixel_values, **options), None)[0]  # (prefix + cells, width)
        q, k, v = (project(getattr(last.attention, f"{part}_proj"), norm(norms[0], hidden)) for part in "qkv")
        mixed = mix(option, q, k, v, 4, gaussian(height, width, prefix))
        y = scales[0] * project(last.attention.o_proj, mixed)
        if option in ("value_residual", "sclip"):
            y = hidden + y
            y = y + scales[1] * last.mlp(norm(norms[1], y))
        y = norm(vision.layernorm, y)[prefix:]
        if name == "vit-roberta":
            y = clip.visual_projection(torch.tanh(project(vision.pooler.dense, y)))
        dense = model.encode_images(pixel_values, interpolate_pos_encoding=True)[1][0]
        torch.testing.assert_close(dense.flatten(0, 1), unit(y), rtol=1e-4, atol=1e-5)


def test_tips_is_seen_by_its_values_with_residual_and_in_plain_pixels(tmp_path):
    """As in the published segmentation; its image processor needs torchvision in transformers, not here."""
    clip, tokenizer = make("tipsv2")
    assert TaiDptModel.zero_shot(clip, LABELS, tokenizer=tokenizer).config.dense_features == "value_residual"
    chosen = TaiDptModel.from_clip(clip, LABELS, tokenizer, num_context_tokens=2, dense_features="naclip")
    assert chosen.config.dense_features == "naclip"
    white = Image.new("RGB", (50, 40), (255, 51, 0))
    settings = {"image_processor_type": "Tipsv2ImageProcessor", "size": {"height": 24, "width": 40}}
    (tmp_path / "base").mkdir()
    clip.save_pretrained(tmp_path / "base")
    for size, stored in (((32, 32), None), ((24, 40), settings)):
        if stored:
            stored = stored | {"do_normalize": False, "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255}
            (tmp_path / "base" / "preprocessor_config.json").write_text(json.dumps(stored))
        model = TaiDptModel.from_clip(str(tmp_path / "base"), LABELS, tokenizer, num_context_tokens=2)
        pixels = find_image_processor(model.config)(images=white, return_tensors="pt")["pixel_values"]
        assert pixels.shape == (1, 3, *size)
        torch.testing.assert_close(pixels[0].amax((1, 2)), torch.tensor([1.0, 0.2, 0.0]), rtol=0, atol=1e-6)


@torch.no_grad()
def test_tips_texts_without_a_word_have_finite_scores(tmp_path):
    """Its texts have no start and no end: an empty one is a token of padding, and padding needs no mask."""
    clip, tokenizer = make("tipsv2")
    model = TaiDptModel.zero_shot(clip, LABELS, tokenizer=tokenizer)
    tokens = tokenizer([*CAPTIONS, ""], padding=True, padding_side="right", return_tensors="pt")
    with_mask = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits
    assert with_mask.isfinite().all()
    assert torch.equal(model(input_ids=tokens["input_ids"]).logits, with_mask)
    assert model.encode_texts(["", "a cat"]).isfinite().all() and model.encode_texts([""]).isfinite().all()
    kept = CaptionFeatures.encode(model, ["", "a cat"], np.eye(2, 3), tokenizer, cache_dir=tmp_path, progress=False)
    assert [len(kept[index]["token_embeds"]) for index in (0, 1)] == [1, 2]


@torch.no_grad()
def test_what_cosines_are_multiplied_with(family):
    from modeling_taidpt.backbones import compute_dtype, contrastive_scale

    name, clip, tokenizer = family
    tokens = tokenizer(["a cat"], padding="max_length", max_length=LENGTH, return_tensors="pt")
    if name == "siglip2":
        expected = clip.logit_scale.exp()
    else:
        outputs = clip(pixel_values=torch.randn(1, 3, 32, 32), **tokens)
        cosine = unit(outputs.image_embeds) @ unit(outputs.text_embeds).T
        expected = (outputs.logits_per_image - getattr(clip, "logit_bias", 0)) / cosine
    torch.testing.assert_close(contrastive_scale(clip), expected.reshape(()), rtol=1e-4, atol=1e-4)
    assert compute_dtype(clip.to(torch.bfloat16)) == torch.bfloat16
    model = TaiDptModel.zero_shot(clip.float(), LABELS, tokenizer=tokenizer)
    bank = unit(torch.randn(5, model.config.embedding_dim))
    model.set_caption_bank(bank)
    assert model(pixel_values=torch.randn(1, 3, 32, 32)).logits.isfinite().all()


@pytest.mark.parametrize("name", ["tipsv2", "vit-roberta"])
def test_hidden_states_and_attentions(name):
    clip, tokenizer = make(name, "eager")
    model = TaiDptModel.zero_shot(clip, LABELS, tokenizer=tokenizer)
    pixel_values, flags = torch.randn(1, 3, 32, 32), {"output_hidden_states": True, "output_attentions": True}
    expected, outputs = clip.vision_model(pixel_values, **flags), model(pixel_values=pixel_values, **flags)
    for kind in ("hidden_states", "attentions"):
        for ours, theirs in zip(getattr(outputs, kind), getattr(expected, kind), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def plain_class_embeddings(name, model):
    """One class, one branch at a time, through the text tower with its own embeddings replaced."""
    clip, config, results = model.clip, model.config, []
    table = clip.text_model.get_input_embeddings()
    for context in (model.prompt_learner.global_context, model.prompt_learner.local_context):
        rows = []
        for index, ids in enumerate(config.class_input_ids):
            vectors = context[index] if config.class_specific_context else context
            start = [2] if "siglip" not in name and name != "tipsv2" else []
            period = [4] if name != "siglip" else []
            end = [1] if name != "tipsv2" else []
            ids = [*start, *[3] * len(vectors), *ids, *period, *end]  # unknown tokens where the context stands
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

    clip, tokenizer = make("siglip2")
    Siglip2ImageProcessor(patch_size=8).save_pretrained(tmp_path)  # cuts patches: of no use here
    options = {"num_context_tokens": 2, "base_model_name_or_path": str(tmp_path)}
    model = TaiDptModel.from_clip(clip, LABELS, tokenizer, **options)
    processor = find_image_processor(model.config)
    assert (type(processor).__name__.removesuffix("Pil"), dict(processor.size)) == (
        "SiglipImageProcessor",
        {"height": 32, "width": 32},
    )


@pytest.mark.parametrize("name", ["siglip", "chinese_clip", "tipsv2", "vit-roberta"])
def test_padding_on_the_left_is_refused_where_it_moves_the_text(name):
    clip, tokenizer = make(name)
    model = TaiDptModel.from_clip(clip, LABELS, tokenizer, num_context_tokens=2)
    tokens = tokenizer(CAPTIONS, padding=True, return_tensors="pt")
    with pytest.raises(ValueError, match="padded on the left"):
        model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])


def test_towers_without_a_pooler_are_refused_before_weights_are_read(tmp_path):
    small = {"dim": 32, "hidden_dim": 64, "n_layers": 1, "n_heads": 2, "vocab_size": 40}
    vision = CLIPVisionConfig(**TOWER, image_size=32, patch_size=8)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, DistilBertConfig(**small))
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`text_config` of this .* is a `distilbert`: supported are .*xlm-roberta"):
        TaiDptModel.from_clip(str(tmp_path), LABELS, make("clip-bert")[1])


def test_the_clip_of_a_published_clipseg_is_taken_out_of_it(tmp_path):
    clip, tokenizer = make("clipseg")
    config = clip.config
    config.extract_layers, config.reduce_dim, config.decoder_num_attention_heads = [0, 1], 8, 2
    whole = CLIPSegForImageSegmentation(config)
    whole.save_pretrained(tmp_path)
    model = TaiDptModel.from_clip(str(tmp_path), LABELS, tokenizer, num_context_tokens=2)
    for name, weight in whole.clip.state_dict().items():
        assert torch.equal(model.clip.state_dict()[name], weight)


@pytest.mark.parametrize("name", ["siglip", "tipsv2", "altclip"])
def test_prompts_may_fill_the_text_tower_to_its_last_position(name):
    clip, tokenizer = make(name)
    frame = {"siglip": 1, "tipsv2": 0, "altclip": 2}[name]
    free = LENGTH - frame - 1 - (name != "siglip")  # a name of one token, and a full stop
    assert (
        TaiDptModel.from_clip(clip, ["dog"], tokenizer, num_context_tokens=free).encode_classes()[0].isfinite().all()
    )
    with pytest.raises(ValueError, match="has 17 tokens, the text tower takes 16"):
        TaiDptModel.from_clip(clip, ["dog"], tokenizer, num_context_tokens=free + 1)


def test_the_full_stop_is_the_one_at_the_end_of_a_word():
    """SentencePiece puts the space before a text into a token of its own: alone, a full stop begins with it."""
    pieces = ["<pad>", "<unk>", "▁", ".", "▁a", "▁dog", "▁cat", *"docat"]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in dict.fromkeys(pieces)], unk_id=1))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    assert fast(".", add_special_tokens=False)["input_ids"] == [2, 3]
    model = TaiDptModel.from_clip(make("tipsv2")[0], ["dog", "cat"], fast, num_context_tokens=2)
    assert model.config.period_token_id == 3


def test_clear_errors(tmp_path):
    clip, tokenizer = make("siglip")
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
