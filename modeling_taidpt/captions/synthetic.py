"""A corpus of captions from a bare list of labels: sentences that name one to several labels, no model needed.

Source of the idea: texts written for the labels in the place of real captions (CoMC, ICML 2024; "Data-free Multi-label
Image Recognition via LLM-powered Prompt Tuning", arXiv 2403.01209, both with a large language model).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import datasets
import numpy as np

from ..configuration_taidpt import check_labels
from ..languages import ENGLISH
from ..prompt_templates import load_templates

SCENES = (
    "{}.",
    "A photo of {}.",
    "A picture of {} outside.",
    "A picture of {} in a room.",
    "A close-up of {}.",
    "There is {} in this picture.",
    "{} seen from above.",
    "{} in the background.",
    "A view of {} on a sunny day.",
    "{} at night.",
    "An old photo of {}.",
    "Someone took a picture of {}.",
    "{} on the left side of the picture.",
)
NUMBERS = ("a", "a", "a", "a", "the", "one", "another", "a large", "a small", "some kind of", "a white", "a black")
LINKS = (
    "{} and {}",
    "{} next to {}",
    "{} beside {}",
    "{} near {}",
    "{} in front of {}",
    "{} behind {}",
    "{} with {}",
    "{} on top of {}",
)
NUMBER_OF_LABELS = (0.3, 0.35, 0.2, 0.1, 0.05)  # shares of captions that name 1, 2, 3, 4, 5 labels
GENERATOR_BATCH = 32
PLAIN_TEMPLATE_COPIES = 9  # of "a photo of a {}." beside the 80 templates, as in the published code

TextGenerator = Callable[[list[list[str]]], Sequence[str]]


def make_captions(
    labels: Sequence[str],
    num_captions: int | None = None,
    seed: int = 0,
    cooccurrence: np.ndarray | Mapping[str, Mapping[str, float]] | None = None,
    text_generator: TextGenerator | None = None,
) -> datasets.Dataset:
    """Writes a corpus that names the labels, ready to be the trainer's `train_dataset`.

    Every label is the first of as many captions as every other. Further labels of a caption are drawn by
    `cooccurrence`, evenly without it.

    Args:
        labels (`Sequence[str]`): the labels; an underscore is read as a space.
        num_captions (`int`, *optional*): length of the corpus; 200 per label by default.
        seed (`int`, *optional*, defaults to 0): the same seed gives the same corpus.
        cooccurrence (`np.ndarray` of shape `(classes, classes)` or `Mapping`, *optional*): how likely the column's
            label is beside the row's, in any unit, as from [`cooccurrence`] of labelled captions; or
            `{"fork": {"knife": 3, "dining table": 5}}`, where what is not named has 0. The diagonal does not count.
        text_generator (`Callable`, *optional*): writes the sentences instead of the templates: gets lists of labels,
            `[["dog", "cat"], ["car"], ...]`, at most 32 at a time, and gives one text for each. Any language model
            serves, as `lambda sets: [out[0]["generated_text"] for out in pipe([describe_labels(s) for s in sets])]`
            with a text-generation pipeline. What it writes is labelled like any caption, by the labels that it names.

    Returns:
        `datasets.Dataset`: columns `caption` and `labels` (the names that the caption was asked to show).

    Raises:
        ValueError: If labels are empty or repeated, a number is out of range, the co-occurrence does not fit the
            labels, or the generator gives another number of texts or something that is not a text.

    Example:
        >>> from modeling_taidpt import make_captions
        >>> make_captions(["dog", "cat", "car"], num_captions=300)
        Dataset({
            features: ['caption', 'labels'],
            num_rows: 300
        })
    """
    check_labels(labels)
    count = 200 * len(labels) if num_captions is None else num_captions
    if count < 1:
        raise ValueError(f"`num_captions` is {count}: give a number of captions, at least 1.")
    chances = _chances(labels, cooccurrence)  # (classes, classes)
    generator = np.random.default_rng(seed)
    drawn = [_draw_labels(number % len(labels), chances, generator) for number in range(count)]
    names = [label.replace("_", " ") for label in labels]
    sets = [[names[column] for column in columns] for columns in drawn]
    captions = (
        [_write(some, generator) for some in sets] if text_generator is None else _generate(sets, text_generator)
    )
    shown = [[labels[column] for column in columns] for columns in drawn]
    order = generator.permutation(count)  # (captions,)
    rows = {"caption": [captions[row] for row in order], "labels": [shown[row] for row in order]}
    return datasets.Dataset.from_dict(rows)


def describe_labels(labels: Sequence[str]) -> str:
    """A request for a caption that names some labels, for a language model.

    Args:
        labels (`Sequence[str]`): what the photograph shows.

    Returns:
        `str`: one request.
    """
    return f"Write one short caption, in plain words, of a photograph that shows: {', '.join(labels)}. Caption:"


def _chances(labels: Sequence[str], given: np.ndarray | Mapping[str, Mapping[str, float]] | None) -> np.ndarray:
    """Weights `(classes, classes)` of further labels, 0 on the diagonal."""
    size = len(labels)
    if given is None:
        chances = np.ones((size, size))  # (classes, classes)
    elif isinstance(given, Mapping):
        places = {label: column for column, label in enumerate(labels)}
        chances = np.zeros((size, size))  # (classes, classes)
        for first, others in given.items():
            for second, weight in others.items():
                unknown = [name for name in (first, second) if name not in places]
                if unknown:
                    raise ValueError(f"`cooccurrence` names {unknown[0]!r}, which is none of the {size} labels.")
                chances[places[first], places[second]] = weight
    else:
        chances = np.array(given, dtype=np.float64)  # (classes, classes)
    if chances.shape != (size, size) or not np.isfinite(chances).all() or (chances < 0).any():
        raise ValueError(
            f"`cooccurrence` has the shape {chances.shape}: give {size} rows of {size} numbers, 0 or more."
        )
    np.fill_diagonal(chances, 0)
    return chances


def _draw_labels(first: int, chances: np.ndarray, generator: np.random.Generator) -> list[int]:
    """Columns of the labels of one caption, the given one among them, in random order."""
    chosen = [first]
    wanted = 1 + generator.choice(len(NUMBER_OF_LABELS), p=NUMBER_OF_LABELS)
    while len(chosen) < wanted:
        weights = chances[chosen].sum(axis=0)  # (classes,)
        weights[chosen] = 0
        if weights.sum() == 0:  # nothing is ever beside these
            break
        chosen.append(int(generator.choice(len(weights), p=weights / weights.sum())))
    return [chosen[place] for place in generator.permutation(len(chosen))]


def _write(names: list[str], generator: np.random.Generator) -> str:
    """One sentence of the templates that names all of the names."""
    parts = [_with_article(name, generator) for name in names]
    text = parts[0]
    for part in parts[1:]:
        text = LINKS[generator.integers(len(LINKS))].format(text, part)
    sentence = SCENES[generator.integers(len(SCENES))].format(text)
    return sentence[0].upper() + sentence[1:]


def _with_article(name: str, generator: np.random.Generator) -> str:
    article = NUMBERS[generator.integers(len(NUMBERS))]
    if article == "a" and name[:1].lower() in "aeiou":
        article = "an"
    return f"{article} {name}"


def _generate(sets: list[list[str]], text_generator: TextGenerator) -> list[str]:
    captions: list[str] = []
    for batch in _batches(sets):
        texts = list(text_generator(batch))
        if len(texts) != len(batch):
            raise ValueError(
                f"The text generator gave {len(texts)} texts for {len(batch)} lists of labels: give one each."
            )
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"The text generator gave {text!r:.60}, which is not a text: give a list of strings.")
        captions += [" ".join(text.split()) for text in texts]
    return captions


def _batches(sets: list[list[str]]) -> Iterator[list[list[str]]]:
    for start in range(0, len(sets), GENERATOR_BATCH):
        yield sets[start : start + GENERATOR_BATCH]


def template_sentences(class_names: Sequence[str], language: str = ENGLISH) -> tuple[list[str], np.ndarray]:
    """The sentences that the published code mixes among the captions.

    Args:
        class_names (`Sequence[str]`): what the prompt says for each class.
        language (`str`, *optional*, defaults to `"en"`): code of their language, which has templates of its own.

    Returns:
        `tuple`: 9 times "a photo of a {}." and 80 templates for each class, and one-hot labels
        `(89 * classes, classes)`; of another language 9 times its template, and that and the bare name once.
    """
    templates = load_templates("default", language) * PLAIN_TEMPLATE_COPIES + load_templates("imagenet", language)
    names = [name.replace("_", " ") for name in class_names]
    sentences = [template.replace("{}", name) for name in names for template in templates]
    return sentences, np.repeat(np.eye(len(names), dtype=np.uint8), len(templates), axis=0)


__all__ = ["PLAIN_TEMPLATE_COPIES", "describe_labels", "make_captions", "template_sentences"]
