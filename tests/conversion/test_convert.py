"""Published weight files, written in their formats by the test: scores equal those of the published code."""

from __future__ import annotations

import copy
import json
import os
import random
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoImageProcessor, AutoTokenizer

from modeling_taidpt import TaiDptModel, convert_openai_checkpoint, convert_taidpt_checkpoint
from modeling_taidpt.conversion.weight_files import read_weights

from ..conftest import make_clip
from ..test_golden import GOLDEN, NAMES, assert_golden, read_clip


class Warmup(torch.optim.lr_scheduler.LRScheduler):
    """As in the published code: the schedule that follows stands inside, and goes into the checkpoint as an object."""

    def __init__(self, optimizer, successor):
        self.successor = successor
        super().__init__(optimizer)

    def get_lr(self):
        return [1e-5]


def write_prompts(path: Path, ctx: torch.Tensor, ctx_double: torch.Tensor, classes: int, **changes) -> Path:
    """`prompt_learner/model-best.pth.tar` as the published trainer writes it, token vectors and schedule included."""
    width, dtype = ctx.shape[-1], ctx.dtype
    state = OrderedDict(ctx=ctx, ctx_double=ctx_double)
    for name in ("temperature", "spatial_T", "ranking_scale"):
        state[name] = torch.tensor(4.0 if name == "ranking_scale" else 3.0, dtype=dtype)
    state["token_prefix"] = torch.randn(classes, 1, width, dtype=dtype)
    state["token_suffix"] = torch.randn(classes, 60, width, dtype=dtype)
    state["token_suffix_nocls"] = torch.randn(classes, 60, width, dtype=dtype)
    state.update(changes)
    parameter = nn.Parameter(ctx.clone())
    optimizer = torch.optim.SGD([parameter], lr=1e-4, momentum=0.9, weight_decay=5e-4)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    schedule = Warmup(optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20))
    content = {
        "state_dict": state,
        "epoch": 7,
        "optimizer": optimizer.state_dict(),
        "scheduler": schedule.state_dict(),
    }
    torch.save(content, path)
    return path


def as_modules(state_dict: dict[str, torch.Tensor]) -> nn.Module:
    """Modules nested by the dotted names, as OpenAI's traced model has them, with one plain tensor attribute."""
    root = nn.Module()
    for key, value in state_dict.items():
        *parents, name = key.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = getattr(module, parent)
        if value.is_floating_point() and "running" not in name:
            module.register_parameter(name, nn.Parameter(value, requires_grad=False))
        else:
            module.register_buffer(name, value)
    root.transformer.resblocks.get_submodule("0").attn_mask = torch.zeros(77, 77)
    root.visual.input_resolution = 64
    return root


@pytest.fixture(params=NAMES)
def case(request):
    numbers = load_file(GOLDEN / f"{request.param}.safetensors")
    settings = json.loads((GOLDEN / f"{request.param}.json").read_text())
    return numbers, settings, read_clip(GOLDEN / f"{request.param}_clip.safetensors")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("form", ["torchscript", "state_dict", "safetensors"])
def test_published_files_give_the_published_scores(case, form, tmp_path):
    numbers, settings, state_dict = case
    prompts = write_prompts(
        tmp_path / "model-best.pth.tar", numbers["ctx"], numbers["ctx_double"], len(settings["classnames"])
    )
    weights = tmp_path / ("RN50.safetensors" if form == "safetensors" else "RN50.pt")
    if form == "torchscript":
        torch.jit.save(torch.jit.script(as_modules(state_dict)), weights)
    elif form == "safetensors":
        save_file(state_dict, weights)
    else:
        torch.save(OrderedDict(state_dict), weights)

    convert_taidpt_checkpoint(prompts, weights, settings["classnames"], save_directory=tmp_path / "model")
    model = TaiDptModel.from_pretrained(tmp_path / "model")
    assert model.config.class_specific_context == settings["class_specific"]
    assert (model.config.logit_scale, model.config.image_spatial_scale) == (4.0, 40.0)
    with torch.no_grad():
        outputs = model(pixel_values=numbers["images"])
    assert_golden(outputs.logits_global, numbers["images.logits_global"])
    assert_golden(outputs.logits_local, numbers["images.logits_local"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    captions = tokenizer(settings["captions"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert_golden(model(**captions).logits_global, numbers["captions.logits_global"])
    pixels = AutoImageProcessor.from_pretrained(tmp_path / "model")(torch.zeros(3, 80, 100), return_tensors="pt")
    assert pixels["pixel_values"].shape == (1, 3, 64, 64)


def test_openai_file_becomes_a_base(case, tmp_path):
    numbers, settings, state_dict = case
    torch.save(state_dict, tmp_path / "RN50.pt")
    convert_openai_checkpoint(tmp_path / "RN50.pt", tmp_path / "base")
    model = TaiDptModel.from_clip(tmp_path / "base", settings["classnames"])
    with torch.no_grad():
        outputs = model.clip.vision_model(numbers["images"])
    assert_golden(outputs.pooler_output, numbers["images.pooled_with_positions"])


def test_scales_that_a_run_learned_are_kept(tmp_path):
    ctx = torch.randn(4, 32, dtype=torch.float16)
    changes = {"temperature": torch.tensor(1.5), "spatial_T": torch.tensor(3.5)}
    path = write_prompts(tmp_path / "learned", ctx, ctx, 2, **changes)
    config = convert_taidpt_checkpoint(path, make_clip(), ["dog", "cat"]).config
    assert config.logit_scale == pytest.approx(4.4817, rel=1e-4)
    assert config.text_spatial_scale == config.image_spatial_scale == pytest.approx(33.115, rel=1e-4)
    # The published configuration of NUS-WIDE; what the caller says wins.
    path = write_prompts(tmp_path / "kept", ctx, ctx, 81)
    assert convert_taidpt_checkpoint(path, make_clip(), "nuswide81").config.image_spatial_scale == 4.0
    model = convert_taidpt_checkpoint(path, make_clip(), "nuswide81", image_spatial_scale=7.0)
    assert model.config.image_spatial_scale == 7.0
    assert model.config.labels[40] == "nighttime"


class Malicious:
    def __reduce__(self):
        return (eval, ("__import__('pathlib').Path('touched').write_text('x')",))


class Forbidden:
    def __reduce__(self):
        return (os.system, ("touch touched",))


def test_nothing_in_a_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"ctx": torch.zeros(2, 3), "extra": Malicious()}, "a.pt")
    assert read_weights("a.pt")["ctx"].shape == (2, 3)
    torch.save({"ctx": torch.zeros(2, 3), "extra": Forbidden()}, "b.pt")
    with pytest.raises(ValueError, match=r"'b\.pt' cannot be read as weights"):
        read_weights("b.pt")
    assert not Path("touched").exists()


def test_unusable_files_are_named(tmp_path):
    ctx = torch.randn(4, 32)
    with pytest.raises(FileNotFoundError, match=r"weight file .*absent.* does not exist"):
        read_weights(tmp_path / "absent")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pt' cannot be read as weights"):
        read_weights(tmp_path / "text.pt")
    torch.save([ctx], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds a list, not a state dict"):
        read_weights(tmp_path / "list.pt")
    torch.save({"ctx": ctx}, tmp_path / "clip.pt")
    with pytest.raises(ValueError, match=r"clip\.pt': This is not an OpenAI CLIP"):
        convert_openai_checkpoint(tmp_path / "clip.pt")

    def convert(labels=("dog", "cat"), ctx=ctx, ctx_double=ctx, **changes):
        path = write_prompts(tmp_path / "prompts", ctx, ctx_double, len(labels), **changes)
        return convert_taidpt_checkpoint(path, make_clip(), labels)

    assert convert().config.num_context_tokens == 4
    with pytest.raises(ValueError, match="contexts of width 16, the text tower has 32"):
        convert(ctx=ctx[:, :16], ctx_double=ctx[:, :16])
    with pytest.raises(ValueError, match="contexts for 3 classes and there are 2 labels"):
        convert(ctx=torch.randn(3, 4, 32), ctx_double=torch.randn(3, 4, 32))
    with pytest.raises(ValueError, match="negative contexts"):
        convert(ctx_neg=ctx)
    with pytest.raises(ValueError, match="no `ctx_double` of two or three dimensions"):
        convert(ctx_double=torch.randn(32))
    with pytest.raises(ValueError, match="two branches must have one shape"):
        convert(ctx_double=ctx[:2])
    with pytest.raises(ValueError, match="`labels` is 'voc': give a list of class names, or one of coco80"):
        convert(labels="voc")


def test_contexts_are_copied_not_shared(tmp_path):
    ctx = torch.randn(4, 32)
    model = convert_taidpt_checkpoint(write_prompts(tmp_path / "p", ctx, 2 * ctx, 2), make_clip(), ["dog", "cat"])
    before = copy.deepcopy(model.prompt_learner.state_dict())
    assert torch.equal(before["global_context"], ctx)
    assert torch.equal(before["local_context"], 2 * ctx)


# ------------------------------------------------------------------ damaged and hostile files


def small_clip_state() -> dict[str, torch.Tensor]:
    return dict(read_clip(GOLDEN / f"{NAMES[0]}_clip.safetensors"))


def refuse(path: Path, reader=read_weights) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        reader(path)
    message = str(error.value)
    assert "\n" not in message and len(message) < 500 and path.name in message, message
    return message


class MakesBytes:
    def __reduce__(self):
        return (bytearray, (10**12,))


def test_files_that_unpack_to_more_than_they_hold_are_refused(tmp_path):
    torch.save({"ctx": torch.zeros(2, 3)}, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as bomb:
        for record in good.infolist():
            bomb.writestr(record, good.read(record))
        with bomb.open(zipfile.ZipInfo("archive/data/1"), "w") as file:
            file.write(b"")
        info = zipfile.ZipInfo("archive/data/2")
        info.compress_type = zipfile.ZIP_DEFLATED
        with bomb.open(info, "w") as file:
            for _ in range(100):
                file.write(bytes(1_000_000))
    assert "packed records" in refuse(tmp_path / "bomb.pt")
    for legacy in (False, True):
        path = tmp_path / f"bytes{legacy}.pt"
        torch.save({"x": MakesBytes(), "ctx": torch.zeros(2)}, path, _use_new_zipfile_serialization=not legacy)
        assert "bytearray" in refuse(path)
    torch.save({"ctx": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "view.pt")
    assert "larger than what is stored" in refuse(tmp_path / "view.pt")
    # 60,000,000 dictionaries in 60 kB, a tensor of 4 GB in 400 bytes
    for name, pickled, said in (
        ("dicts", b"\x80\x02" + b"}" * 3_000_000 + b".", "steps"),
        ("tensor", b"\x80\x02}X\x03\0\0\0ctxctorch\nHalfTensor\nJ\xff\xff\xff\x7f\x85Rs.", "larger than the file"),
    ):
        with zipfile.ZipFile(tmp_path / f"{name}.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
            bomb.writestr("archive/data.pkl", pickled)
            bomb.writestr("archive/version", "3\n")
        assert said in refuse(tmp_path / f"{name}.pt")
    torch.save({"ctx": torch.zeros(3).to_sparse()}, tmp_path / "sparse.pt")
    assert "plain numbers" in refuse(tmp_path / "sparse.pt")


def test_damaged_files_are_one_sentence(tmp_path):
    torch.save({"ctx": torch.zeros(20, 30), "more": {"a": [1, 2]}}, tmp_path / "good.pt")
    torch.save({"ctx": torch.zeros(20, 30)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file({"ctx": torch.zeros(20, 30)}, tmp_path / "good.safetensors")
    generator = random.Random(0)
    for name in ("good.pt", "old.pt", "good.safetensors"):
        content = (tmp_path / name).read_bytes()
        for index in range(40):
            path = tmp_path / f"damaged{index}{Path(name).suffix}"
            damaged = bytearray(content)
            if index % 2:
                damaged = damaged[: generator.randrange(len(damaged))]
            else:
                for _ in range(8):
                    damaged[generator.randrange(min(len(damaged), 1500))] = generator.randrange(256)
            path.write_bytes(damaged)
            try:
                convert_openai_checkpoint(path)
            except ValueError as error:
                assert "\n" not in str(error) and len(str(error)) < 500 and path.name in str(error)
    for content in (b"", b"PK\x03\x04", b"no weights", b"\x80\x02.", bytes(1000), b"a,b\n1,2\n", b"[1]"):
        (tmp_path / "other.pt").write_bytes(content)
        refuse(tmp_path / "other.pt", convert_openai_checkpoint)
    for value in ([1], {"state_dict": [1]}, {"state_dict": {}}, {1: 2}, {"a": "b"}, None, "text"):
        torch.save(value, tmp_path / "other.pt")
        refuse(tmp_path / "other.pt", convert_openai_checkpoint)
        refuse(tmp_path / "other.pt", lambda path: convert_taidpt_checkpoint(path, make_clip(), ["a"]))


def test_state_dicts_of_a_few_keys_are_one_sentence(tmp_path):
    state = small_clip_state()
    path = tmp_path / "part.pt"
    generator = random.Random(0)
    keys = sorted(state)
    for key in generator.sample(keys, 8):
        torch.save({name: value for name, value in state.items() if name != key}, path)
        refuse(path, convert_openai_checkpoint)
        for wrong in (
            torch.zeros(()),
            torch.zeros(0),
            torch.zeros(1, 1, 1, 1),
            torch.zeros(7, 5),
            torch.zeros(3, dtype=int),
        ):
            if wrong.shape != state[key].shape:
                torch.save(state | {key: wrong}, path)
                refuse(path, convert_openai_checkpoint)
    torch.save({"text_projection": torch.zeros(4, 4), "token_embedding.weight": torch.zeros(4, 4)}, path)
    refuse(path, convert_openai_checkpoint)
    wide = state | {"visual.layer1.0.conv1.weight": torch.zeros(1_000_000, 1, 1, 1)}
    torch.save(wide, path)  # a configuration made of it would take gigabytes
    refuse(path, convert_openai_checkpoint)


def test_wrong_contexts_and_scales_are_one_sentence(tmp_path):
    path, ctx = tmp_path / "p", torch.randn(4, 32)
    for changes in (
        {"temperature": torch.tensor(float("nan"))},
        {"temperature": torch.zeros(3)},
        {"spatial_T": torch.tensor(1e9)},
    ):
        write_prompts(path, ctx, ctx, 2, **changes)
        with pytest.raises(ValueError, match="is not one number"):
            convert_taidpt_checkpoint(path, make_clip(), ["dog", "cat"])
    for wrong in (ctx * float("nan"), ctx.long()):
        torch.save({"ctx": wrong, "ctx_double": wrong}, path)
        with pytest.raises(ValueError, match="not finite numbers"):
            convert_taidpt_checkpoint(path, make_clip(), ["dog", "cat"])


def test_an_output_that_is_a_file_is_said_before_the_work(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(NotADirectoryError, match="is a file"):
        convert_openai_checkpoint(tmp_path / "absent.pt", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
