"""Features held on the device: the same batches and the same prompts as from the files, and nothing waits."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from modeling_taidpt import CaptionFeatures, TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments
from modeling_taidpt.features.captions import collate_features
from modeling_taidpt.features.device import DeviceFeatures, FeatureRows, fits_device
from modeling_taidpt.losses import RankingLoss

from ..conftest import make_clip

LABELS = ["dog", "cat", "horse", "car"]
CAPTIONS = [f"A {label} {'and more ' * (number % 5)}{number}." for number in range(12) for label in LABELS]


def new_model() -> TaiDptModel:
    torch.manual_seed(3)
    return TaiDptModel.from_clip(make_clip(), labels=LABELS, num_context_tokens=4)


@pytest.fixture(scope="module")
def new_features(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")

    def make(captions, dtype="float32") -> CaptionFeatures:
        labels = np.array([[label in caption for label in LABELS] for caption in captions], dtype=np.uint8)
        options = {"cache_dir": folder, "dtype": dtype, "shard_size": 10, "progress": False}
        return CaptionFeatures.encode(new_model(), captions, labels, **options)

    return make


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("multiple", [None, 8])
def test_a_batch_gathered_on_the_device_is_the_batch_of_the_files(new_features, dtype, multiple):
    first, second = new_features(CAPTIONS[:36], dtype), new_features(CAPTIONS[30:], dtype)
    joined = first.select(range(5, 36)).join(second)
    held = DeviceFeatures([joined.shards, first.shards], torch.device("cpu"))
    for features in (joined, first):  # the second one's files are among those of the first
        assert held.holds(features.shards)
        indices = np.random.default_rng(0).permutation(len(features))[:9].tolist()
        rows = features.__getitems__(indices)
        expected = collate_features([features[index] for index in indices], multiple)
        batch = held.gather(held.batch(rows, multiple))
        assert list(batch) == list(expected)
        for name, wanted in expected.items():
            assert torch.equal(batch[name], wanted) and batch[name].dtype == wanted.dtype, name
    assert not held.holds(new_features(CAPTIONS[:3], dtype).shards)


def test_a_batch_of_rows_reads_as_a_list_of_items(new_features, monkeypatch):
    features = new_features(CAPTIONS[:36])
    rows = features.__getitems__([7, 30, 2])
    assert len(rows) == 3 and isinstance(rows, FeatureRows)
    for items in (list(rows), rows[:], [rows[0], rows[1], rows[-1]]):
        for item, index in zip(items, (7, 30, 2), strict=True):
            assert torch.equal(item["token_embeds"], features[index]["token_embeds"])
    read = []
    monkeypatch.setattr(CaptionFeatures, "__getitem__", lambda self, index: read.append(index) or items[0])
    collate_features(features.__getitems__([7, 30, 2]))
    assert read == [7, 30, 2]  # each once
    monkeypatch.undo()
    loader = torch.utils.data.DataLoader(features, batch_size=4, collate_fn=collate_features)
    assert next(iter(loader))["caption_embeds"].shape == (4, 24)


def test_a_worker_gets_no_features_of_the_device(new_features):
    features = new_features(CAPTIONS)
    held = DeviceFeatures([features.shards], torch.device("cpu"))
    copy = pickle.loads(pickle.dumps(held))
    assert not any(torch.is_tensor(value) for value in vars(copy).values())
    assert torch.equal(copy.batch(FeatureRows(features, [3]))["feature_rows"], torch.tensor([3]))


@pytest.mark.parametrize("workers", [0, 1])
def test_features_on_the_device_teach_the_same_prompts_bit_for_bit(workers, tmp_path):
    class Trainer(TaiDptTrainer):
        def augment_features(self, batch):  # gets the features themselves, not their rows
            return {**batch, "token_embeds": batch["token_embeds"] * 0.9}

    def learn(on_device: bool | None) -> tuple[dict[str, torch.Tensor], dict, TaiDptTrainer]:
        model = new_model()
        args = TaiDptTrainingArguments(
            str(tmp_path / "run"),
            add_templates=False,
            num_train_epochs=2,
            per_device_train_batch_size=8,
            per_device_eval_batch_size=5,
            learning_rate=0.05,
            feature_cache_dir=str(tmp_path / "cache"),
            features_on_device=on_device,
            dataloader_num_workers=workers if on_device else 0,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
        )
        trainer = Trainer(model, args, train_dataset=CAPTIONS, eval_dataset=["A dog.", "A cat and a horse."])
        figures = trainer.train().metrics
        return model.prompt_learner.state_dict(), figures, trainer

    expected, figures, plain = learn(None)
    actual, others, held = learn(True)
    assert plain._data.on_device is None and held._data.on_device is not None
    for name, wanted in expected.items():
        assert torch.equal(actual[name], wanted)
    for name in ("caption_map", "zero_shot_caption_map", "train_loss"):
        assert others[name] == figures[name]
    held.data_collator = lambda items: collate_features(items)  # a custom collator gets the features
    assert next(iter(held.get_train_dataloader()))["token_embeds"].dim() == 3


def test_a_cpu_holds_nothing_unless_asked(new_features):
    assert not fits_device([new_features(CAPTIONS).shards], torch.device("cpu"))


class _NoHost(torch.utils._python_dispatch.TorchDispatchMode):
    """Raises where a host would wait for a GPU: a value is read, or a shape depends on values."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "item", "equal", "_to_cpu")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Look at the name of every operator, forward and backward."""
        if function.overloadpacket.__name__ in self.WAITS:
            raise AssertionError(f"{function} waits")
        if function.overloadpacket.__name__ in ("index", "index_put", "index_put_"):
            assert not any(index is not None and index.dtype == torch.bool for index in args[1])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("config", [{}, {"class_specific_context": True}])
def test_no_step_waits_for_the_device(new_features, tmp_path, config):
    torch.manual_seed(3)
    model = TaiDptModel.from_clip(make_clip(), labels=LABELS, num_context_tokens=4, **config)
    options = {"features_on_device": True, "use_cpu": True, "report_to": "none", "validation_size": 0}
    args = TaiDptTrainingArguments(str(tmp_path), add_templates=False, per_device_train_batch_size=8, **options)
    trainer = TaiDptTrainer(model, args, train_dataset=CAPTIONS)
    trainer._data.hold(trainer.train_dataset, None)
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1  # as `train` sets it
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) == {"feature_rows", "attention_mask", "labels"}
    trainer.training_step(model, dict(batch))  # prompts are laid out in the first step
    with _NoHost():
        trainer.training_step(model, batch)
        trainer.optimizer.step()
    assert float(model.prompt_learner.global_context.grad.abs().max()) > 0
    with pytest.raises(AssertionError, match="waits"), _NoHost():
        RankingLoss()(torch.zeros(1, 2), torch.zeros(1, 2))  # looks at the labels
