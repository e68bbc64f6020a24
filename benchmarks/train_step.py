"""One training step at ViT-B/32 text size: ours, the published computation, and the matrix-product floor.

    python benchmarks/train_step.py [--dtype bf16] [--compile] [--device cuda] [--json FILE]

The published way (arXiv 2211.12739 and its code) encodes the captions again at every step and sends every prompt, 77
tokens long, through the text tower twice: once per branch. Ours keeps the caption features, computes the prefix that
all prompts share once, and carries no padding. Weights and captions are random: the time depends on shapes alone.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from common import machine, median_seconds, seconds, write_figures
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, HfArgumentParser

from modeling_taidpt import TaiDptModel, load_class_table
from modeling_taidpt.backbones import text_side

LENGTH, SOS, EOT = 77, 49406, 49407  # of the published prompts and captions
CAPTION_TOKENS = (8, 25)  # shortest, longest + 1; COCO's captions have 8 to 24 tokens with both specials
POSITIVES = 3  # classes per caption
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
TEXT_SPATIAL_SCALE, LOGIT_SCALE, MARGIN = 50.0, 4.0, 1.0


@dataclass
class Arguments:
    """Sizes of the step; the defaults are the paper's batch and COCO's classes on CLIP ViT-B/32's text tower."""

    captions: int = field(default=512, metadata={"help": "Captions in a batch."})
    classes: int = field(default=80, metadata={"help": "Classes, the first ones of COCO's 80."})
    layers: int = field(default=12, metadata={"help": "Layers of the text tower."})
    width: int = field(default=512, metadata={"help": "Width of the text tower."})
    baseline_captions: int = field(default=64, metadata={"help": "Captions that the published way is timed on."})
    baseline_classes: int = field(default=20, metadata={"help": "Classes that the published way is timed on."})
    dtype: str = field(default="fp32", metadata={"help": "Of ours and the floor.", "choices": list(DTYPES)})
    compile: bool = field(default=False, metadata={"help": "Compile our step with `torch.compile`."})
    device: str = field(default="cuda" if torch.cuda.is_available() else "cpu", metadata={"help": "Of all three."})
    repeats: int = field(default=3, metadata={"help": "Timed runs after one warm-up; the median counts."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, captions and labels."})
    json: str | None = field(default=None, metadata={"help": "File for the figures."})


@dataclass
class Batch:
    """Random captions: ids and mask `(captions, 77)`, labels `(captions, classes)`."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


def make_clip(layers: int, width: int, dim: int | None = None) -> CLIPModel:
    """A random CLIP with a text tower of the given size, `dim` joint dimensions and hardly any vision tower."""
    text = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "vocab_size": 49408,
        "eos_token_id": EOT,
    }
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=dim or width)
    config._attn_implementation = "sdpa"
    return CLIPModel(config).eval()


def make_batch(captions: int, classes: int) -> Batch:
    """Captions of COCO's lengths, padded to 77 with id 0."""
    lengths = torch.randint(*CAPTION_TOKENS, (captions, 1))  # (captions, 1)
    steps = torch.arange(LENGTH)  # (length,)
    ids = torch.randint(1, SOS, (captions, LENGTH)).masked_fill(steps == 0, SOS)  # (captions, length)
    ids = ids.masked_fill(steps == lengths - 1, EOT).masked_fill(steps >= lengths, 0)  # (captions, length)
    labels = torch.rand(captions, classes).argsort(dim=1) < POSITIVES  # (captions, classes)
    return Batch(ids, (steps < lengths).long(), labels.float())


def first(batch: Batch, captions: int, classes: int) -> Batch:
    return Batch(batch.input_ids[:captions], batch.attention_mask[:captions], batch.labels[:captions, :classes])


def make_model(clip: CLIPModel, classes: int, contexts: Tensor) -> TaiDptModel:
    """Our model for the first classes of COCO, in training mode, with the given contexts `(2, vectors, width)`."""
    labels = [row["name"] for row in load_class_table("coco80")][:classes]
    model = TaiDptModel.from_clip(clip, labels=labels, num_context_tokens=contexts.shape[1])
    with torch.no_grad():
        model.prompt_learner.global_context.copy_(contexts[0])
        model.prompt_learner.local_context.copy_(contexts[1])
    return model.train()


@torch.inference_mode()
def published_captions(clip: CLIPModel, input_ids: Tensor) -> Tensor:
    """Normalised features `(captions, 77, dim)` of all tokens, padding included."""
    hidden = clip.text_model(input_ids=input_ids).last_hidden_state  # (captions, length, width)
    return torch.nn.functional.normalize(clip.text_projection(hidden), dim=-1)  # (captions, length, dim)


def published_classes(clip: CLIPModel, model: TaiDptModel, context: Tensor) -> Tensor:
    """Class embeddings `(classes, dim)` of one branch: every prompt as a whole sequence of 77 tokens."""
    text, names = clip.text_model, model.config.class_input_ids
    ids = torch.zeros(len(names), LENGTH - 1 - len(context), dtype=torch.long)  # (classes, rest)
    eot = torch.tensor([1 + len(context) + len(name) + 1 for name in names])  # (classes,)
    for row, name in zip(ids, names, strict=True):
        row[: len(name) + 2] = torch.tensor([*name, model.config.period_token_id, EOT])
    start = text.embeddings.token_embedding(torch.full((len(names), 1), SOS))  # (classes, 1, width)
    rest = text.embeddings.token_embedding(ids)  # (classes, rest, width)
    prompts = torch.cat([start, context.expand(len(names), -1, -1), rest], dim=1)  # (classes, length, width)
    hidden = text.embeddings(inputs_embeds=prompts)  # (classes, length, width)
    hidden = text.encoder(inputs_embeds=hidden, is_causal=True).last_hidden_state  # (classes, length, width)
    pooled = text.final_layer_norm(hidden)[torch.arange(len(names)), eot]  # (classes, width)
    return torch.nn.functional.normalize(clip.text_projection(pooled), dim=-1)  # (classes, dim)


def published_ranking(logits: Tensor, labels: Tensor) -> Tensor:
    pairs = MARGIN - logits[:, :, None] + logits[:, None, :]  # (captions, classes, classes)
    wanted = labels[:, :, None] * (1 - labels[:, None, :])  # (captions, classes, classes)
    return (pairs.clamp(min=0) * wanted).sum(dim=(1, 2)).mean()


def published_loss(tokens: Tensor, embeddings: Tensor, batch: Batch) -> Tensor:
    """Loss of caption features `(captions, 77, dim)` and class embeddings `(2, classes, dim)`."""
    end = batch.attention_mask.sum(dim=1) - 1  # (captions,)
    logits_global = LOGIT_SCALE * tokens[torch.arange(len(tokens)), end] @ embeddings[0].T  # (captions, classes)
    similarity = tokens @ embeddings[1].T  # (captions, length, classes)
    sharp = (TEXT_SPATIAL_SCALE * similarity).masked_fill(batch.attention_mask[:, :, None] == 0, float("-inf"))
    logits_local = (LOGIT_SCALE * similarity * sharp.softmax(dim=1)).sum(dim=1)  # (captions, classes)
    return published_ranking(logits_global, batch.labels) + published_ranking(logits_local, batch.labels)


def both_branches(clip: CLIPModel, model: TaiDptModel) -> Tensor:
    contexts = (model.prompt_learner.global_context, model.prompt_learner.local_context)
    return torch.stack([published_classes(clip, model, context) for context in contexts])  # (2, classes, dim)


def time_baseline(clip: CLIPModel, model: TaiDptModel, batch: Batch, repeats: int) -> tuple[float, float]:
    """Seconds for the captions of the batch and for the prompts of the model, forward and backward."""
    cotangent = torch.randn(2, model.config.num_labels, clip.config.projection_dim)  # (2, classes, dim)
    captions = median_seconds(lambda: published_captions(clip, batch.input_ids), repeats)
    prompts = median_seconds(lambda: both_branches(clip, model).backward(cotangent), repeats)
    return captions, prompts


def keep_captions(model: TaiDptModel, batch: Batch) -> dict[str, Tensor]:
    """Caption features as the trainer keeps them, no longer than the longest caption."""
    length = int(batch.attention_mask.sum(dim=1).max())
    mask = batch.attention_mask[:, :length]  # (captions, length)
    with torch.no_grad():
        pooled, tokens = model.encode_captions(batch.input_ids[:, :length], mask)
    return {"caption_embeds": pooled, "token_embeds": tokens, "attention_mask": mask, "labels": batch.labels}


def make_step(model: TaiDptModel, kept: dict[str, Tensor], compiled: bool = False) -> Callable[[], Tensor]:
    """The step of the paper's recipe on cached caption features; it returns the loss."""
    scored = torch.compile(model) if compiled else model
    contexts = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(contexts, lr=1e-4, momentum=0.9, weight_decay=5e-4)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = scored(**kept).loss
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def floor_flops(model: TaiDptModel, batch: Batch) -> float:
    """FLOPs of the matrix products that a step cannot do without.

    Counted: the shared prefix once per branch and each class's real tail; linear layers forward and backward to the
    activations (weights are frozen: twice the forward); both products of causal attention, whose backward costs twice
    the forward; in the last layer keys and values of all tokens but everything else for the end-of-text rows only;
    the projection; the scores of real caption tokens, forward and backward to the class embeddings.
    """
    text = model.config.clip_config.text_config
    width, inner, dim = text.hidden_size, text.intermediate_size, model.config.clip_config.projection_dim
    prefix = 1 + model.config.num_context_tokens
    tails = [len(name) + 2 for name in model.config.class_input_ids]
    tokens, classes = prefix + sum(tails), len(tails)
    keys = sum(range(1, prefix + 1)) + sum(prefix + k for tail in tails for k in range(1, tail + 1))
    last_keys = sum(prefix + tail for tail in tails)
    key_value, rest = 2 * width * width, 2 * width * width + 2 * width * inner  # multiply-adds per token and layer
    linear = (text.num_hidden_layers - 1) * tokens * (key_value + rest)
    linear += tokens * key_value + classes * (rest + width * dim)
    attention = 2 * width * ((text.num_hidden_layers - 1) * keys + last_keys)
    scores = (int(batch.attention_mask.sum()) + len(batch.labels)) * classes * dim
    return 2.0 * (2 * (2 * linear + 3 * attention) + 2 * scores)


def matrix_product(model: TaiDptModel) -> tuple[Callable[[], Tensor], float]:
    """The product of the first MLP layer with all prompt tokens, in the model's dtype, and its FLOPs."""
    weight = model.clip.text_model.encoder.layers[0].mlp.fc1.weight.detach()  # (inner, width)
    layout = model.prompt_learner.layout(text_side(model.clip), range(model.config.num_labels), weight.device)
    tokens = 2 * (1 + layout.prefix_context + len(layout.token_ids))
    hidden = torch.randn(tokens, weight.shape[1]).to(weight.dtype)  # (tokens, width)
    return (lambda: hidden @ weight.T), 2.0 * tokens * weight.numel()


def time_step(model: TaiDptModel, batch: Batch, step: Callable[[], Tensor], repeats: int) -> tuple[float, float]:
    """Seconds of our step and of its floor; the matrix-product rate is measured before each of our steps."""
    product, flops = matrix_product(model)
    step()
    ours, products = [], []
    for _ in range(3 * repeats):
        products.append(median_seconds(product, 20))
        ours.append(seconds(step))
    return statistics.median(ours), floor_flops(model, batch) / flops * statistics.median(products)


def compare(published: Tensor, ours: Tensor, model: TaiDptModel) -> tuple[float, float]:
    """Relative differences of two losses and of their gradients in the contexts (norm of the difference)."""
    contexts = [model.prompt_learner.global_context, model.prompt_learner.local_context]
    expected, actual = (torch.stack(torch.autograd.grad(loss, contexts)) for loss in (published, ours))
    loss_difference = (ours - published).abs() / published.abs()
    return float(loss_difference), float((actual - expected).norm() / expected.norm())


def measure(arguments: Arguments) -> dict[str, float]:
    """All figures: the five of `--json` and what the report adds to them."""
    torch.manual_seed(arguments.seed)
    torch.set_default_device(arguments.device)
    torch.backends.cuda.matmul.allow_tf32 = arguments.dtype == "tf32"
    clip = make_clip(arguments.layers, arguments.width).requires_grad_(False)
    batch = make_batch(arguments.captions, arguments.classes)
    contexts = torch.randn(2, 16, arguments.width) * 0.02  # (2, vectors, width)
    few = first(batch, arguments.baseline_captions, arguments.baseline_classes)
    captions, classes = few.labels.shape
    small = make_model(clip, classes, contexts)
    caption_part, prompt_part = time_baseline(clip, small, few, arguments.repeats)
    tokens = published_captions(clip, few.input_ids).clone()  # (captions, length, dim); may be part of a graph
    published = published_loss(tokens, both_branches(clip, small), few)
    small.clip = clip = copy.deepcopy(clip).to(DTYPES[arguments.dtype])
    differences = compare(published, small(**keep_captions(small, few)).loss, small)
    model = make_model(clip, arguments.classes, contexts)
    encode_seconds = seconds(lambda: keep_captions(model, batch))
    step = make_step(model, keep_captions(model, batch), arguments.compile)
    ours, floor = time_step(model, batch, step, arguments.repeats)
    caption_part *= arguments.captions / captions
    prompt_part *= arguments.classes / classes
    return {
        "baseline_seconds": caption_part + prompt_part,
        "seconds": ours,
        "floor_seconds": floor,
        "ratio": (caption_part + prompt_part) / ours,
        "loss_difference": differences[0],
        "gradient_difference": differences[1],
        **{"small_captions": captions, "small_classes": classes},
        **{"caption_part": caption_part, "prompt_part": prompt_part},
        "encode_seconds": encode_seconds,
        "floor_gflop": floor_flops(model, batch) / 1e9,
    }


def report(arguments: Arguments, figures: dict[str, float]) -> str:
    """The figures in words, one line each."""
    lines = (
        f"machine          {machine()}",
        "sizes            {layers} layers, width {width}, {captions} captions, {classes} classes, two shared contexts "
        "of 16 vectors",
        "published, fp32  {baseline_seconds:.2f} s a step: captions {caption_part:.2f} s, prompts {prompt_part:.2f} s "
        "(timed on {small_captions} captions and {small_classes} classes, scaled linearly)",
        "ours, {dtype}       {seconds:.3f} s a step (captions encoded once, outside the step: {encode_seconds:.2f} s)",
        "floor, {dtype}      {floor_seconds:.3f} s for {floor_gflop:.1f} GFLOP at the measured matrix-product rate",
        "published/ours   {ratio:.1f}",
        f"ours/floor       {figures['seconds'] / figures['floor_seconds']:.2f}",
        "difference       loss {loss_difference:.1e}, gradient {gradient_difference:.1e} (relative; both ways on the "
        "same {small_captions} captions and {small_classes} classes)",
    )
    return "\n".join(lines).format(**vars(arguments) | figures)


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    if arguments.dtype == "bf16" and arguments.device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise SystemExit("This CPU has no bfloat16 units: a step in bf16 takes minutes, and its time says nothing.")
    figures = measure(arguments)
    print(report(arguments, figures))
    if arguments.json is not None:
        keys = ("baseline_seconds", "seconds", "floor_seconds", "ratio", "loss_difference")
        write_figures(arguments.json, {key: figures[key] for key in keys} | vars(arguments))


if __name__ == "__main__":
    main()
