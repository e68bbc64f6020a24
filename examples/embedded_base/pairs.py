"""Training pairs of captions and image features: composed from class prototypes, real, and caption with caption.

A composed pair is a real caption and a made-up feature: for every concept that the caption names one prototype is
drawn (a row of the ImageNet classifier, or the feature of a photograph that shows the concept), and they are mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .concepts import Concept
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
    """

    mixing: float = 2.0
    background_low: float = 0.3
    background_high: float = 1.0
    shrinkage: float = 1.0
    photo_share: float = 0.5
    frequency_power: float = 0.4
    candidates: int = 6


class PairSampler:
    """Draws pairs; features are pooled cells of the trunk, in its own (uncentred) space.

    Args:
        mentions (`list[list[int]]`): concepts that each caption names.
        groups (`list[tuple]`): a key per caption; captions of the same image share it.
        concepts (`list[Concept]`): what the numbers mean.
        photographs (`list[Photographs]`): encoded, with labels over the first concepts.
        classifier (`torch.Tensor` of shape `(1000, channels)`): ImageNet rows.
        options ([`PairOptions`], *optional*): how pairs are drawn.
        seed (`int`, *optional*, defaults to 0): seed of all draws.
    """

    def __init__(
        self,
        mentions: list[list[int]],
        groups: list[tuple],
        concepts: list[Concept],
        photographs: list[Photographs],
        classifier: torch.Tensor,
        options: PairOptions | None = None,
        seed: int = 0,
    ) -> None:
        self.options = options or PairOptions()
        self.generator = np.random.default_rng(seed)
        self.num_concepts = len(concepts)
        pooled = [part.cells.float().mean(dim=2) for part in photographs]  # (photographs, views, channels) each
        self.mean = torch.cat([part[:, 0] for part in pooled]).mean(dim=0)  # (channels,)
        self.views = torch.cat([part.flatten(0, 1) for part in pooled]) - self.mean  # (all views, channels)
        self.norm = self.views.norm(dim=1).mean()
        self._index_photographs(photographs)
        means = class_means(classifier, self.views, self.options.shrinkage)  # (1000, channels)
        self.bank = torch.cat([means, unit(self.views)])  # (1000 + all views, channels)
        self.rows = Choices([sorted(concept.rows) for concept in concepts])
        shown = [self.shows.get(number, []) for number in range(self.num_concepts)]
        self.shots = Choices([[1000 + view for photo in photos for view in self.views_of[photo]] for photos in shown])
        self._index_captions(mentions, groups)

    def _index_photographs(self, photographs: list[Photographs]) -> None:
        self.labels_of: list[list[int]] = []
        self.key_of: list[tuple] = []
        self.views_of: list[range] = []
        self.shows: dict[int, list[int]] = {}
        views = 0
        for content in photographs:
            for row, caption_id in enumerate(content.caption_ids):
                labels = content.labels[row].nonzero().flatten().tolist()
                for label in labels:
                    self.shows.setdefault(label, []).append(len(self.labels_of))
                self.labels_of.append(labels)
                self.key_of.append(("coco", caption_id))
                self.views_of.append(range(views, views + content.cells.shape[1]))
                views += content.cells.shape[1]
        self.photos = [photo for photo, labels in enumerate(self.labels_of) if labels]
        self.classes = sorted(self.shows)

    def _index_captions(self, mentions: list[list[int]], groups: list[tuple]) -> None:
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

    def real(self, size: int) -> tuple[list[int], torch.Tensor, torch.Tensor]:
        """Draws photographs, half of them by class so that rare ones come too, with a caption each.

        Args:
            size (`int`): pairs.

        Returns:
            `tuple[list[int], torch.Tensor, torch.Tensor]`: as [`PairSampler.composed`].
        """
        captions, features, named = [], [], []
        for _ in range(size):
            by_class = self.generator.random() < 0.5
            photo = self._draw(self.shows[self._draw(self.classes)] if by_class else self.photos)
            captions.append(self._caption_for(photo))
            features.append(self.views[self._draw(self.views_of[photo])] + self.mean)  # (channels,)
            named.append(self.labels_of[photo])
        return captions, torch.stack(features), self.shown(named)

    def paraphrases(self, size: int) -> tuple[list[int], list[int]]:
        """Draws `size` images with several captions, two captions each."""
        pairs = [self.generator.choice(self._draw(self.repeated), 2, replace=False) for _ in range(size)]
        return [int(first) for first, _ in pairs], [int(second) for _, second in pairs]


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
