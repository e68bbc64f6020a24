"""A smaller vocabulary for the base: CLIP's byte-pair tokens, cut to those that the training captions use."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable

from transformers import CLIPTokenizer

BYTE_TOKENS = 512  # 256 bytes inside a word, 256 at its end: with all of them any word can be written
WORD = re.compile(r"[^\W_]+(?:'[a-z]+)?")


def count_tokens(tokenizer: CLIPTokenizer, texts: Iterable[str]) -> Counter[str]:
    """Counts the tokens of the words of `texts`; every different word is tokenised once."""
    words: Counter[str] = Counter()
    for text in texts:
        words.update(WORD.findall(text.lower()))
    usage: Counter[str] = Counter()
    for word, count in words.items():
        for token in tokenizer.tokenize(word):
            usage[token] += count
    return usage


def reduce_tokenizer(tokenizer: CLIPTokenizer, texts: Iterable[str], size: int) -> CLIPTokenizer:
    """Keeps the byte tokens and the most used merged tokens, with every merge that leads to a kept token.

    Args:
        tokenizer (`CLIPTokenizer`): the full one.
        texts (`Iterable[str]`): where tokens are counted.
        size (`int`): tokens to keep, start and end of text included.

    Returns:
        `CLIPTokenizer`: ids in the order of the full vocabulary, start and end of text last; at most 77 tokens a text.

    Raises:
        ValueError: `size` does not even hold the byte tokens.
    """
    if size < BYTE_TOKENS + 2:
        raise ValueError(
            f"The vocabulary size is {size}: byte and special tokens alone are {BYTE_TOKENS + 2}, raise it."
        )
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    parents = {left + right: (left, right) for left, right in reversed(merges)}
    usage = count_tokens(tokenizer, texts)
    by_id = sorted(model["vocab"], key=model["vocab"].get)
    kept = set(by_id[:BYTE_TOKENS])
    for token, _ in sorted(usage.items(), key=lambda item: (-item[1], item[0])):
        needed, stack = set(), [token]
        while stack:
            each = stack.pop()
            if each not in kept and each not in needed and each in parents:
                needed.add(each)
                stack.extend(parents[each])
        if len(kept) + len(needed) <= size - 2:
            kept |= needed
    specials = [tokenizer.bos_token, tokenizer.eos_token]
    ordered = [token for token in by_id if token in kept and token not in specials] + specials
    vocab = {token: number for number, token in enumerate(ordered)}
    reachable = [merge for merge in merges if {*merge, "".join(merge)} <= kept]
    return CLIPTokenizer(vocab=vocab, merges=reachable, model_max_length=tokenizer.model_max_length)
