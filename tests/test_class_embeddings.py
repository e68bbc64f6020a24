"""Classes encoded in chunks: the loss and gradients of one pass, the memory of one chunk; and nothing stale."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from modeling_taidpt import TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments, class_embeddings

from . import test_backbones
from .conftest import make_clip

WORDS = ["dog", "traffic light", "cat", "hot dog", "polar bear", "car", "old wooden chair"]


def new_model(labels=WORDS, dtype=torch.float32, **config) -> TaiDptModel:
    torch.manual_seed(3)
    model = TaiDptModel.from_clip(make_clip(), labels=labels, num_context_tokens=4, **config)
    model.clip.to(dtype)
    return model.train()


def make_batch(model, captions=6, length=5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(captions, length, model.config.embedding_dim, generator=generator)
    labels = torch.rand(captions, model.config.num_labels, generator=generator) < 0.3
    batch = {"caption_embeds": tokens[:, 0], "token_embeds": tokens}
    return batch | {"attention_mask": torch.ones(captions, length), "labels": labels.float()}


def loss_and_gradients(model, batch, **options) -> tuple[torch.Tensor, ...]:
    model.zero_grad()
    loss = model(**batch, **options).loss
    loss.backward()
    return loss.detach(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("chunk_size", [1, 3, 7])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"class_specific_context": True},
        {"class_token_position": "front"},
        {"class_specific_context": True, "prompt_pair": "positive_negative"},
    ],
)
def test_chunks_give_the_loss_and_the_gradients_of_one_pass(config, chunk_size):
    model = new_model(**config)
    batch = make_batch(model)
    expected = loss_and_gradients(model, batch, prompt_chunk_size=len(WORDS))
    for actual, wanted in zip(loss_and_gradients(model, batch, prompt_chunk_size=chunk_size), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
    assert all(float(gradient.abs().max()) > 0 for gradient in expected[1:])


@pytest.mark.parametrize("name", ["siglip", "chinese_clip"])
def test_towers_that_share_no_prefix_are_chunked_too(name):
    clip, tokenizer = test_backbones.make(name)
    labels = test_backbones.LABELS
    for options in ({}, {"class_specific_context": True}):
        torch.manual_seed(3)
        model = TaiDptModel.from_clip(clip, labels=labels, tokenizer=tokenizer, num_context_tokens=4, **options)
        model.train()
        expected = loss_and_gradients(model, make_batch(model))
        for _ in range(2):  # the second time its prompts are laid out already
            for actual, wanted in zip(
                loss_and_gradients(model, make_batch(model), prompt_chunk_size=2), expected, strict=True
            ):
                torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_chunks_in_bf16_round_as_one_pass_does():
    model = new_model(dtype=torch.bfloat16)
    batch = make_batch(model)
    expected = loss_and_gradients(model, batch)
    for actual, wanted in zip(loss_and_gradients(model, batch, prompt_chunk_size=2), expected, strict=True):
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual, wanted, rtol=0.05, atol=0.05 * float(wanted.abs().max()))


def test_autocast_holds_when_a_chunk_is_computed_again():
    model = new_model()
    batch = make_batch(model)
    with torch.autocast("cpu", torch.bfloat16):
        whole, chunked = (model(**batch, prompt_chunk_size=size).loss for size in (len(WORDS), 2))
    wanted, actual = (torch.autograd.grad(loss, model.prompt_learner.global_context)[0] for loss in (whole, chunked))
    torch.testing.assert_close(actual, wanted, rtol=0.05, atol=0.05 * float(wanted.abs().max()))


def test_activations_of_chunks_are_dropped_and_computed_again(monkeypatch):
    model = new_model([f"thing {number}" for number in range(24)])
    batch = make_batch(model, captions=2, length=2)

    def saved_bytes(chunk_size: int) -> int:
        seen: dict[int, int] = {}

        def note(tensor):
            if not any(tensor.data_ptr() == parameter.data_ptr() for parameter in model.parameters()):
                seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(**batch, prompt_chunk_size=chunk_size)
        return sum(seen.values())

    assert saved_bytes(4) < saved_bytes(24) / 10
    encoded, plain = [], model._encode_piece
    monkeypatch.setattr(model, "_encode_piece", lambda piece: (encoded.append(piece.start), plain(piece))[1])
    loss = model(**batch, prompt_chunk_size=8).loss
    assert encoded == [0, 8, 16]
    loss.backward()
    assert encoded == [0, 8, 16, 0, 8, 16]  # each once more, when the backward pass comes to it


def test_many_classes_are_computed_again_and_few_are_not(monkeypatch):
    monkeypatch.setattr(class_embeddings, "KEPT_CLASSES", 6)
    monkeypatch.setattr(class_embeddings, "CACHE_CHUNK", 4)
    runs = []
    for labels in (WORDS[:6], WORDS):
        model, ranges = new_model(labels), []
        plain = model._encode_piece
        monkeypatch.setattr(model, "_encode_piece", lambda piece, p=plain, r=ranges: (r.append(piece), p(piece))[1])
        loss_and_gradients(model, make_batch(model))
        runs.append(ranges)
    assert runs[0] == [range(4), range(4, 6)]
    assert runs[1] == [range(4), range(4, 7), range(4), range(4, 7)]


CHECKPOINTING = "activation_checkpointing"  # of transformers; its older releases say gradient_checkpointing
if CHECKPOINTING not in TaiDptTrainingArguments.__dataclass_fields__:
    CHECKPOINTING = "gradient_checkpointing"


@pytest.mark.parametrize("options", [{"prompt_chunk_size": 2}, {CHECKPOINTING: True}])
def test_the_trainer_learns_the_same_in_chunks(options, tmp_path):
    captions = [f"A {word} beside a {WORDS[number % 5]} {number}." for number, word in enumerate(WORDS * 4)]

    def learn(**settings) -> tuple[torch.Tensor, list[int]]:
        model, sizes = new_model(), []
        args = TaiDptTrainingArguments(
            str(tmp_path / "run"),
            max_steps=4,
            per_device_train_batch_size=8,
            learning_rate=0.05,
            lr_scheduler_type="constant",
            validation_size=0,
            add_templates=False,
            feature_cache_dir=str(tmp_path / "cache"),
            eval_strategy="no",
            load_best_model_at_end=False,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
            **settings,
        )
        trainer = TaiDptTrainer(model, args, train_dataset=captions)
        plain = model._encode_piece
        model._encode_piece = lambda piece: (sizes.append(len(piece)), plain(piece))[1]
        trainer.train()
        return model.prompt_learner.local_context.detach(), sizes

    expected, _ = learn()
    actual, sizes = learn(**options)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    steps = [2, 2, 2, 1, 2, 2, 2, 1] if "prompt_chunk_size" in options else [7, 7]
    assert sizes[: 4 * len(steps)] == 4 * steps


@pytest.mark.slow
def test_a_compiled_model_leaves_the_chunks_as_they_are():
    model = new_model()
    batch = make_batch(model)
    expected = loss_and_gradients(model, batch)
    compiled = torch.compile(model, backend="aot_eager")
    for actual, wanted in zip(loss_and_gradients(compiled, batch, prompt_chunk_size=2), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_a_chunk_of_no_class_is_named(tmp_path):
    with pytest.raises(ValueError, match="`prompt_chunk_size` is 0"):
        new_model().encode_classes(prompt_chunk_size=0)
    with pytest.raises(ValueError, match="`prompt_chunk_size` is 0"):
        TaiDptTrainingArguments(str(tmp_path), prompt_chunk_size=0)


PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def scores(model, **options) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values=PIXELS, **options).logits


def fresh_scores(model) -> torch.Tensor:
    """What a copy without any past gives."""
    return scores(copy.deepcopy(model))


def change_data(model):
    model.clip.text_model.final_layer_norm.weight.data.mul_(-1)


def change_context(model):
    model.prompt_learner.local_context.data.mul_(3)


def change_by_hook(model):
    model.clip.text_model.encoder.layers[0].mlp.register_forward_hook(lambda module, inputs, output: 2 * output)


def change_by_replacement(model):
    model.clip.text_projection = torch.nn.Linear(32, 24, bias=False)


@pytest.mark.parametrize("change", [change_data, change_context, change_by_hook, change_by_replacement])
def test_nothing_stale_is_scored_after_a_change(change):
    model = new_model().eval()
    before = scores(model)
    change(model)
    after = scores(model)
    assert not torch.allclose(after, before, atol=1e-4)
    assert torch.equal(after, fresh_scores(model))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PEFT
def test_adapters_that_are_switched_change_the_scores():
    peft = pytest.importorskip("peft")
    model = new_model().eval()
    plain = scores(model)
    config = peft.LoraConfig(r=2, target_modules=r"clip\.text_model.*\.(q_proj|v_proj)", init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval()
    adapted.add_adapter("other", config)
    first = scores(adapted)
    adapted.set_adapter("other")
    other = scores(adapted)
    with adapted.disable_adapter():
        assert torch.equal(scores(adapted), plain)
    assert not torch.allclose(first, plain, atol=1e-4) and not torch.allclose(first, other, atol=1e-4)


def test_what_is_stored_was_never_computed_under_autocast():
    model = new_model().eval()
    expected = model.bake()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        scores(model)
        baked, relabelled = model.bake(), model.with_labels(["cat", "zebra"])
        template = TaiDptModel.zero_shot(model.clip, labels=WORDS)
    for branch in ("class_embeddings_global", "class_embeddings_local"):
        assert torch.equal(getattr(baked, branch), getattr(expected, branch))
        plain = TaiDptModel.zero_shot(model.clip, labels=WORDS)
        assert torch.equal(getattr(template, branch), getattr(plain, branch))
    assert torch.equal(scores(model), fresh_scores(model))
    # what was made in inference mode learns like any other
    relabelled.train()(pixel_values=PIXELS, labels=torch.eye(2)).loss.backward()
    assert float(relabelled.prompt_learner.global_context.grad.abs().max()) > 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_model_learns_after_it_scored(mode, name):
    clip, tokenizer = (make_clip(), None) if name == "clip" else test_backbones.make(name)
    model = TaiDptModel.from_clip(clip, labels=["dog", "cat"], tokenizer=tokenizer, num_context_tokens=2).eval()
    size = model.config.image_size
    with mode(), model.cached_class_embeddings():
        model(pixel_values=torch.zeros(1, 3, size, size))
        model.set_caption_bank(torch.eye(model.config.embedding_dim)[:2])
    model.train()(pixel_values=torch.randn(1, 3, size, size), labels=torch.ones(1, 2)).loss.backward()
    assert model.prompt_learner.global_context.grad is not None


def test_a_block_computes_once_for_its_model_thread_and_precision(monkeypatch):
    model, other, runs = new_model().eval(), new_model(WORDS[:3]).eval(), []
    plain = model._encode_piece
    monkeypatch.setattr(model, "_encode_piece", lambda piece: (runs.append(piece), plain(piece))[1])
    expected = scores(model)
    runs.clear()
    with model.cached_class_embeddings(), other.cached_class_embeddings():
        assert all(torch.equal(scores(model), expected) for _ in range(3))
        assert len(runs) == 1
        assert scores(other).shape == (2, 3)
        with torch.autocast("cpu", torch.bfloat16):
            scores(model)
        assert len(runs) == 2
        with ThreadPoolExecutor(1) as pool:
            assert torch.equal(pool.submit(scores, model).result(), expected)
        assert len(runs) == 3
    assert torch.equal(scores(model), expected) and len(runs) == 4
    given = model.encode_classes()
    assert torch.equal(scores(model, class_embeddings=given), expected) and len(runs) == 5
    with pytest.raises(RuntimeError, match="inside"), model.cached_class_embeddings():
        raise RuntimeError("inside")
    assert scores(model) is not None and len(runs) == 6  # the block is closed


@pytest.mark.parametrize("options", [{}, {"prompt_chunk_size": 2}])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_adapters_of_the_text_tower_learn_with_the_prompts(options, mode):
    model = new_model()
    model.clip.text_model.encoder.requires_grad_(True)
    getattr(model, mode)()
    expected = loss_and_gradients(model, make_batch(model), prompt_chunk_size=len(WORDS))
    assert len(expected) == 1 + 2 + len(list(model.clip.text_model.encoder.parameters()))
    for actual, wanted in zip(loss_and_gradients(model, make_batch(model), **options), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5 * max(float(wanted.abs().max()), 2))


def test_a_second_model_on_a_clip_leaves_what_learns_alone():
    model = new_model()
    model.clip.vision_model.requires_grad_(True)
    before = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    baked = model.bake()
    others = [model.with_labels(["bus"]), model.with_linear_head(), model.with_class_embeddings(torch.eye(7, 24))]
    others += [TaiDptModel.zero_shot(model.clip, labels=WORDS), TaiDptModel.from_clip(model.clip, labels=WORDS)]
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == before
    assert baked.clip.vision_model is model.clip.vision_model and len(others) == 5
    # the first one on a CLIP freezes it
    fresh = TaiDptModel.from_clip(make_clip(), WORDS)
    assert not any(parameter.requires_grad for parameter in fresh.clip.parameters())
