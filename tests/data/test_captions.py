"""Caption corpora: which captions stay, and what is said about captions of test images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, List
from PIL import Image

from modeling_taidpt import (
    CaptionLabeler,
    load_caption_file,
    load_captions,
    load_coco,
    load_coco_captions,
    load_localized_narratives,
)
from modeling_taidpt.captions.statistics import select_by_rarest_class
from modeling_taidpt.data.captions import count_overlap
from modeling_taidpt.data.loaders import is_repository


def write_coco(root: Path) -> None:
    """Captions of images 1 to 3 in train, 4 and 5 in val; images 4 and 6 are the evaluation set."""
    (root / "annotations").mkdir()
    (root / "val2014").mkdir()
    number = 0
    for split, images in (("train", (1, 2, 3)), ("val", (4, 5))):
        rows = []
        for image in images:
            for text in ("a dog", "a cat", "a bus"):
                number += 1
                rows.append({"id": number, "image_id": image, "caption": f"{text} in image {image}"})
        path = root / "annotations" / f"captions_{split}2014.json"
        path.write_text(json.dumps({"images": [], "annotations": rows}))
    content = {"images": [{"id": image, "file_name": f"{image}.jpg"} for image in (4, 6)], "annotations": []}
    content["categories"] = [{"id": 1, "name": "dog"}]
    (root / "annotations" / "instances_val2014.json").write_text(json.dumps(content))
    for image in (4, 6):
        Image.new("RGB", (4, 4)).save(root / "val2014" / f"{image}.jpg")


def test_coco_captions(tmp_path):
    write_coco(tmp_path)
    train, val = (tmp_path / "annotations" / f"captions_{split}2014.json" for split in ("train", "val"))
    everything = load_captions([train, val], "coco")
    assert len(everything) == 15
    assert everything[3] == {"caption": "a dog in image 2", "image_id": 2, "caption_id": 4}
    one = load_coco_captions([train, val], captions_per_image=1, seed=3)
    assert one["image_id"][:] == [1, 2, 3, 4, 5]
    assert set(one["caption"]) <= set(everything["caption"])
    assert load_coco_captions([train, val], 1, seed=3)["caption"][:] == one["caption"][:]
    drawn = {tuple(load_coco_captions(train, 1, seed=seed)["caption"]) for seed in range(8)}
    assert len(drawn) > 1
    swapped = load_coco_captions([val, train], 1, seed=3)
    assert sorted(swapped["caption"]) == sorted(one["caption"])  # the order of the files does not matter
    assert len(load_coco_captions(train, captions_per_image=2)) == 6


def test_captions_of_test_images_are_counted_or_left_out(tmp_path, caplog):
    write_coco(tmp_path)
    files = [tmp_path / "annotations" / f"captions_{split}2014.json" for split in ("train", "val")]
    images = load_coco(tmp_path)
    captions = load_coco_captions(files, evaluation_set=images)
    assert "The captions describe 1 of the 2 test images: pass their ids as `exclude_image_ids`" in caplog.text
    assert count_overlap(captions.filter(lambda image: image != 4, input_columns="image_id"), images) == 0
    caplog.clear()
    clean = load_coco_captions(files, exclude_image_ids=images, evaluation_set=images)
    assert not caplog.text
    assert sorted(set(clean["image_id"])) == [1, 2, 3, 5]
    assert sorted(set(load_coco_captions(files, exclude_image_ids=[1, 2])["image_id"])) == [3, 4, 5]
    # Ids of other corpora are other numbers.
    assert count_overlap(Dataset.from_dict({"caption": ["a dog"], "image_id": [4]}), images) == 0
    assert count_overlap(captions, images.remove_columns("image_id")) == 0
    with pytest.raises(ValueError, match="No COCO caption is left"):
        load_coco_captions(files, exclude_image_ids=range(9))
    with pytest.raises(ValueError, match="images to exclude have no column 'image_id'"):
        load_coco_captions(files, exclude_image_ids=Dataset.from_dict({"id": [1]}))


def test_coco_captions_say_what_is_wrong(tmp_path):
    write_coco(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"captions_train2017\.json' does not exist: .*cocodataset\.org"):
        load_coco_captions(tmp_path / "captions_train2017.json")
    file = tmp_path / "file.json"
    file.write_text(json.dumps({"annotations": [{"id": 1, "image_id": 1, "category_id": 1}]}))
    with pytest.raises(ValueError, match="are not captions: give a captions_"):
        load_coco_captions(file)
    with pytest.raises(ValueError, match="`captions_per_image` is 0"):
        load_coco_captions(tmp_path / "annotations" / "captions_val2014.json", captions_per_image=0)


def test_plain_files(tmp_path):
    (tmp_path / "captions.txt").write_text("a dog\na cat\n")
    assert load_captions(tmp_path / "captions.txt")["caption"][:] == ["a dog", "a cat"]
    (tmp_path / "captions.csv").write_text("caption,image\na dog,1\na cat,2\n")
    rows = load_caption_file(
        tmp_path / "captions.csv", id_column="image", exclude_image_ids=[1]
    )  # text against number
    assert rows[:] == {"caption": ["a cat"], "image_id": ["2"]}
    with pytest.raises(ValueError, match="`exclude_image_ids` needs `id_column`"):
        load_caption_file(tmp_path / "captions.txt", exclude_image_ids=[1])
    with pytest.raises(ValueError, match="No caption is left in file"):
        load_caption_file(tmp_path / "captions.csv", id_column="image", exclude_image_ids=["1", "2"])
    with pytest.raises(FileNotFoundError, match=r"caption file .*absent\.csv' does not exist"):
        load_captions(tmp_path / "absent.csv")


def write_narratives(path: Path, captions: list[str]) -> Path:
    rows = [
        {"dataset_id": "open", "image_id": f"{number:016x}", "caption": text} for number, text in enumerate(captions)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_localized_narratives(tmp_path, caplog):
    labeler = CaptionLabeler(["dog", "cat", "bus", "zebra"])
    captions = [
        "a dog and a cat",  # 0: belongs to cat, the rarer
        "a dog",  # 1
        "a tree",  # 2: no class
        "a dog and a bus",  # 3: belongs to bus
        "two dogs",  # 4
        "a dog again",  # 5: dog has two already
        "word " * 76 + "cat, and then a bus",  # 6: the 77th word counts, the bus comes too late
        "word, " * 38 + "word cat",  # 7: punctuation counts: the cat is the 78th
        "a cat",  # 8
    ]
    file = write_narratives(tmp_path / "narratives.jsonl", captions)
    corpus = load_localized_narratives(file, labeler, max_captions_per_class=2)
    kept = [int(image, 16) for image in corpus["image_id"]]
    assert kept == [0, 1, 3, 4, 6]  # cat: 0, 6 (not 8); dog: 1, 4 (not 5); bus: 3
    assert corpus["caption"][4] == captions[6]  # whole
    assert corpus.features["labels"] == List(ClassLabel(names=["dog", "cat", "bus", "zebra"]))
    assert corpus["labels"][:] == [[0, 1], [0], [0, 2], [0], [1]]  # all labels, not the rarest alone
    assert "No narrative names 1 of the 4 classes: zebra." in caplog.text
    assert len(load_captions(file, "localized_narratives", labeler=labeler, max_captions_per_class=None)) == 7
    assert len(load_localized_narratives(file, labeler, max_words=None, max_captions_per_class=None)) == 8
    excluded = load_localized_narratives(file, labeler, exclude_image_ids=[f"{0:016x}"])
    assert f"{0:016x}" not in excluded["image_id"][:]


def test_localized_narratives_of_the_81_concepts(tmp_path):
    corpus = load_localized_narratives(write_narratives(tmp_path / "n.jsonl", ["The sky over a harbor."]))
    assert corpus.features["labels"].feature.int2str(corpus[0]["labels"]) == ["harbor", "sky"]


def test_localized_narratives_say_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"narratives .*absent\.jsonl' does not exist: it is available"):
        load_localized_narratives(tmp_path / "absent.jsonl")
    with pytest.raises(ValueError, match="No narrative names one of the 81 classes"):
        load_localized_narratives(write_narratives(tmp_path / "n.jsonl", ["nothing at all"]))
    (tmp_path / "n.jsonl").write_text('{"caption": "a dog"}')
    with pytest.raises(ValueError, match=r"Row 0 of .*n\.jsonl' is not a narrative: it needs 'image_id'"):
        load_localized_narratives(tmp_path / "n.jsonl")
    (tmp_path / "n.jsonl").write_text("{")
    with pytest.raises(
        ValueError, match=r"file of localized narratives .*n\.jsonl' cannot be read: line 1 is not JSON"
    ):
        load_localized_narratives(tmp_path / "n.jsonl")


def test_rarest_class_breaks_ties_by_order():
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 1, 1]], dtype=bool)
    # Classes have 2, 3 and 2 captions: row 0 belongs to class 0, rows 2 and 3 to class 2.
    assert select_by_rarest_class(labels, 1).tolist() == [0, 2]
    assert select_by_rarest_class(labels, None).tolist() == [0, 1, 2, 3]


def test_captions_of_a_repository(tmp_path, monkeypatch):
    folder = tmp_path / "captions" / "data"
    Dataset.from_dict({"caption": ["a dog"], "id": [3]}).to_parquet(str(folder / "train-0.parquet"))
    assert load_captions(str(tmp_path / "captions"), "hub")["caption"][:] == ["a dog"]
    Dataset.from_dict({"caption": ["a cat"], "id": [4]}).to_parquet(str(folder / "test-0.parquet"))
    assert load_captions(str(tmp_path / "captions"), "hub", split="test")["caption"][:] == ["a cat"]
    with pytest.raises(ValueError, match="has the splits 'train', 'test': name one, as split=train"):
        load_captions(str(tmp_path / "captions"), "hub")
    with pytest.raises(ValueError, match=r"no column 'text' in the data set .*, it has 'caption', 'id'"):
        load_captions(str(tmp_path / "captions"), "hub", split="test", caption_column="text")
    monkeypatch.chdir(tmp_path)
    for name, expected in (("user/captions", True), ("captions.txt", False), ("./a", False), ("captions", False)):
        assert is_repository(name) is expected
