"""The options of the study's trainer, the model that crosses the gap: each against its formula."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from modeling_taidpt.losses import RankingLoss

from ..conftest import make_clip

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
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


@pytest.fixture
def study(monkeypatch):
    """The modules of the study by name."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))

    def load(name: str):
        return importlib.import_module(f"embedded_base.{name}")

    return load


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def new_trainer(tmp_path, cache, tokenizer, study):
    def make(output: str = "run", trainer_options=None, model=None, **options):
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
        args = study("study_trainer").StudyArguments(str(tmp_path / output), **{**defaults, **options})
        if model is None:
            torch.manual_seed(3)
            model = study("gap_model").GapModel.from_clip(make_clip(), LABELS, tokenizer, num_context_tokens=2)
        data = Dataset.from_dict({"caption": CAPTIONS})
        return study("study_trainer").StudyTrainer(model, args, train_dataset=data, **(trainer_options or {}))

    return make


def learned(trainer) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in trainer.model.prompt_learner.parameters()])


# ---------------------------------------------------------------------- features of a batch


def test_noise_is_added_to_every_coordinate_and_the_feature_normalised_again(study):
    add_noise = study("feature_augmentation").add_noise
    features = unit([[3, 4], [1, 0]])
    noisy = add_noise(features, 0.5, torch.Generator().manual_seed(1))
    drawn = torch.randn(2, 2, generator=torch.Generator().manual_seed(1))
    for row in range(2):
        x, y = (features[row] + 0.5 * drawn[row]).tolist()
        length = (x * x + y * y) ** 0.5
        assert noisy[row].tolist() == pytest.approx([x / length, y / length], rel=1e-6)


def test_joined_captions_have_the_sum_of_features_the_tokens_of_both_and_the_united_labels(study):
    compose_captions = study("feature_augmentation").compose_captions
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
        {"class_balance_beta": 0.9},
        {"center_features": True},
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
    }
    whole = new_trainer("whole", **options)
    whole.train()
    new_trainer("parts", **options, save_strategy="steps", save_steps=2).train()
    resumed = new_trainer("parts", **options)
    resumed.train(resume_from_checkpoint=str(resumed.args.output_dir) + "/checkpoint-2")
    assert torch.equal(learned(whole), learned(resumed))


def test_two_batches_of_a_step_draw_different_noise(new_trainer):
    trainer = new_trainer(feature_noise=0.1)
    batch = {name: torch.ones(1, 3, 4) for name in ("token_embeds",)}
    batch |= {"caption_embeds": torch.ones(1, 4), "attention_mask": torch.ones(1, 3), "labels": torch.ones(1, 3)}
    draws = []
    for trainer.state.global_step in (0, 0, 1):
        draws.append(trainer.augment_features(batch)["caption_embeds"])
    assert not any(torch.equal(draws[first], draws[second]) for first, second in ((0, 1), (0, 2), (1, 2)))


# ---------------------------------------------------------------------- scoring


def test_an_image_is_mapped_to_the_mean_of_near_captions(study):
    map_to_captions = study("gap_model").map_to_captions
    image, memory = unit([[1.0, 2.0]]), unit([[1, 0], [0, 1], [1, 1]])
    cosines = (image @ memory.T)[0].tolist()
    exponentials = [np.exp(5 * cosine) for cosine in cosines]
    mean = sum(w / sum(exponentials) * b for w, b in zip(exponentials, memory.double(), strict=True))
    expected = 0.75 * mean / mean.norm() + 0.25 * image[0].double()
    mapped = map_to_captions(image, memory, 5.0, 0.75)
    assert torch.allclose(mapped[0].double(), expected / expected.norm(), atol=1e-6)


def test_centring_takes_the_mean_off_and_normalises(study):
    center = study("gap_model").center
    feature = unit([[3.0, 4.0]])
    centred = center(feature, {"image": [0.5, 0.1]}, "image")
    assert torch.allclose(centred, unit([[0.1, 0.7]]))
    assert center(feature, {"image": [0.5, 0.1]}, "caption") is feature
    assert center(feature, None, "image") is feature


# ---------------------------------------------------------------------- class balance


def test_groups_by_frequency(study):
    groups = study("training_report").frequency_groups([5, 100, 7, 1, 50, 7])
    assert {name: columns.tolist() for name, columns in groups.items()} == {
        "head": [1, 4],
        "middle": [2, 5],
        "tail": [0, 3],
    }


@torch.no_grad()
def test_memory_and_means_act_on_scores_of_images(study, tokenizer):
    gap = study("gap_model")
    model = gap.GapModel.from_clip(make_clip(), LABELS, tokenizer, num_context_tokens=2)
    pixels, captions = torch.randn(2, 3, 32, 32), tokenizer(["a dog"], return_tensors="pt")
    plain, text = model(pixels), model(**captions)
    model.caption_memory = unit(torch.randn(5, 24))
    model.feature_means = {"image": [0.05] * 24, "cell": [0.02] * 24}
    ours = model(pixels)
    assert torch.equal(model(**captions).logits, text.logits)  # captions are where they should be
    pooled, dense = model.encode_images(pixels)
    pooled = gap.map_to_captions(gap.center(pooled, model.feature_means, "image"), model.caption_memory, 40.0, 1.0)
    model.caption_memory = model.feature_means = None
    expected = model(image_embeds=pooled, dense_embeds=unit(dense - 0.02))
    assert torch.allclose(ours.logits, expected.logits, atol=1e-5)
    assert not torch.allclose(ours.logits, plain.logits, atol=1e-3)


def test_the_trainer_takes_the_means_of_its_captions_and_images(new_trainer):
    class Images:
        rows = np.array([0, 1])
        shards = ((unit([1.0] * 24), unit([[1.0] * 24])), (torch.zeros(24), torch.zeros(3, 24)))

    trainer = new_trainer(center_features=True, max_steps=1, trainer_options={"unlabeled_images": Images()})
    trainer.train()
    means = trainer.model.feature_means
    rows = [trainer.train_dataset[index] for index in range(len(CAPTIONS))]
    assert means["caption"] == pytest.approx(
        torch.stack([row["caption_embeds"] for row in rows]).mean(dim=0).tolist(), abs=1e-6
    )
    assert means["token"] == pytest.approx(
        torch.stack([row["token_embeds"].mean(dim=0) for row in rows]).mean(dim=0).tolist(), abs=1e-6
    )
    assert means["image"] == means["cell"] == pytest.approx([0.5 / 24**0.5] * 24)


def test_rare_classes_weigh_more_in_the_ranking_loss(study, new_trainer):
    weigh = study("study_trainer").long_tail_weights
    raw = np.array([0.1 / (1 - 0.9**5), 0.1 / (1 - 0.9**3), 1.0])
    assert weigh([5, 3, 1], 0.9) == pytest.approx(raw / raw.mean())
    assert weigh([5, 3, 1], 0.0) == pytest.approx(np.ones(3))
    trainer = new_trainer(class_balance_beta=0.9)
    logits, labels = torch.randn(2, 3), torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    classes = torch.tensor(weigh([9, 6, 2], 0.9)).float()  # of CAPTIONS
    weights = torch.where(labels == 1, classes.expand_as(labels), torch.ones(2, 3))
    assert torch.allclose(trainer.loss_function(logits, labels), RankingLoss()(logits, labels, weights))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"feature_noise": -1}, "`feature_noise` is -1: it cannot be negative"),
        ({"caption_composition": 1.5}, "from 0 to 1"),
        ({"class_balance_beta": 1.0}, "from 0 to below 1"),
        ({"class_balance_beta": 0.9, "loss": "bce"}, "choose 'ranking'"),
    ],
)
def test_bad_options_are_one_sentence(study, tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        study("study_trainer").StudyArguments(str(tmp_path), **options)
