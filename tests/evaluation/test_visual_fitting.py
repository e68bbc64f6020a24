"""The visual classifier against PIAA's published steps written out with loops, and what keeps it with its model."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from modeling_taidpt import TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments, ensemble_prompts, with_hypernyms
from modeling_taidpt.ensembles import with_negative_prompts
from modeling_taidpt.evaluation import fit_visual_classifier
from modeling_taidpt.evaluation.visual_fitting import PatchSelection, fit_discriminant, sure_patches
from modeling_taidpt.features.images import ImageFeatures
from modeling_taidpt.hub import find_image_processor
from modeling_taidpt.pipelines import TASK
from modeling_taidpt.training.setup import forget_fits
from modeling_taidpt.visual_classifier import SHARE, attach_classifier

from ..conftest import assert_same_scores, make_clip

LABELS = ["dog", "cat", "traffic light", "zebra", "boat", "person"]
COUNT = 110


def make_model(tokenizer, **options):
    options = {"num_context_tokens": 2, "class_specific_context": True} | options
    return TaiDptModel.from_clip(make_clip(), LABELS, tokenizer, **options)


@pytest.fixture(scope="module")
def photographs():
    generator = np.random.default_rng(0)
    cells = generator.integers(0, 256, (COUNT, 5, 5, 3), dtype=np.uint8)
    return [Image.fromarray(cell).resize((40, 36), Image.Resampling.BICUBIC) for cell in cells]


@pytest.fixture(scope="module")
def features(photographs, tokenizer, tmp_path_factory):
    rows = [{"image": image} for image in photographs]
    folder = tmp_path_factory.mktemp("cache")
    return ImageFeatures.encode(make_model(tokenizer), rows, label_column=None, cache_dir=folder, progress=False)


@pytest.fixture(scope="module")
def adapted(features, tokenizer):
    """A model with a classifier; tests that change it copy it."""
    model = make_model(tokenizer)
    fit_visual_classifier(model, features)
    return model


def by_hand(patches, prompts, size):
    """`learn.py` of PIAA, one patch and one class at a time; the temperature of the second round is 1."""
    classes, dim = prompts.shape
    found = [[] for _ in range(classes)]
    for patch in patches:
        cosines = [float(patch @ prompt) for prompt in prompts]
        exponentials = [math.exp(60 * cosine) for cosine in cosines]
        posterior = [value / sum(exponentials) for value in exponentials]
        entropy = -sum(value * math.log(max(value, 1e-10)) for value in posterior)
        best = int(np.argmax(cosines))
        found[best].append((entropy, posterior[best], patch))
    bank = {index: sorted(entries, key=lambda entry: entry[0])[:size] for index, entries in enumerate(found)}

    def discriminant(bank):
        means = []
        for index in range(classes):
            entries = bank.get(index, [])
            total = sum(weight for _, weight, _ in entries)
            means.append(sum(w * p for _, w, p in entries) / total if entries else prompts[index])
        centered = torch.stack([p - means[index] for index in bank for _, _, p in bank[index]])
        n, covariance = len(centered), torch.cov(centered.T)
        shrunk = (n - 1) * covariance + torch.trace(covariance) * torch.eye(dim, dtype=covariance.dtype)
        inverse = dim * torch.linalg.pinv(shrunk)
        weight = torch.stack([inverse @ mean for mean in means])
        bias = torch.stack([-math.log(classes) - mean @ inverse @ mean / 2 for mean in means])
        return weight, bias

    weight, bias = discriminant(bank)
    again = {index: [] for index in range(classes)}
    for entries in bank.values():
        for _, _, patch in entries:
            posterior = (weight @ patch + bias).softmax(dim=0)
            again[int(posterior.argmax())].append((0.0, float(posterior.max()), patch))
    for index, entries in again.items():
        values = np.array([entry[1] for entry in entries])
        bar = values.mean() + values.std(ddof=1) if len(values) > 1 else math.inf
        again[index] = [entry for entry in entries if entry[1] >= bar]
    return discriminant(again)


def unit(values):
    return values / values.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("size", [7, 512])
def test_it_equals_the_published_steps_written_out(size):
    generator = torch.Generator().manual_seed(1)
    prompts = unit(torch.randn(5, 12, generator=generator, dtype=torch.float64))
    noise = torch.randn(400, 12, generator=generator, dtype=torch.float64)
    patches = unit(prompts[torch.randint(4, (400,), generator=generator)] + 0.4 * noise)
    selection = PatchSelection(prompts, size)
    for start in range(0, 400, 60):
        selection.add(patches[start : start + 60])
    kept = selection.patches()
    assert len(kept[0]) <= 5 * size
    weight, bias = fit_discriminant(*kept, prompts)
    weight, bias = fit_discriminant(*sure_patches(kept[0], weight, bias), prompts)
    expected = by_hand(patches, prompts, size)
    torch.testing.assert_close(weight, expected[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(bias, expected[1], rtol=1e-6, atol=1e-6)


def test_the_selection_does_not_depend_on_batches():
    generator = torch.Generator().manual_seed(2)
    prompts, patches = unit(torch.randn(4, 8, generator=generator)), unit(torch.randn(300, 8, generator=generator))
    patches = torch.cat([patches, patches[:50]])  # of equal entropies the earlier ones stay
    whole, parts = PatchSelection(prompts, 20), PatchSelection(prompts, 20)
    whole.add(patches)
    for patch in patches.split(7):
        parts.add(patch)
    for left, right in zip(whole.patches(), parts.patches(), strict=True):
        torch.testing.assert_close(left, right)


@torch.no_grad()
def test_the_joined_similarity_has_the_units_of_the_prompts(adapted, features, tokenizer):
    """Every patch: a share of the discriminant, whose mean and deviation over all patches are those of the cosines."""
    plain, joined, visual = [], [], []
    prompts = adapted.encode_classes()[1]
    patches = torch.stack([features[index]["dense_embeds"].flatten(0, 1) for index in range(COUNT)]).flatten(0, 1)
    for patch in patches:
        plain.append(prompts @ patch)
        visual.append(adapted.visual_classifier.weight @ patch + adapted.visual_classifier.bias)
        joined.append((1 - SHARE) * plain[-1] + SHARE * visual[-1])
    plain, joined, visual = torch.stack(plain), torch.stack(joined), torch.stack(visual)
    torch.testing.assert_close(visual.mean(dim=0), plain.mean(dim=0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(visual.std(dim=0), plain.std(dim=0), rtol=1e-3, atol=1e-3)
    item = features[0]
    outputs = adapted(image_embeds=item["image_embeds"][None], dense_embeds=item["dense_embeds"][None])
    cells = outputs.similarity_map[0].flatten(1).T  # (cells, classes)
    torch.testing.assert_close(cells, joined[: len(cells)])
    weights = (adapted.config.image_spatial_scale * cells).softmax(dim=0)  # (cells, classes)
    local = adapted.config.logit_scale * (weights * cells).sum(dim=0)
    torch.testing.assert_close(outputs.logits_local[0], local)
    without = adapted(
        image_embeds=item["image_embeds"][None], dense_embeds=item["dense_embeds"][None], standardize=False
    )
    assert_same_scores(without.similarity_map[0].flatten(1).T, plain[: len(cells)])
    caption = adapted.get_tokenizer(tokenizer)("a dog", return_tensors="pt")["input_ids"]
    assert_same_scores(adapted(input_ids=caption).logits, make_model(tokenizer)(input_ids=caption).logits)


def test_fitting_again_gives_the_same(adapted, features, tokenizer):
    model = make_model(tokenizer)
    report = fit_visual_classifier(model, features)
    assert report["photographs"] == COUNT and report["unreadable"] == 0 and 1 <= report["classes"] <= len(LABELS)
    fit_visual_classifier(model, features)  # starts from the prompts, not from the earlier classifier
    for name, value in model.visual_classifier.state_dict().items():
        assert torch.equal(value, adapted.visual_classifier.state_dict()[name])


def test_probabilities_keep_their_mean_and_deviation(features, tokenizer):
    model = make_model(tokenizer)
    model.config.score_scale, model.config.score_bias, model.config.score_calibration = 3.0, -1.0, "30 labelled images"

    def log_odds():
        batch = [features[index] for index in range(COUNT)]
        pooled, dense = (torch.stack([item[name] for item in batch]) for name in ("image_embeds", "dense_embeds"))
        with torch.no_grad():
            return model.probabilities(model(image_embeds=pooled, dense_embeds=dense).logits.double()).logit()

    before = log_odds()
    fit_visual_classifier(model, features)
    after = log_odds()
    torch.testing.assert_close(after.mean(dim=0), before.mean(dim=0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(after.std(dim=0), before.std(dim=0), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(after, before, atol=1e-3)
    assert model.config.score_calibration == "30 labelled images; scores matched on 110 unlabelled photographs"
    fit_visual_classifier(model, features)
    torch.testing.assert_close(log_odds(), after, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_it_is_saved_loaded_and_baked(adapted, tmp_path):
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = adapted(pixel_values=pixels)
    adapted.save_pretrained(tmp_path)
    loaded = TaiDptModel.from_pretrained(tmp_path)
    assert loaded.config.visual_photographs == COUNT
    assert_same_scores(loaded(pixel_values=pixels).logits, expected.logits)
    assert_same_scores(loaded(pixel_values=pixels).similarity_map, expected.similarity_map)
    assert_same_scores(loaded.bake()(pixel_values=pixels).logits, expected.logits)
    assert f"{COUNT} unlabelled photographs" in (tmp_path / "README.md").read_text(encoding="utf-8")
    config = json.loads((tmp_path / "config.json").read_text())
    config["score_statistics"]["visual_photographs"] = "many"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="visual_photographs"):
        TaiDptModel.from_pretrained(tmp_path)


@torch.no_grad()
def test_weights_without_the_classifier_are_not_of_one_save(adapted, tokenizer, tmp_path):
    adapted.save_pretrained(tmp_path / "adapted")
    make_model(tokenizer).save_pretrained(tmp_path / "plain")
    (tmp_path / "adapted" / "model.safetensors").write_bytes((tmp_path / "plain" / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="not of one save"):
        TaiDptModel.from_pretrained(tmp_path / "adapted")


@torch.no_grad()
def test_other_labels_keep_what_fits_them(adapted, tokenizer, caplog):
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = adapted(pixel_values=pixels).logits
    subset = adapted.with_labels(["zebra", "dog"])
    assert_same_scores(subset(pixel_values=pixels).logits, expected[:, [3, 0]])
    mixed = adapted.with_labels(["castle", "cat"])
    assert mixed.config.visual_photographs == COUNT and "'castle' are scored by their prompts alone" in caplog.text
    assert_same_scores(mixed(pixel_values=pixels).logits[:, 1], expected[:, 1])
    plain = make_model(tokenizer).with_labels(["castle"])
    assert_same_scores(mixed(pixel_values=pixels).logits[:, :1], plain(pixel_values=pixels).logits)
    others = adapted.with_labels(["castle", "moon"])
    assert others.visual_classifier is None and others.config.score_statistics is None
    fixed = adapted.with_class_embeddings(*adapted.encode_classes())
    assert fixed.visual_classifier is None and "left out: fit it again" in caplog.text
    assert_same_scores(adapted.with_linear_head()(pixel_values=pixels).logits, expected)


@pytest.mark.parametrize("make", ["ensemble", "hypernym", "negative", "described", "described fixed"])
def test_models_with_other_class_embeddings_are_without_it(make, adapted, tokenizer, features, caplog):
    made = {
        "ensemble": lambda: ensemble_prompts([adapted, make_model(tokenizer)]),
        "hypernym": lambda: with_hypernyms(adapted, {"animal": ["dog", "cat"]}),
        "negative": lambda: with_negative_prompts(adapted, {"dog": "a photo of a cat."}),
        "described": lambda: adapted.with_labels({"dog": ["a wolf"], "cat": []}),
        "described fixed": lambda: fixed.with_labels({"dog": ["a wolf"], "cat": []}),
    }
    fixed = TaiDptModel.zero_shot(make_clip(), LABELS, tokenizer=tokenizer)
    fit_visual_classifier(fixed, features)
    model = made[make]()
    assert model.visual_classifier is None and model.config.visual_photographs == 0
    assert adapted.visual_classifier is not None and fixed.visual_classifier is not None


@pytest.fixture
def trainer(tokenizer, features, tmp_path):
    """Of an adapted model with probabilities, on captions; and the sentences that it says."""
    model = make_model(tokenizer)
    model.config.score_scale, model.config.score_bias, model.config.score_calibration = 3.0, -1.0, "30 labelled images"
    model.config.score_thresholds = 0.4
    fit_visual_classifier(model, features)
    options = {"save_strategy": "no", "eval_strategy": "no", "load_best_model_at_end": False, "add_templates": False}
    options |= {"feature_cache_dir": str(tmp_path / "cache"), "report_to": "none", "disable_tqdm": True}
    arguments = TaiDptTrainingArguments(
        str(tmp_path / "run"), max_steps=1, per_device_train_batch_size=2, use_cpu=True, **options
    )
    captions = [f"a {label} by a {other}" for label in LABELS for other in LABELS]
    return lambda model=model: TaiDptTrainer(model, arguments, train_dataset=captions)


def test_prompts_that_are_learned_further_lose_what_was_fitted_to_them(trainer, caplog):
    made = trainer()
    model = made.model
    assert model.visual_classifier is not None  # to evaluate it changes nothing
    made.train()
    config = model.config
    assert model.visual_classifier is None and config.score_statistics is None
    assert (config.score_scale, config.score_bias, config.score_thresholds, config.score_calibration) == (
        1,
        0,
        None,
        None,
    )
    said = [record.message for record in caplog.records if "are left out, fit them again" in record.message]
    assert said == [
        "The prompts of the model change: its visual classifier (`taidpt adapt`) and its probabilities (`taidpt "
        "calibrate`) are left out, fit them again."
    ]


def test_a_loop_of_ones_own_is_told(adapted, tokenizer, caplog):
    copied = adapted.with_labels(LABELS)
    copied.train(False)
    make_model(tokenizer).train()
    assert "make the visual classifier" not in caplog.text
    copied.train()
    assert "Prompts that are learned further make the visual classifier of this model stale" in caplog.text
    assert copied.visual_classifier is not None


def test_a_linear_head_is_learned_on_the_scores_with_it(adapted):
    headed = adapted.with_linear_head()
    assert forget_fits(headed) is headed and headed.visual_classifier is not None
    assert forget_fits(adapted.with_linear_head(train_prompts=True)).visual_classifier is None
    assert adapted.visual_classifier is not None


def test_z_scores_go_with_it(adapted, tokenizer, features):
    model = make_model(tokenizer)
    fit_visual_classifier(model, features)
    scores = torch.randn(20, len(LABELS), generator=torch.Generator().manual_seed(0))
    model.set_score_statistics(scores, scores)
    assert model.config.visual_photographs == COUNT and len(model.config.score_statistics["global_mean"]) == 6
    model.set_score_statistics(None)
    assert model.config.score_statistics == {"visual_photographs": COUNT}
    attach_classifier(model, None)
    assert model.config.score_statistics is None and model.visual_classifier is None


def test_the_pipeline_serves_it(adapted, photographs):
    tagger = pipeline(TASK, model=adapted, image_processor=find_image_processor(adapted.config))
    plain = {entry["label"]: entry["score"] for entry in tagger(photographs[0], standardize=False)}
    found = tagger(photographs[0], return_heatmaps=True)
    assert {entry["label"]: entry["score"] for entry in found} != plain
    assert found[0]["heatmap"].shape == (36, 40)
    assert len(tagger(photographs[0], multi_crop="max", second_look=True, candidate_labels=["dog", "moon"])) == 2


@pytest.fixture
def folder(photographs, tmp_path):
    """110 photographs and two files that are none."""
    root = tmp_path / "photos"
    root.mkdir()
    for number, image in enumerate(photographs):
        image.save(root / f"{number:03d}.png")
    (root / "050b.png").write_text("no image")
    (root / "zzz.jpg").write_bytes(b"")
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


def test_a_folder_with_images_that_cannot_be_read(adapted, tokenizer, folder):
    model = make_model(tokenizer)
    report = fit_visual_classifier(model, folder, progress=False)
    assert (report["photographs"], report["unreadable"]) == (COUNT, 2)
    for name, value in model.visual_classifier.state_dict().items():  # the cache holds half precision
        torch.testing.assert_close(value, adapted.visual_classifier.state_dict()[name], rtol=0.1, atol=0.05)


def test_too_few_photographs_are_one_sentence(tokenizer, photographs, folder):
    model = make_model(tokenizer)
    with pytest.raises(ValueError, match="at least 100 photographs that can be read, and there are 99: give more"):
        fit_visual_classifier(model, photographs[:99])
    for path in sorted(folder.glob("*.png"))[:12]:
        path.write_text("no image")
    with pytest.raises(ValueError, match="there are 98: give more"):
        fit_visual_classifier(model, folder, progress=False)
    assert model.visual_classifier is None
    with pytest.raises(ValueError, match="positive and negative prompts"):
        fit_visual_classifier(make_model(tokenizer, prompt_pair="positive_negative"), photographs)
    with pytest.raises(ValueError, match="linear head"):
        fit_visual_classifier(model.with_linear_head(), photographs)
