"""Training pairs of captions and image features: composed from class prototypes, real, and caption with caption.

A composed pair is a real caption and a made-up feature: for every concept that the caption names one prototype is
drawn (a row of the ImageNet classifier, or the feature of a photograph that shows the concept), and they are mixed.
A real pair is a photograph with a caption that names its labels, or with a caption of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .concepts import IMAGENET_SYNSETS, Concept
from .image_features import Photographs


@dataclass
class PairOptions:
    """How pairs are drawn.

    Args:
        mixing (`float`): concentration of the Dirichlet weights of the prototypes in one composed feature.
        background_low (`float`): smallest share of a random photograph's feature that is added to a composed one.
        background_high (`float`): largest one. With less the head trusts directions that photographs are noisy in.
        shrinkage (`float`): share of the identity in the covariance that turns classifier rows into class means.
        photo_share (`float`): how often a prototype is a photograph's feature, where both kinds exist.
        frequency_power (`float`): captions are drawn by their rarest concept, with weight count ** (power - 1).
        candidates (`int`): captions looked at for a photograph without own captions.
        recognized (`int`): views of any photographs that the ImageNet classifier is surest of become prototypes of a
            concept too, at most so many of them.
        sureness (`float`): probability that the classifier must give a concept's classes for that.
    """

    mixing: float = 2.0
    background_low: float = 0.3
    background_high: float = 1.0
    shrinkage: float = 1.0
    photo_share: float = 0.5
    frequency_power: float = 0.4
    candidates: int = 6
    recognized: int = 16
    sureness: float = 0.3


class PairSampler:
    """Draws pairs; features are pooled cells of the trunk, in its own (uncentred) space.

    Args:
        mentions (`list[list[int]]`): concepts that each caption names.
        groups (`list[tuple]`): a key per caption, see [`photograph_key`]; captions of the same image share it.
        concepts (`list[Concept]`): what the numbers mean, the labels of the photographs first.
        photographs (`list[Photographs]`): encoded, with labels over the first concepts.
        classifier (`nn.Linear`): ImageNet's, channels to 1000.
        options ([`PairOptions`], *optional*): how pairs are drawn.
        seed (`int`, *optional*, defaults to 0): seed of all draws.
    """

    def __init__(
        self,
        mentions: list[list[int]],
        groups: list[tuple],
        concepts: list[Concept],
        photographs: list[Photographs],
        classifier: nn.Linear,
        options: PairOptions | None = None,
        seed: int = 0,
    ) -> None:
        self.options = options or PairOptions()
        self.generator = np.random.default_rng(seed)
        self.num_concepts = len(concepts)
        pooled = [part.pooled.float() for part in photographs]  # (photographs, views, channels) each
        self.mean = torch.cat([part[:, 0] for part in pooled]).mean(dim=0)  # (channels,)
        self.views = torch.cat([part.flatten(0, 1) for part in pooled]) - self.mean  # (all views, channels)
        self.norm = self.views.norm(dim=1).mean()
        self.maps = [part.maps.flatten(0, 1) for part in photographs]  # (views, cells, width) each
        self.rows = Choices([sorted(concept.rows) for concept in concepts])
        self._index_photographs(photographs, _concepts_of_classes(concepts))
        means = class_means(classifier.weight, self.views, self.options.shrinkage)  # (1000, channels)
        self.bank = torch.cat([means, unit(self.views)])  # (1000 + all views, channels)
        shots = [
            [view for photo in self.shows.get(n, []) for view in self.views_of[photo]] for n in range(len(concepts))
        ]
        for shown, sure in zip(shots, self._recognized(concepts, classifier), strict=True):
            shown.extend(sure)
        self.shots = Choices([[len(means) + view for view in shown] for shown in shots])
        self._index_captions(mentions, groups)

    def _index_photographs(self, photographs: list[Photographs], class_concepts: dict[str, int]) -> None:
        self.labels_of: list[list[int]] = []
        self.key_of: list[tuple] = []
        self.views_of: list[range] = []
        self.shows: dict[int, list[int]] = {}
        self.labelled: list[int] = []
        num_labels = photographs[0].labels.shape[1]
        for content in photographs:
            views = content.pooled.shape[1]
            for row, name in enumerate(content.names):
                photo = len(self.labels_of)
                labels = content.labels[row].nonzero().flatten().tolist()
                if content.complete and labels:
                    self.labelled.append(photo)
                wnid = content.wnids[row] if content.wnids else None
                labels = sorted({*labels, class_concepts[wnid]}) if wnid in class_concepts else labels
                for label in labels:
                    self.shows.setdefault(label, []).append(photo)
                self.labels_of.append(labels)
                self.key_of.append(photograph_key(content, row, name))
                first = self.views_of[-1].stop if self.views_of else 0
                self.views_of.append(range(first, first + views))
        self.classes = sorted(label for label in self.shows if label < num_labels)

    def _recognized(self, concepts: list[Concept], classifier: nn.Linear) -> list[list[int]]:
        """For every concept, the views that the ImageNet classifier is surest to be one of its classes."""
        chances = classifier(self.views + self.mean).softmax(dim=1)  # (all views, 1000)
        found: list[list[int]] = []
        for concept in concepts:
            sums = chances[:, sorted(concept.rows)].sum(dim=1)  # (all views,)
            best = sums.topk(min(self.options.recognized if concept.rows else 0, len(sums)))
            found.append(best.indices[best.values > self.options.sureness].tolist())
        return found

    def _index_captions(self, mentions: list[list[int]], groups: list[tuple]) -> None:
        labelled = set(self.labelled)
        known = (self.rows.counts + self.shots.counts) > 0  # (concepts,)
        self.mentions = [[number for number in named if known[number]] for named in mentions]
        counts = np.bincount([number for named in self.mentions for number in named], minlength=self.num_concepts)
        power = self.options.frequency_power - 1
        weights = np.array([max((counts[n] ** power for n in named), default=0.0) for named in self.mentions])
        self.caption_weights = np.cumsum(weights / weights.sum())
        self.naming: dict[int, list[int]] = {}
        of_image: dict[tuple, list[int]] = {}
        for caption, (named, group) in enumerate(zip(self.mentions, groups, strict=True)):
            of_image.setdefault(group, []).append(caption)
            for number in named:
                self.naming.setdefault(number, []).append(caption)
        self.of_image = of_image
        self.captioned = []  # photographs with captions of their own whose labels are not known
        for photo, key in enumerate(self.key_of):
            if photo not in labelled and key in of_image:
                self.captioned.append(photo)
                named = {number for caption in of_image[key] for number in self.mentions[caption]}
                self.labels_of[photo] = sorted(named.union(self.labels_of[photo]))
        self.repeated = [captions for captions in of_image.values() if len(captions) > 1]

    def _draw(self, items: Sequence):
        return items[self.generator.integers(len(items))]

    def compose(self, named: list[list[int]]) -> torch.Tensor:
        """Makes features `(len(named), channels)`, each showing all its concepts before a random background."""
        options, draw = self.options, self.generator
        slots = np.concatenate([np.asarray(numbers) for numbers in named])  # (slots,)
        owner = np.repeat(np.arange(len(named)), [len(numbers) for numbers in named])  # (slots,)
        shares = draw.gamma(options.mixing, size=len(slots)) + 1e-9  # (slots,), Dirichlet once divided by their sum
        shares /= np.bincount(owner, shares)[owner]
        as_photo = draw.random(len(slots)) < options.photo_share  # (slots,)
        as_photo = np.where(self.rows.counts[slots] == 0, True, as_photo & (self.shots.counts[slots] > 0))
        chosen = np.where(as_photo, self.shots.draw(slots, draw), self.rows.draw(slots, draw))  # (slots,)
        parts = self.bank[chosen] * torch.from_numpy(shares).float()[:, None]  # (slots, channels)
        mixed = torch.zeros(len(named), self.bank.shape[1]).index_add_(0, torch.from_numpy(owner), parts)
        strengths = draw.uniform(options.background_low, options.background_high, (len(named), 1))  # (pairs, 1)
        backgrounds = self.views[draw.integers(len(self.views), size=len(named))]  # (pairs, channels)
        return (
            self.mean + self.norm * unit(mixed) + torch.from_numpy(strengths).float() * backgrounds
        )  # (pairs, channels)

    def shown(self, named: list[list[int]]) -> torch.Tensor:
        """Multi-hot `(pairs, concepts)` of lists of concepts."""
        table = torch.zeros(len(named), self.num_concepts)  # (pairs, concepts)
        for row, numbers in enumerate(named):
            table[row, numbers] = 1
        return table

    def composed(self, size: int) -> tuple[list[int], torch.Tensor, torch.Tensor]:
        """Draws composed pairs: caption numbers, features `(size, channels)`, concepts `(size, concepts)`."""
        draws = np.searchsorted(self.caption_weights, self.generator.random(size))
        captions = np.minimum(draws, len(self.mentions) - 1).tolist()
        named = [self.mentions[caption] for caption in captions]
        return captions, self.compose(named), self.shown(named)

    def _caption_for(self, photo: int) -> int:
        own = self.of_image.get(self.key_of[photo])
        if own:
            return self._draw(own)
        labels = self.labels_of[photo]
        pool = next((self.naming[label] for label in self._shuffled(labels) if label in self.naming), None)
        if pool is None:
            raise ValueError(f"No caption names any of the classes {labels} of photograph {photo}: add captions.")
        drawn, wanted = [self._draw(pool) for _ in range(self.options.candidates)], set(labels)

        def fit(caption: int) -> int:
            named = set(self.mentions[caption])
            return 2 * len(named & wanted) - len(named - wanted)

        return max(drawn, key=fit)

    def _shuffled(self, items: list[int]) -> list[int]:
        return [items[index] for index in self.generator.permutation(len(items))]

    def real(self, size: int) -> tuple[list[int], list[int], torch.Tensor]:
        """Draws labelled photographs, half of them by class so that rare ones come too, with a caption each.

        Args:
            size (`int`): pairs.

        Returns:
            `tuple[list[int], list[int], torch.Tensor]`: caption numbers, view numbers, concepts `(size, concepts)`.
        """
        captions, views, named = [], [], []
        for _ in range(size):
            by_class = self.generator.random() < 0.5 or not self.labelled
            photo = self._draw(self.shows[self._draw(self.classes)] if by_class else self.labelled)
            captions.append(self._caption_for(photo))
            views.append(self._draw(self.views_of[photo]))
            named.append(self.labels_of[photo])
        return captions, views, self.shown(named)

    def own(self, size: int) -> tuple[list[int], list[int], torch.Tensor]:
        """Draws different photographs with one of their own captions each, at most as many as there are.

        Args:
            size (`int`): pairs.

        Returns:
            `tuple[list[int], list[int], torch.Tensor]`: as [`PairSampler.real`]; concepts are those that any of the
            captions of a photograph names.
        """
        photos = self.generator.permutation(self.captioned)[:size].tolist()
        captions = [self._draw(self.of_image[self.key_of[photo]]) for photo in photos]
        views = [self._draw(self.views_of[photo]) for photo in photos]
        return captions, views, self.shown([self.labels_of[photo] for photo in photos])

    def features(self, views: list[int]) -> torch.Tensor:
        """Pooled features `(views, channels)` of views."""
        return self.views[views] + self.mean

    def cells(self, views: list[int]) -> torch.Tensor:
        """Cached maps `(views, cells, width)` of views, see [`expand_maps`]."""
        ends = np.cumsum([len(part) for part in self.maps])
        parts = np.searchsorted(ends, views, side="right")
        return torch.stack(
            [self.maps[part][view - ends[part]] for part, view in zip(parts.tolist(), views, strict=True)]
        )

    def paraphrases(self, size: int) -> tuple[list[int], list[int]]:
        """Draws `size` images with several captions, two captions each."""
        pairs = [self.generator.choice(self._draw(self.repeated), 2, replace=False) for _ in range(size)]
        return [int(first) for first, _ in pairs], [int(second) for _, second in pairs]


def photograph_key(photographs: Photographs, row: int, name: str) -> tuple:
    """What the captions of a photograph are found by: its COCO id where it has one, else folder and file name."""
    number = photographs.caption_ids[row]
    return (photographs.folder.name, name) if number is None else ("coco", number)


def _concepts_of_classes(concepts: list[Concept]) -> dict[str, int]:
    """For the WordNet id of every ImageNet class that is part of a concept, the concept of the fewest classes."""
    found: dict[str, int] = {}
    for number in sorted(range(len(concepts)), key=lambda each: -len(concepts[each].rows)):
        found.update(dict.fromkeys(concepts[number].rows, number))
    return {name: found[row] for row, name in enumerate(IMAGENET_SYNSETS.read_text().split()) if row in found}


class Choices:
    """A ragged table: every key has some values, and many keys are drawn from at once.

    Args:
        values (`list[list[int]]`): the values of each key; a key without values draws nonsense, see `counts`.
    """

    def __init__(self, values: list[list[int]]) -> None:
        self.counts = np.array([len(each) for each in values])  # (keys,)
        self.starts = np.cumsum(self.counts) - self.counts  # (keys,)
        self.values = np.array([value for each in values for value in each] or [0])

    def draw(self, keys: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """One random value `(draws,)` for each of `keys` `(draws,)`."""
        places = self.starts[keys] + (generator.random(len(keys)) * self.counts[keys]).astype(int)
        return self.values[np.minimum(places, len(self.values) - 1)]


def class_means(classifier: torch.Tensor, features: torch.Tensor, shrinkage: float) -> torch.Tensor:
    """Where a linear classifier expects the features of its classes: covariance times rows (Fisher's discriminant).

    Args:
        classifier (`torch.Tensor` of shape `(classes, channels)`): rows.
        features (`torch.Tensor` of shape `(samples, channels)`): centred.
        shrinkage (`float`): share of the scaled identity in the covariance; infinite gives the rows themselves.

    Returns:
        `torch.Tensor`: unit-length directions `(classes, channels)` from the mean of all features.
    """
    rows = classifier - classifier.mean(dim=0)  # (classes, channels)
    covariance = features.T @ features / len(features)  # (channels, channels)
    identity = covariance.diag().mean() * torch.eye(len(covariance))  # (channels, channels)
    mixed = identity if shrinkage == float("inf") else covariance + shrinkage * identity  # (channels, channels)
    return unit(rows @ mixed)


def unit(features: torch.Tensor) -> torch.Tensor:
    """Scales the last dimension to length 1."""
    return features / features.norm(dim=-1, keepdim=True)
