"""Crossing the gap between texts and images, class balance, made captions: each option against its formula."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from modeling_taidpt import TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments, make_captions
from modeling_taidpt.captions.labeler import CaptionLabeler
from modeling_taidpt.captions.statistics import (
    cooccurrence,
    find_agreeing,
    frequency_groups,
    long_tail_weights,
    select_by_rarest_class,
)
from modeling_taidpt.features.captions import CaptionFeatures
from modeling_taidpt.features.prototypes import cluster_directions
from modeling_taidpt.losses import RankingLoss
from modeling_taidpt.modality_gap import center, map_to_captions
from modeling_taidpt.training.feature_augmentation import add_noise, compose_captions

from ..conftest import make_clip

LABELS = ["dog", "cat", "car"]
CAPTIONS = [
    *(f"A dog {place}." for place in ("on a beach", "in a garden", "at night", "near a house", "in the snow")),
    *(f"A cat {place}." for place in ("on a sofa", "in a garden", "at night")),
    *(f"A dog and a cat {place}." for place in ("on a beach", "at home", "in a yard")),
    "A car and a dog.",
    "A red car.",
]


def unit(values) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.as_tensor(values, dtype=torch.float32), dim=-1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def new_trainer(tmp_path, cache, tokenizer):
    def make(output: str = "run", trainer_options=None, model=None, **options) -> TaiDptTrainer:
        defaults = {
            "per_device_train_batch_size": 4,
            "max_steps": 4,
            "learning_rate": 0.05,
            "lr_scheduler_type": "linear",
            "feature_cache_dir": str(cache),
            "validation_size": 0,
            "add_templates": False,
            "disable_tqdm": True,
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "eval_strategy": "no",
            "load_best_model_at_end": False,
        }
        args = TaiDptTrainingArguments(str(tmp_path / output), **{**defaults, **options})
        if model is None:
            torch.manual_seed(3)
            model = TaiDptModel.from_clip(make_clip(), LABELS, tokenizer, num_context_tokens=2)
        data = Dataset.from_dict({"caption": CAPTIONS})
        return TaiDptTrainer(model, args, train_dataset=data, **(trainer_options or {}))

    return make


def learned(trainer) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in trainer.model.prompt_learner.parameters()])


# ---------------------------------------------------------------------- features of a batch


def test_noise_is_added_to_every_coordinate_and_the_feature_normalised_again():
    features = unit([[3, 4], [1, 0]])
    noisy = add_noise(features, 0.5, torch.Generator().manual_seed(1))
    drawn = torch.randn(2, 2, generator=torch.Generator().manual_seed(1))
    for row in range(2):
        x, y = (features[row] + 0.5 * drawn[row]).tolist()
        length = (x * x + y * y) ** 0.5
        assert noisy[row].tolist() == pytest.approx([x / length, y / length], rel=1e-6)


def test_joined_captions_have_the_sum_of_features_the_tokens_of_both_and_the_united_labels():
    inputs = {
        "caption_embeds": unit([[1, 0], [0, 1], [1, 1]]),
        "token_embeds": torch.arange(12.0).view(3, 2, 2) + 1,
        "attention_mask": torch.tensor([[1, 1], [1, 0], [1, 1]]),
        "labels": torch.tensor([[1.0, 0], [0, 1], [0, 1]]),
    }
    before = {name: value.clone() for name, value in inputs.items()}
    joined = compose_captions(inputs, 1.0, torch.Generator().manual_seed(0))
    partner = torch.randperm(3, generator=torch.Generator().manual_seed(0)).tolist()
    for row, other in enumerate(partner):
        total = inputs["caption_embeds"][row] + inputs["caption_embeds"][other]
        assert torch.allclose(joined["caption_embeds"][row], total / total.norm())
        assert joined["labels"][row].tolist() == torch.maximum(inputs["labels"][row], inputs["labels"][other]).tolist()
        assert joined["attention_mask"][row].tolist() == [
            *inputs["attention_mask"][row].tolist(),
            *inputs["attention_mask"][other].tolist(),
        ]
        shown = joined["token_embeds"][row][joined["attention_mask"][row] == 1]
        both = [inputs["token_embeds"][place][inputs["attention_mask"][place] == 1] for place in (row, other)]
        assert torch.equal(shown, torch.cat(both))
    assert all(torch.equal(inputs[name], before[name]) for name in inputs)
    alone = compose_captions(inputs, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(alone["labels"], inputs["labels"])
    assert not alone["attention_mask"][:, 2:].any()


@pytest.mark.parametrize(
    "option",
    [
        {"feature_noise": 0.1},
        {"caption_composition": 0.7},
        {"cooccurrence_smoothing": 0.9},
        {"class_balance_beta": 0.9},
        {"center_features": True},
        {"max_captions_per_class": 2},
        {"noise_filter": 0.4},
    ],
    ids=lambda option: next(iter(option)),
)
def test_each_option_changes_what_is_learned_and_the_seed_fixes_it(new_trainer, option):
    plain, first, second = new_trainer(), new_trainer(**option), new_trainer(**option)
    for trainer in (plain, first, second):
        trainer.train()
    assert not torch.equal(learned(plain), learned(first))
    assert torch.equal(learned(first), learned(second))


def test_training_goes_on_bit_for_bit_with_noise_and_composition(new_trainer):
    options = {
        "feature_noise": 0.1,
        "caption_composition": 0.5,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 2,
        "caption_memory_size": 5,
    }
    whole = new_trainer("whole", **options)
    whole.train()
    new_trainer("parts", **options, save_strategy="steps", save_steps=2).train()
    resumed = new_trainer("parts", **options)
    resumed.train(resume_from_checkpoint=str(resumed.args.output_dir) + "/checkpoint-2")
    assert torch.equal(learned(whole), learned(resumed))
    assert torch.equal(whole.model.caption_memory, resumed.model.caption_memory)


def test_two_batches_of_a_step_draw_different_noise(new_trainer):
    gap = new_trainer(feature_noise=0.1)._gap
    batch = {name: torch.ones(1, 3, 4) for name in ("token_embeds",)}
    batch |= {"caption_embeds": torch.ones(1, 4), "attention_mask": torch.ones(1, 3), "labels": torch.ones(1, 3)}
    draws = [gap.augment(batch, step)["caption_embeds"] for step in (0, 0, 1)]
    assert not any(torch.equal(draws[first], draws[second]) for first, second in ((0, 1), (0, 2), (1, 2)))


# ---------------------------------------------------------------------- prototypes


def encode(labels: list[list[int]], embeds: torch.Tensor, tmp_path) -> CaptionFeatures:
    class Shards:
        dim = embeds.shape[1]

        def __getitem__(self, row):
            return embeds[row], embeds[row][None]

    return CaptionFeatures(Shards(), np.arange(len(labels)), np.asarray(labels))


def test_prototypes_weigh_captions_by_how_many_classes_they_name(tmp_path):
    embeds = unit([[1, 0], [0, 1], [1, 1]])
    features = encode([[1, 0], [1, 1], [0, 1]], embeds, tmp_path)
    plain, _ = features.class_prototypes()
    assert torch.allclose(plain[0], unit((embeds[0] + embeds[1]).tolist()))
    weighed, _ = features.class_prototypes(label_power=2.0)
    assert torch.allclose(weighed[0], unit((embeds[0] + embeds[1] / 4).tolist()))
    assert torch.allclose(weighed[1], unit((embeds[1] / 4 + embeds[2]).tolist()))


def test_clusters_count_alike_however_many_captions_they_have(tmp_path):
    embeds = unit([[1, 0.01]] * 9 + [[0.01, 1]])
    directions = cluster_directions(embeds, 2, seed=1)
    assert len(directions) in (1, 2)
    spread = encode([[1]] * 10, embeds, tmp_path)
    for seed in range(20):
        drawn = np.random.default_rng(seed).permutation(10)[:2]
        if 9 in drawn:  # the two clusters start apart
            balanced, _ = spread.class_prototypes(seed=seed, clusters=2)
            assert torch.allclose(balanced[0], unit([1.0, 1.0]), atol=1e-5)
            break
    plain, _ = spread.class_prototypes()
    assert plain[0, 0] > 0.95


# ---------------------------------------------------------------------- scoring


def test_an_image_is_mapped_to_the_mean_of_near_captions():
    image, memory = unit([[1.0, 2.0]]), unit([[1, 0], [0, 1], [1, 1]])
    cosines = (image @ memory.T)[0].tolist()
    exponentials = [np.exp(5 * cosine) for cosine in cosines]
    mean = sum(w / sum(exponentials) * b for w, b in zip(exponentials, memory.double(), strict=True))
    expected = 0.75 * mean / mean.norm() + 0.25 * image[0].double()
    mapped = map_to_captions(image, memory, 5.0, 0.75)
    assert torch.allclose(mapped[0].double(), expected / expected.norm(), atol=1e-6)


def test_centring_takes_the_mean_off_and_normalises():
    feature = unit([[3.0, 4.0]])
    centred = center(feature, {"image": [0.5, 0.1]}, "image")
    assert torch.allclose(centred, unit([[0.1, 0.7]]))
    assert center(feature, {"image": [0.5, 0.1]}, "caption") is feature
    assert center(feature, None, "image") is feature


def test_memory_and_means_act_on_scores_and_are_saved_with_the_model(tokenizer, tmp_path):
    model = TaiDptModel.from_clip(make_clip(), LABELS, tokenizer, num_context_tokens=2)
    pixels = torch.randn(2, 3, 32, 32)
    plain = model(pixels)
    model.set_caption_memory(unit(torch.randn(5, 24)))
    model.config.feature_means = {"image": [0.05] * 24, "cell": [0.02] * 24}
    ours = model(pixels)
    pooled, dense = model.encode_images(pixels)
    pooled = map_to_captions(center(pooled, model.config.feature_means, "image"), model.caption_memory, 40.0, 1.0)
    centred = unit(dense - 0.02)
    model.set_caption_memory(None)
    model.config.feature_means = None
    expected = model(image_embeds=pooled, dense_embeds=centred)
    assert torch.allclose(ours.logits, expected.logits, atol=1e-5)
    assert not torch.allclose(ours.logits, plain.logits, atol=1e-3)
    model.set_caption_memory(unit(torch.randn(5, 24)))
    model.config.feature_means = {"image": [0.05] * 24}
    model.save_pretrained(tmp_path / "saved")
    loaded = TaiDptModel.from_pretrained(tmp_path / "saved")
    for other in (loaded, model.with_labels(LABELS), model.bake()):
        assert torch.allclose(other(pixels).logits, model(pixels).logits, atol=1e-5)
    captions = tokenizer(["a dog"], return_tensors="pt")
    scores = model(**captions).logits_global
    model.set_caption_memory(None)
    assert torch.equal(scores, model(**captions).logits_global)  # captions are where they should be


def test_bad_memories_and_means_are_one_sentence(tokenizer):
    model = TaiDptModel.from_clip(make_clip(), LABELS, tokenizer, num_context_tokens=2)
    with pytest.raises(ValueError, match=r"shape \(3, 7\): give \(captions, 24\)"):
        model.set_caption_memory(torch.zeros(3, 7))
    for options, words in (
        ({"feature_means": {"image": [1.0]}}, "has 1 numbers: the features have 24"),
        ({"feature_means": {"picture": [1.0]}}, "choose one of 'caption'"),
        ({"caption_memory_weight": 2.0}, "a share from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=words):
            TaiDptModel.from_clip(make_clip(), LABELS, tokenizer, **options)


def test_the_trainer_keeps_memory_and_means_of_its_captions_and_images(new_trainer):
    class Images:
        rows = np.array([0, 1])
        shards = ((unit([1.0] * 24), unit([[1.0] * 24])), (torch.zeros(24), torch.zeros(3, 24)))

    trainer = new_trainer(
        caption_memory_size=6, center_features=True, max_steps=1, trainer_options={"unlabeled_images": Images()}
    )
    trainer.train()
    assert trainer.model.caption_memory.shape == (6, 24)
    means = trainer.model.config.feature_means
    rows = [trainer.train_dataset[index] for index in range(len(CAPTIONS))]
    assert means["caption"] == pytest.approx(
        torch.stack([row["caption_embeds"] for row in rows]).mean(dim=0).tolist(), abs=1e-6
    )
    assert means["token"] == pytest.approx(
        torch.stack([row["token_embeds"].mean(dim=0) for row in rows]).mean(dim=0).tolist(), abs=1e-6
    )
    assert means["image"] == means["cell"] == pytest.approx([0.5 / 24**0.5] * 24)


# ---------------------------------------------------------------------- class balance


def test_weighted_ranking_is_the_weighted_sum_over_pairs():
    torch.manual_seed(0)
    logits = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    labels, weights = (torch.rand(6, 9) < 0.3).double(), torch.rand(6, 9, dtype=torch.float64)
    loss = RankingLoss()(logits, labels, weights)
    pairs = (1 - logits[:, :, None] + logits[:, None, :]).clamp(min=0) * labels[:, :, None] * (1 - labels[:, None])
    expected = (pairs * weights[:, :, None] * weights[:, None]).sum() / 6
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    ours, theirs = (torch.autograd.grad(value, logits)[0] for value in (loss, expected))
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert torch.allclose(RankingLoss()(logits, labels, torch.ones_like(weights)), RankingLoss()(logits, labels))


LABEL_ROWS = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 1, 0], [1, 0, 1], [1, 0, 0]])


def test_cooccurrence_and_long_tail_weights_by_hand():
    expected = [[1, 2 / 5, 1 / 5], [2 / 3, 1, 0], [1, 0, 1]]
    assert cooccurrence(LABEL_ROWS) == pytest.approx(np.array(expected))
    raw = np.array([0.1 / (1 - 0.9**5), 0.1 / (1 - 0.9**3), 1.0])
    assert long_tail_weights([5, 3, 1], 0.9) == pytest.approx(raw / raw.mean())
    assert long_tail_weights([5, 3, 1], 0.0) == pytest.approx(np.ones(3))


def test_pair_weights_of_a_batch(new_trainer):
    gap = new_trainer(cooccurrence_smoothing=0.5, class_balance_beta=0.9)._gap
    gap.cooccurrence = torch.tensor(cooccurrence(LABEL_ROWS)).float()
    gap.class_weights = torch.tensor([0.5, 1.0, 1.5])
    weights = gap._pair_weights(torch.tensor([[1.0, 0, 0], [0, 1, 1]]))
    # Named classes have their class weight, the others 1 - 0.5 * the largest share beside a named one.
    expected = [[0.5, 1 - 0.5 * 2 / 5, 1 - 0.5 * 1 / 5], [1 - 0.5 * 1.0, 1.0, 1.5]]
    assert torch.allclose(weights, torch.tensor(expected))


def test_captions_go_to_their_rarest_class():
    kept = select_by_rarest_class(LABEL_ROWS, 1, seed=0)  # classes of rarest: dog, cat, cat, cat, car, dog
    assert len(kept) == 3
    assert 4 in kept
    assert len({0, 5} & set(kept.tolist())) == len({1, 2, 3} & set(kept.tolist())) == 1
    assert select_by_rarest_class(LABEL_ROWS, 9).tolist() == list(range(6))


def test_labels_that_the_template_bears_out_least_are_left_out():
    labels = np.array([[1, 0], [1, 0], [1, 0], [0, 1]])
    scores = np.array([[0.9, 0.0], [0.5, 0.6], [0.8, 0.1], [0.0, 0.3]])
    assert find_agreeing(labels, scores, 0.34).tolist() == [0, 2, 3]  # one third of 3 is 1, of 1 none
    assert find_agreeing(labels, scores, 0.0).tolist() == [0, 1, 2, 3]


def test_groups_by_frequency():
    groups = frequency_groups([5, 100, 7, 1, 50, 7])
    assert {name: columns.tolist() for name, columns in groups.items()} == {
        "head": [1, 4],
        "middle": [2, 5],
        "tail": [0, 3],
    }


def test_the_trainer_reports_captions_per_class(new_trainer):
    trainer = new_trainer(max_steps=1)
    trainer.train()
    counts = json.loads((Path(trainer.args.output_dir) / "class_counts.json").read_text())
    assert counts == {"dog": 9, "cat": 6, "car": 2}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"feature_noise": -1}, "`feature_noise` is -1: it cannot be negative"),
        ({"caption_composition": 1.5}, "from 0 to 1"),
        ({"class_balance_beta": 1.0}, "from 0 to below 1"),
        ({"noise_filter": 1.0}, "from 0 to below 1"),
        ({"prototypes_per_class": 0}, "at least 1"),
        ({"class_balance_beta": 0.9, "loss": "bce"}, "choose ranking"),
        ({"cooccurrence_smoothing": 0.5, "loss": "asl"}, "choose ranking or bce"),
    ],
)
def test_bad_options_are_one_sentence(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        TaiDptTrainingArguments(str(tmp_path), **options)


def test_other_losses_take_likely_classes_as_soft_labels(new_trainer):
    trainer = new_trainer(loss="bce", cooccurrence_smoothing=0.5)
    gap = trainer._gap
    gap.cooccurrence = torch.tensor(cooccurrence(LABEL_ROWS)).float()
    logits, labels = torch.randn(1, 3), torch.tensor([[1.0, 0, 0]])
    loss = gap.loss(trainer.loss_function, [logits], labels)
    soft = torch.tensor([[1.0, 0.5 * 2 / 5, 0.5 * 1 / 5]])
    assert loss.item() == pytest.approx(torch.nn.functional.binary_cross_entropy_with_logits(logits, soft).item())


# ---------------------------------------------------------------------- made captions


def test_made_captions_name_what_they_were_asked_for():
    labels = ["dog", "hot_dog", "orange", "traffic light"]
    data = make_captions(labels, 200, seed=4)
    assert data.column_names == ["caption", "labels"]
    found = CaptionLabeler([label.replace("_", " ") for label in labels])(data["caption"])
    for row, names in zip(found, data["labels"], strict=True):
        assert {labels[column] for column in np.flatnonzero(row)} == set(names)
    firsts = found.sum(axis=0)
    assert firsts.min() >= 50
    assert {len(names) for names in data["labels"]} == {1, 2, 3, 4}
    assert data["caption"] == make_captions(labels, 200, seed=4)["caption"]
    assert data["caption"] != make_captions(labels, 200, seed=5)["caption"]


def test_made_captions_follow_the_cooccurrence():
    data = make_captions(["fork", "knife", "car"], 90, cooccurrence={"fork": {"knife": 1}, "knife": {"fork": 2}})
    sets = {frozenset(names) for names in data["labels"]}
    assert sets == {frozenset(["fork"]), frozenset(["knife"]), frozenset(["fork", "knife"]), frozenset(["car"])}
    assert all("car" not in text or "fork" not in text for text in data["caption"])


def test_a_text_generator_writes_the_captions():
    asked = []

    def generate(sets):
        asked.extend(sets)
        return [f"  Here is  {' plus '.join(names)}. " for names in sets]

    data = make_captions(["dog", "hot_dog"], 70, text_generator=generate)
    assert len(asked) == 70
    assert set(data["caption"]) == {f"Here is {' plus '.join(names)}." for names in asked}
    for wrong, words in ((lambda sets: ["x"], "gave 1 texts for 32"), (lambda sets: [None] * len(sets), "no text")):
        with pytest.raises(ValueError, match=words):
            make_captions(["dog", "hot_dog"], 70, text_generator=wrong)


def test_made_captions_are_a_training_set(new_trainer, tmp_path, tokenizer):
    model = TaiDptModel.from_clip(make_clip(), LABELS, tokenizer, num_context_tokens=2)
    args = TaiDptTrainingArguments(
        str(tmp_path / "made"), max_steps=1, per_device_train_batch_size=8, use_cpu=True, report_to="none"
    )
    trainer = TaiDptTrainer(model, args, train_dataset=make_captions(LABELS, 60))
    assert trainer.train().global_step == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["dog"], 0), "at least 1"),
        (([], 5), "label"),
        ((["dog", "cat"], 5, 0, np.ones((3, 3))), "2 rows of 2 numbers"),
        ((["dog", "cat"], 5, 0, {"dog": {"cow": 1}}), "'cow', which is none of the 2 labels"),
    ],
)
def test_bad_arguments_of_made_captions(arguments, words):
    with pytest.raises(ValueError, match=words):
        make_captions(*arguments)
