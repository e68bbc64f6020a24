"""The images of a batch, read by several threads, as data sets of PyTorch.

Pillow and NumPy let other threads run while they decode and resize. On a processor that also runs the model, threads
between two batches cost less than worker processes beside the model: its threads share each layer evenly and wait for
the one whose core a worker has taken, so that 1 ms of decoding there costs all of them 1 ms.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from transformers.image_processing_utils import BaseImageProcessor

from .image_reading import ImageEntry, refused_bombs

MOST_THREADS = 8  # beyond, they wait for Python's lock


def read_batch(read: Callable[[Any], Any], items: Sequence[Any], sources: Sequence[Any], processor: Any) -> list[Any]:
    """Reads images, by as many threads as PyTorch computes with (one in a worker process), at most 8.

    Args:
        read (`Callable`): reads one item and makes it ready.
        items (`Sequence`): what it gets.
        sources (`Sequence`): what each item is decoded from.
        processor (`BaseImageProcessor`): the image processor that `read` calls; those of transformers keep nothing
            between calls, others are called by one thread.

    Returns:
        `list`: what `read` returned, in the order of the items.
    """
    threads = min(torch.get_num_threads(), len(items), MOST_THREADS)
    if threads < 2 or not isinstance(processor, BaseImageProcessor) or _share_an_object(sources):
        return [read(item) for item in items]
    with refused_bombs(), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(read, items))


def _share_an_object(sources: Sequence[Any]) -> bool:
    """Whether two sources are one object that decoding changes: an open image or file."""
    objects = [id(source) for source in sources if isinstance(source, (Image.Image, BytesIO))]
    return len(set(objects)) < len(objects)


class ImageBatches(Dataset):
    """Images of known number, made ready for the model.

    Args:
        images (`Sequence[ImageEntry]`): the images.
        read (`Callable`): makes one of them ready.
        processor (`BaseImageProcessor`): the image processor that `read` calls.
    """

    def __init__(self, images: Any, read: Callable[[ImageEntry], Any], processor: Any) -> None:
        self.images, self.read, self.processor = images, read, processor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.read(self.images[index])

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """A batch at once; `DataLoader` calls this where it is there."""
        images = [self.images[index] for index in indices]
        return read_batch(self.read, images, [image.source for image in images], self.processor)


class ImageStream(IterableDataset):
    """Images of unknown number, made ready for the model, a batch at a time.

    Args:
        images (`Iterable[ImageEntry]`): the images.
        read (`Callable`): makes one of them ready.
        processor (`BaseImageProcessor`): the image processor that `read` calls.
        batch_size (`int`): images that are taken from the stream at a time.
    """

    def __init__(
        self, images: Iterable[ImageEntry], read: Callable[[ImageEntry], Any], processor: Any, batch_size: int
    ) -> None:
        self.images, self.read, self.processor, self.batch_size = images, read, processor, batch_size

    def __iter__(self) -> Iterator[Any]:
        stream = iter(self.images)
        while images := list(itertools.islice(stream, self.batch_size)):
            yield from read_batch(self.read, images, [image.source for image in images], self.processor)


def collate(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The features of several images: a list of each."""
    return {name: [entry[name] for entry in entries] for name in entries[0]}


__all__ = ["ImageBatches", "ImageStream", "collate", "read_batch"]
