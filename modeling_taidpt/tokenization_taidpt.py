"""CLIP's byte-pair tokenizer, built offline from OpenAI's merges file that ships with the package."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

ASSETS = Path(__file__).parent / "assets"
BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"
MAX_LENGTH = 77
NUM_MERGES = 48894


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins of the bytes, in the order of CLIP's vocabulary (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = range(256 - len(printable))
    return [chr(code) for code in printable] + [chr(256 + index) for index in others]


@functools.cache
def read_merges() -> tuple[tuple[str, str], ...]:
    """The 48,894 merges of CLIP's BPE, first merged first.

    Raises:
        FileNotFoundError: the code runs from a repository, with which the file of the package does not travel.
    """
    try:
        with gzip.open(ASSETS / BPE_FILE, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            "CLIP's vocabulary comes with the package and not with a checkpoint: pass `tokenizer=`, as that of "
            "`model.get_tokenizer()`, or install the package (`pip install taidpt`)."
        ) from error
    return tuple(tuple(line.split()) for line in lines[1 : NUM_MERGES + 1])  # type: ignore[misc]


def build_clip_tokenizer(merges: Sequence[tuple[str, str]]) -> CLIPTokenizer:
    """Builds a CLIP tokenizer from merges: 256 bytes, 256 bytes that end a word, the merges, two special tokens.

    Args:
        merges (`Sequence[tuple[str, str]]`): pairs in the order in which they are applied. All byte tokens are kept
            in any case, so that every word encodes.

    Returns:
        [`~transformers.CLIPTokenizer`]: `model_max_length` 77, padded with the end-of-text token.
    """
    symbols = byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=[tuple(pair) for pair in merges], model_max_length=MAX_LENGTH)


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's own tokenizer (49,408 tokens) without any download.

    Returns:
        [`~transformers.CLIPTokenizer`]: a fresh instance; ids equal those of `openai/clip-vit-base-patch32`.
    """
    return build_clip_tokenizer(read_merges())


def tokenize_names(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> list[list[int]]:
    """Token ids of class names without special tokens; underscores read as spaces, as in the published code.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer of the CLIP.
        names (`Sequence[str]`): class names.

    Returns:
        `list[list[int]]`: one list of ids per name.

    Raises:
        ValueError: a name is empty or has no token; it is named.
    """
    texts = [name.replace("_", " ").strip() for name in names]
    ids = tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)["input_ids"] if texts else []
    for name, tokens in zip(names, ids, strict=True):
        if not tokens:
            raise ValueError(f"The class name {name!r} has no token: give a name of letters or digits.")
    return ids


def frame_token_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, int | None]:
    """Ids that a tokenizer puts before and after a text, `None` where it puts none; it need not call them so.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the tokenizer of a dual encoder.

    Returns:
        `tuple[int | None, int | None]`: start and end, as CLIP's start and end of text or BERT's `[CLS]` and `[SEP]`.

    Raises:
        ValueError: it puts more than one there.
    """
    whole, bare = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    starts = [index for index in range(len(whole)) if whole[index : index + len(bare)] == bare]
    before, after = (whole[: starts[0]], whole[starts[0] + len(bare) :]) if starts else (whole, whole)
    if len(before) > 1 or len(after) > 1:
        raise ValueError(f"The tokenizer frames 'a' as {whole}: at most one token before and after it is supported.")
    return next(iter(before), None), next(iter(after), None)


def find_end_of_text(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, eos_token_id: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Finds where each caption ends; CLIP's own pooling silently takes position 0 when the id is a wrong one.

    Args:
        input_ids (`torch.Tensor` of shape `(batch, length)`): token ids.
        attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*): 1 for tokens, 0 for padding.
        eos_token_id (`int`): id of the end-of-text token.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: index of the first end-of-text token `(batch,)`, and the mask
        `(batch, length)`, all ones where none was given.

    Raises:
        ValueError: a caption has no end-of-text token, or is padded and there is no mask.
    """
    is_end = torch.eq(input_ids, -1 if eos_token_id is None else eos_token_id)  # (batch, length)
    if attention_mask is not None:
        attention_mask = attention_mask.to(input_ids.device)  # (batch, length)
        is_end = is_end & attention_mask.bool()  # (batch, length)
    has_end = is_end.any(dim=1)  # (batch,)
    checks = not torch.compiler.is_compiling()  # compilers and exporters cannot branch on values
    if checks and not bool(has_end.all()):
        row = int((~has_end).nonzero()[0])
        raise ValueError(
            f"Caption {row} of the batch has no end-of-text token (id {eos_token_id}): tokenize with special tokens "
            "and truncation=True, so that it is kept."
        )
    eot = is_end.int().argmax(dim=1)  # (batch,)
    if attention_mask is None:
        if checks and bool((eot < input_ids.shape[1] - 1).any()):
            raise ValueError("The captions are padded and there is no `attention_mask`: pass the tokenizer's.")
        attention_mask = torch.ones_like(input_ids)  # (batch, length)
    return eot, attention_mask


__all__ = [
    "build_clip_tokenizer",
    "clip_tokenizer",
    "find_end_of_text",
    "frame_token_ids",
    "read_merges",
    "tokenize_names",
]
