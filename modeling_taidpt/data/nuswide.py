"""NUS-WIDE with its 81 concepts, from the official list files.

Source: Chua et al., "NUS-WIDE" (CIVR 2009); published TaI-DPT code, `datasets/nuswide_distill.py`.
"""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

from datasets import Dataset

from .dataset import build_image_dataset, read_lines, require_file

_WHERE = (
    "it is part of Groundtruth.zip, ConceptsList.zip or ImageList.zip, available at "
    "https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html"
)


def load_nuswide(
    folder: str | Path, split: str = "test", image_folder: str | Path | None = None, skip_missing: bool = False
) -> Dataset:
    """Reads NUS-WIDE.

    Args:
        folder (`str` or `Path`): holds `Concepts81.txt`, `ImageList/` and `TrainTestLabels/`, or these in the folders
            of the official archives (`ConceptsList/`, `Groundtruth/`).
        split (`str`, *optional*, defaults to `"test"`): `"train"` or `"test"`.
        image_folder (`str` or `Path`, *optional*): the images; `Flickr/` in the folder by default.
        skip_missing (`bool`, *optional*, defaults to `False`): leaves out images that are not on disk, as those that
            Flickr no longer has.

    Returns:
        `Dataset`: `image`, `labels` (81 concepts), `image_id` (the path in the list, as
        `"actor/0001_2124494179.jpg"`), in the order of the list.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the split is another one, or a label file is of another length or holds another value than 0, 1.
    """
    if split.lower() not in ("train", "test"):
        raise ValueError(f"`split` is {split!r}: NUS-WIDE has 'train' and 'test'.")
    folder, split = Path(folder), split.capitalize()
    names = read_lines(_find(folder, "The NUS-WIDE concept list", "Concepts81.txt", "ConceptsList/Concepts81.txt"))
    listed = read_lines(_find(folder, "The NUS-WIDE image list", f"ImageList/{split}Imagelist.txt"))
    image_ids = [PureWindowsPath(line).as_posix() for line in listed]
    labels: list[list[int]] = [[] for _ in image_ids]
    for column, name in enumerate(names):
        file = f"TrainTestLabels/Labels_{name}_{split}.txt"
        path = _find(folder, "The NUS-WIDE label file", file, f"Groundtruth/{file}")
        values = read_lines(path)
        if len(values) != len(image_ids):
            raise ValueError(
                f"The file {str(path)!r} has {len(values)} labels for {len(image_ids)} images: it is of another "
                "length than its list."
            )
        for row, value in enumerate(values):
            if value not in ("0", "1"):
                raise ValueError(f"Line {row + 1} of {str(path)!r} is {value[:40]!r}: expected 0 or 1.")
            if value == "1":
                labels[row].append(column)
    images = Path(image_folder) if image_folder else folder / "Flickr"
    files = [images / image_id for image_id in image_ids]
    return build_image_dataset(files, labels, image_ids, names, f"NUS-WIDE {split.lower()}", skip_missing)


def _find(folder: Path, what: str, *places: str) -> Path:
    """The first of the places that is a file."""
    found = [folder / place for place in places if (folder / place).is_file()]
    return found[0] if found else require_file(folder / places[0], what, _WHERE)


__all__ = ["load_nuswide"]
