"""The paper's data in the official layouts, small: two or three classes are shown and named, all files are there."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from modeling_taidpt import load_class_table

SHADES = {"dog": (200, 40, 40), "cat": (40, 200, 40), "person": (40, 40, 200)}
SHOWN = (("dog",), ("cat",), ("person",), ("dog", "person"), ("cat", "person"), ())  # by image, over again


def write_paper_data(root: Path, images: int = 12) -> Path:
    """Writes `VOCdevkit/VOC2007`, `COCO`, `NUSWIDE` and `OpenImages`, as the recipes want them below `--data-root`."""
    shown = [SHOWN[number % len(SHOWN)] for number in range(images)]
    write_voc2007(root / "VOCdevkit" / "VOC2007", shown)
    write_coco2014(root / "COCO", shown)
    write_nuswide(root / "NUSWIDE", shown)
    write_narratives(root / "OpenImages" / "captions" / "open_images_train_v6_captions.jsonl")
    return root


def write_picture(path: Path, classes: tuple[str, ...], number: int) -> None:
    """A stripe of colour for each class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (48, 40), (10 * (number % 20), 90, 90))
    for place, name in enumerate(classes):
        picture.paste(SHADES[name], (0, 20 * place, 48, 20 * place + 12))
    picture.save(path)


def write_voc2007(folder: Path, shown: list[tuple[str, ...]]) -> None:
    sets = folder / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    for split, start in (("trainval", 1), ("test", 5001)):
        ids = [f"{start + number:06d}" for number in range(len(shown))]
        (sets / f"{split}.txt").write_text("\n".join(ids) + "\n")
        for name in (entry["name"] for entry in load_class_table("voc20")):
            lines = [f"{image} {1 if name in classes else -1:2d}" for image, classes in zip(ids, shown, strict=True)]
            (sets / f"{name}_{split}.txt").write_text("\n".join(lines) + "\n")
        for number, (image, classes) in enumerate(zip(ids, shown, strict=True)):
            write_picture(folder / "JPEGImages" / f"{image}.jpg", classes, number)


def write_coco2014(folder: Path, shown: list[tuple[str, ...]]) -> None:
    """Half of the captions of `captions_train2017.json` are those of images of val2014."""
    (folder / "annotations").mkdir(parents=True)
    table = [entry["name"] for entry in load_class_table("coco80")]
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(table)]  # official ids have gaps
    captions = []
    for split, start in (("train2014", 100), ("val2014", 500)):
        images, boxes = [], []
        for number, classes in enumerate(shown):
            image = {"id": start + number, "file_name": f"COCO_{split}_{start + number:012d}.jpg"}
            write_picture(folder / split / image["file_name"], classes, number)
            images.append(image)
            for name in classes:
                boxes.append({"id": len(boxes), "image_id": image["id"], "category_id": table.index(name) + 1})
            for say in ("There is", "I see"):
                text = f"{say} {' and '.join(f'a {name}' for name in classes) or 'nothing'} in picture {number}."
                captions.append({"id": len(captions), "image_id": image["id"], "caption": text})
        content = {"images": images, "categories": categories, "annotations": boxes}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    (folder / "annotations" / "captions_train2017.json").write_text(json.dumps({"annotations": captions}))


def write_nuswide(folder: Path, shown: list[tuple[str, ...]]) -> None:
    for name in ("ImageList", "TrainTestLabels"):
        (folder / name).mkdir(parents=True)
    concepts = [entry["name"] for entry in load_class_table("nuswide81")]
    (folder / "Concepts81.txt").write_text("\n".join(concepts) + "\n")
    for split in ("Train", "Test"):
        files = [f"actor\\{split}_{number:04d}.jpg" for number in range(len(shown))]
        (folder / "ImageList" / f"{split}Imagelist.txt").write_text("\n".join(files) + "\n")
        for name in concepts:
            lines = [str(int(name in classes)) for classes in shown]
            (folder / "TrainTestLabels" / f"Labels_{name}_{split}.txt").write_text("\n".join(lines) + "\n")
        for number, classes in enumerate(shown):
            write_picture(folder / "Flickr" / files[number].replace("\\", "/"), classes, number)


def write_narratives(path: Path, count: int = 24) -> None:
    path.parent.mkdir(parents=True)
    names = ("dog", "cat", "person")
    rows = [
        {"image_id": f"{number:016x}", "caption": f"In this image we can see a {names[number % 3]} {number}."}
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


__all__ = ["write_paper_data"]
