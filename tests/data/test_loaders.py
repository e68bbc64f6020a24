"""Loaders of labelled images, each on a small tree in the official layout that the test writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, concatenate_datasets
from datasets import Image as ImageFeature
from PIL import Image

from modeling_taidpt import (
    align_classes,
    average_precision,
    image_label_matrix,
    load_class_table,
    load_coco,
    load_image_dataset,
    load_image_folder,
    load_images,
    load_nuswide,
    load_voc,
    partial_label_matrix,
)

VOC = [entry["name"] for entry in load_class_table("voc20")]


def write_image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (shade, 0, 0)).save(path)


def write_voc(root: Path) -> Path:
    """Three test images: a person with a difficult dog, a dog, nothing; one more in `train`."""
    folder, ids = root / "VOC2007", ["000001", "000002", "000004"]
    sets = folder / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    values = {"person": [1, -1, -1], "dog": [0, 1, -1]}
    for split, names in (("test", ids), ("train", ["000003"])):
        (sets / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in VOC:
            column = values.get(name, [-1] * 3) if split == "test" else [-1]
            lines = [f"{image} {value:2d}" for image, value in zip(names, column, strict=True)]
            (sets / f"{name}_{split}.txt").write_text("\n".join(lines) + "\n")
    for shade, image in enumerate(ids):
        write_image(folder / "JPEGImages" / f"{image}.jpg", 100 * shade)
    return folder


def names_of(dataset: Dataset, column: str = "labels") -> list[list[str]]:
    classes = dataset.features[column].feature
    return [classes.int2str(row) for row in dataset[column]]


def test_voc(tmp_path):
    folder = write_voc(tmp_path)
    dataset = load_voc(folder)
    assert dataset.features["labels"] == List(ClassLabel(names=VOC))
    assert dataset["image_id"][:] == ["000001", "000002", "000004"]
    assert names_of(dataset) == [["person"], ["dog"], []]  # difficult counts as absent
    assert "unknown" not in dataset.column_names
    assert dataset[1]["image"].size == (6, 4)
    assert dataset[1]["image"].getpixel((0, 0))[0] == pytest.approx(100, abs=8)  # the right picture, a JPEG

    dataset = load_images(folder, difficult="unknown")
    assert names_of(dataset, "unknown") == [["dog"], [], []]
    truth, unknown = image_label_matrix(dataset), image_label_matrix(dataset, column="unknown")
    scores = np.zeros((3, 20))
    scores[:, VOC.index("dog")] = [3.0, 2.0, 1.0]
    assert average_precision(scores, truth)[VOC.index("dog")] == pytest.approx(0.5)
    assert average_precision(np.where(unknown == 1, -np.inf, scores), truth)[VOC.index("dog")] == pytest.approx(1.0)


def test_voc_says_what_is_missing_or_wrong(tmp_path):
    folder = write_voc(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"VOC list .*trainval\.txt' does not exist: it is part of .*http"):
        load_voc(folder, "trainval")
    with pytest.raises(ValueError, match="`difficult` is 'yes': choose one of negative, unknown"):
        load_voc(folder, difficult="yes")
    with pytest.raises(
        FileNotFoundError, match=r"000003\.jpg' of VOC2007 train is not on disk \(1 of 1 are missing\)"
    ):
        load_voc(folder, "train", skip_missing=True)  # none would be left
    (folder / "JPEGImages" / "000002.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"000002\.jpg' of VOC2007 test .*\(1 of 3 are missing\)"):
        load_voc(folder)
    assert load_voc(folder, skip_missing=True)["image_id"][:] == ["000001", "000004"]
    labels = folder / "ImageSets" / "Main" / "cat_test.txt"
    labels.write_text("000001 -1\n000002 -1\n")
    with pytest.raises(ValueError, match=r"cat_test\.txt' labels 2 of the 3 images of its split"):
        load_voc(folder)
    labels.write_text("000001 2\n")
    with pytest.raises(ValueError, match=r"Line 1 of .*cat_test\.txt' is '000001 2': expected"):
        load_voc(folder)
    labels.unlink()
    with pytest.raises(FileNotFoundError, match=r"VOC label file .*cat_test\.txt' does not exist"):
        load_voc(folder)
    (folder / "ImageSets" / "Main" / "test.txt").write_text("")
    labels.write_text("")
    for name in VOC:
        (folder / "ImageSets" / "Main" / f"{name}_test.txt").write_text("")
    with pytest.raises(ValueError, match="no image in VOC2007 test: the split is empty"):
        load_voc(folder)


def write_coco(folder: Path) -> dict:
    """Three images: a dog and a crowd of persons, a person twice, nothing. Category ids have gaps, as COCO's."""
    content = {
        "images": [{"id": number, "file_name": f"COCO_val2014_{number:012d}.jpg"} for number in (42, 7, 99)],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 42, "category_id": 18, "iscrowd": 0},
            {"id": 2, "image_id": 42, "category_id": 1, "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 1, "iscrowd": 0},
            {"id": 4, "image_id": 7, "category_id": 1, "iscrowd": 0},
        ],
    }
    for image in content["images"]:
        write_image(folder / "val2014" / image["file_name"])
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / "instances_val2014.json").write_text(json.dumps(content))
    return content


def test_coco(tmp_path):
    content = write_coco(tmp_path)
    dataset = load_coco(tmp_path)
    assert dataset.features["labels"] == List(ClassLabel(names=["person", "dog"]))
    assert dataset["image_id"][:] == [42, 7, 99]
    assert image_label_matrix(dataset).tolist() == [[1, 1], [1, 0], [0, 0]]
    assert image_label_matrix(load_images(tmp_path, count_crowds=False)).tolist() == [[0, 1], [1, 0], [0, 0]]
    assert image_label_matrix(dataset, ["dog", "person"]).tolist() == [[1, 1], [0, 1], [0, 0]]
    with pytest.raises(ValueError, match="no class 'cat' in the data set"):
        image_label_matrix(dataset, ["cat"])

    with pytest.raises(FileNotFoundError, match=r"instances_train2014\.json' does not exist: .*cocodataset\.org"):
        load_coco(tmp_path, "train2014")
    file = tmp_path / "other.json"
    content["annotations"][0]["category_id"] = 90
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"Annotation 1 in .*other\.json' is of category 90 on image 42"):
        load_coco(tmp_path, annotation_file=file)
    file.write_text('{"images": []}')
    with pytest.raises(ValueError, match=r"other\.json' has no list 'annotations'"):
        load_coco(tmp_path, annotation_file=file)
    file.write_text("{")
    with pytest.raises(ValueError, match=r"other\.json' cannot be read as JSON"):
        load_coco(tmp_path, annotation_file=file)
    file.write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(ValueError, match="no image in COCO val2014: the split is empty"):
        load_coco(tmp_path, annotation_file=file)


IMAGES = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]


@pytest.mark.parametrize(
    ("part", "entries", "message"),
    [
        ("images", [*IMAGES, IMAGES[0]], "Entry 2 of 'images' .* has the id 1, as entry 0"),
        ("images", [IMAGES[0], {"id": 2}], r"Entry 1 of 'images' .*\(id 2\) has no 'file_name'"),
        ("images", [{"id": 1, "file_name": None}], "has no 'file_name'"),
        ("images", [{"file_name": "a.jpg"}], "Entry 0 of 'images' .* has no 'id'"),
        ("images", [{"id": True, "file_name": "a.jpg"}], "has no 'id'"),
        ("images", ["a.jpg"], "Entry 0 of 'images' .* has no 'id'"),
        ("images", [IMAGES[0], {"id": "2", "file_name": "b.jpg"}], "has the id '2', but entry 0 1: give ids of one"),
        ("categories", [{"id": 7}], r"Entry 0 of 'categories' .*\(id 7\) has no 'name'"),
        ("categories", [{"name": "cat"}], "Entry 0 of 'categories' .* has no 'id'"),
        ("categories", [*CATEGORIES, CATEGORIES[0]], "has the id 7, as entry 0"),
        ("categories", [CATEGORIES[0], {"id": 8, "name": "cat"}], "Two categories in .* are called 'cat'"),
        ("categories", [CATEGORIES[0], {"id": "9", "name": "dog"}], "has the id '9', but entry 0 7"),
        ("categories", None, "has no list 'categories'"),
        ("annotations", [{"id": 3, "category_id": 7}], "Annotation 0 in .* has no 'image_id'"),
        ("annotations", [{"id": 3, "image_id": 1}], "Annotation 0 in .* has no 'category_id'"),
        ("annotations", [{"id": 3, "image_id": "1", "category_id": 7}], "category 7 on image '1', one of which"),
        ("annotations", [None], "Annotation 0 in .* has no 'image_id'"),
    ],
)
def test_entries_of_coco_files_are_named(tmp_path, part, entries, message):
    for image in IMAGES:
        write_image(tmp_path / "val2014" / image["file_name"])
    content = {"images": IMAGES, "categories": CATEGORIES, "annotations": [{"id": 1, "image_id": 2, "category_id": 7}]}
    file = tmp_path / "file.json"
    file.write_text(json.dumps(content), encoding="utf-8-sig")  # with a byte order mark
    assert load_coco(tmp_path, annotation_file=file)["labels"][:] == [[], [0]]
    file.write_text(json.dumps({**content, part: entries}))
    with pytest.raises(ValueError, match=message) as error:
        load_coco(tmp_path, annotation_file=file)
    assert "file.json" in str(error.value)


def test_labels_of_published_tables_match_under_their_synonyms():
    """COCO's own names and the published code's differ: "airplane" and "aeroplane", "motorcycle" and "motor bike"."""
    published = [entry["name"] for entry in load_class_table("coco80")]
    own = [{"aeroplane": "airplane", "motor bike": "motorcycle"}.get(name, name) for name in published]
    features = Features({"labels": List(ClassLabel(names=own))})
    dataset = Dataset.from_dict({"labels": [[own.index("airplane")], [0]]}, features=features)
    matrix = image_label_matrix(dataset, published[::-1])
    assert [published[::-1][column] for column in matrix.argmax(axis=1)] == ["aeroplane", "person"]
    assert matrix.sum() == 2


def write_nuswide(folder: Path, inner: str = "") -> Path:
    (folder / "ImageList").mkdir(parents=True)
    (folder / inner / "TrainTestLabels").mkdir(parents=True)
    (folder / "Concepts81.txt").write_text("airport\nanimal\n")
    (folder / "ImageList" / "TestImagelist.txt").write_text("actor\\0001_21.jpg\r\nzoo\\0002_34.jpg\r\n")
    for name, values in (("airport", "0 \n1 \n"), ("animal", "1\n1\n")):
        (folder / inner / "TrainTestLabels" / f"Labels_{name}_Test.txt").write_text(values)
    for image in ("actor/0001_21.jpg", "zoo/0002_34.jpg"):
        write_image(folder / "Flickr" / image)
    return folder


@pytest.mark.parametrize("inner", ["", "Groundtruth"])
def test_nuswide(tmp_path, inner):
    folder = write_nuswide(tmp_path / "NUSWIDE", inner)
    dataset = load_images(folder, split="test")
    assert dataset["image_id"][:] == ["actor/0001_21.jpg", "zoo/0002_34.jpg"]
    assert names_of(dataset) == [["animal"], ["airport", "animal"]]
    assert dataset[0]["image"].size == (6, 4)
    with pytest.raises(FileNotFoundError, match=r"NUS-WIDE image list .*TrainImagelist\.txt' does not exist: .*https"):
        load_nuswide(folder, "train")
    with pytest.raises(ValueError, match="`split` is 'val'"):
        load_nuswide(folder, "val")
    labels = folder / inner / "TrainTestLabels" / "Labels_animal_Test.txt"
    labels.write_text("1\n0\n1\n")
    with pytest.raises(ValueError, match=r"Labels_animal_Test\.txt' has 3 labels for 2 images"):
        load_nuswide(folder)
    labels.write_text("1\nyes\n")
    with pytest.raises(ValueError, match=r"Line 2 of .*Labels_animal_Test\.txt' is 'yes': expected 0 or 1"):
        load_nuswide(folder)


ROWS = [{"file_name": "a.jpg", "labels": ["dog", "cat"], "split": "train"}, {"file_name": "b.jpg", "labels": []}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.json", json.dumps(ROWS)),
        ("labels.json", json.dumps({"categories": ["cat", "dog"], "images": ROWS})),
        (
            "labels.json",
            json.dumps(
                {
                    "categories": ["cat", "dog"],
                    "images": [{"file_name": "a.jpg", "labels": [1, 0], "split": "train"}, ROWS[1]],
                }
            ),
        ),
        ("metadata.jsonl", "\n".join(map(json.dumps, ROWS))),
        ("metadata.jsonl", "\n".join(map(json.dumps, ROWS)).replace("labels", "label")),
        ("labels.csv", "file_name,labels,split\na.jpg,dog; cat,train\nb.jpg,,\n"),
        ("metadata.csv", "file_name,label,split\na.jpg,dog; cat,train\nb.jpg,,\n"),
        ("metadata.csv", "file_name,split,cat,dog\na.jpg,train,1,1\nb.jpg,,0,0\n"),
    ],
)
@pytest.mark.parametrize("images", ["", "images"])
def test_image_folder(tmp_path, name, text, images):
    (tmp_path / name).write_text(text)
    for image in ("a.jpg", "b.jpg"):
        write_image(tmp_path / images / image)
    dataset = load_images(tmp_path)
    assert dataset.features["labels"] == List(ClassLabel(names=["cat", "dog"]))
    assert dataset["labels"][:] == [[0, 1], []]
    assert dataset["image_id"][:] == ["a.jpg", "b.jpg"]
    assert dataset[1]["image"].size == (6, 4)
    assert len(load_image_folder(tmp_path, split="train")) == 1


def test_image_folder_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"is none of VOC .* and holds no label file: write one of labels\.json"):
        load_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no label file"):
        load_image_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"The label file .*absent\.csv' does not exist"):
        load_image_folder(tmp_path, tmp_path / "absent.csv")
    with pytest.raises(FileNotFoundError, match=r"folder of images .*absent' does not exist"):
        load_images(tmp_path / "absent")
    write_image(tmp_path / "a.jpg")

    def load(rows, name="labels.json", **options):
        (tmp_path / name).write_text(rows if isinstance(rows, str) else json.dumps(rows))
        return load_image_folder(tmp_path, tmp_path / name, **options)

    assert load([ROWS[0]], class_names=["x", "dog", "cat"])["labels"][:] == [[1, 2]]
    with pytest.raises(ValueError, match=r"The label 'dog' in row 0 of .*labels\.json' is none of the 1 classes"):
        load([ROWS[0]], class_names=["cat"])
    with pytest.raises(ValueError, match=r"The label 2 in row 0 of .* is none of the 2 classes"):
        load({"categories": ["cat", "dog"], "images": [{"file_name": "a.jpg", "labels": [2]}]})
    with pytest.raises(ValueError, match=r"Row 0 of .* has no list 'labels'"):
        load([{"file_name": "a.jpg"}])
    for categories, reason in (([{"id": 0}], "Label 0 is {'id': 0}"), (["cat", "cat"], "The label 'cat' is duplic")):
        with pytest.raises(ValueError, match=rf"In the 'categories' of .*labels\.json': {reason}"):
            load({"categories": categories, "images": [ROWS[0]]})
    with pytest.raises(ValueError, match=r"Row 2 of .* is of 'a\.jpg', as row 0 is: write all labels of an image in"):
        load([*ROWS, {"file_name": "a.jpg", "labels": ["cat"]}])
    with pytest.raises(ValueError, match=r"Row 0 of .* has no 'file_name'"):
        load([{"labels": ["dog"]}])
    with pytest.raises(ValueError, match=r"Row 0 of .* has no 'coco_id'"):
        load([ROWS[0]], id_column="coco_id")
    with pytest.raises(ValueError, match=r"Row 0 of .* is a str: write an object"):
        load(["a.jpg"])
    with pytest.raises(ValueError, match=r"no image in the split 'test' of .*: the split is empty"):
        load(ROWS, split="test")
    with pytest.raises(FileNotFoundError, match=r"b\.jpg' of .* is not on disk \(1 of 2 are missing\)"):
        load(ROWS)
    with pytest.raises(ValueError, match=r"Row 0 of .* holds '2' for 'dog': give a column 'labels', or 0 and 1"):
        load("file_name,dog\na.jpg,2\n", "labels.csv")
    with pytest.raises(ValueError, match=r"Row 0 of .* has no labels"):
        load("file_name\na.jpg\n", "labels.csv")
    with pytest.raises(ValueError, match=r"The label file .*labels\.json' cannot be read"):
        load("[")
    with pytest.raises(ValueError, match=r"loader 'folder' has no option 'splt': it has label_file"):
        load_images(tmp_path, splt="test")
    with pytest.raises(ValueError, match="no loader 'imagenet': choose one of voc"):
        load_images(tmp_path, "imagenet")


@pytest.mark.parametrize("missing", ["a.jpg", "b.jpg", "c.jpg"])
@pytest.mark.parametrize("inner", ["", "images"])
def test_a_missing_image_of_a_folder_may_be_any(tmp_path, missing, inner):
    names = ("a.jpg", "b.jpg", "c.jpg")
    rows = [{"file_name": name, "labels": ["dog"]} for name in names]
    (tmp_path / "labels.json").write_text(json.dumps(rows))
    for name in set(names) - {missing}:
        write_image(tmp_path / inner / name)
    with pytest.raises(FileNotFoundError, match=rf"{missing}' of .* is not on disk \(1 of 3 are missing\)"):
        load_image_folder(tmp_path)
    kept = load_image_folder(tmp_path, skip_missing=True)
    assert kept["image_id"][:] == sorted(set(names) - {missing})
    assert kept[1]["image"].size == (6, 4)


def test_a_column_per_class_as_pandas_writes_it(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        write_image(tmp_path / name)
    text = "Unnamed: 0,file_name,cat,dog\n0,a.jpg,True,0.0\n1,b.jpg,False,1.0\n"
    for table in (text, text.replace("Unnamed: 0", "")):
        (tmp_path / "labels.csv").write_text(table, encoding="utf-8-sig")
        assert names_of(load_image_folder(tmp_path)) == [["cat"], ["dog"]]
    (tmp_path / "labels.csv").write_text("file_name,cat\na.jpg,1,0\nb.jpg,1\n")
    with pytest.raises(ValueError, match=r"has 3 values for 2 columns in row 0 \(line 2\)"):
        load_image_folder(tmp_path)
    (tmp_path / "labels.csv").write_text("file_name,labels\na.jpg,cat,dog\nb.jpg,dog\n")
    with pytest.raises(ValueError, match=r"has 3 values for 2 columns in row 0 \(line 2\)"):
        load_image_folder(tmp_path)
    (tmp_path / "labels.csv").write_text("file_name,labels\na.jpg,cat|dog\nb.jpg,dog\n")
    assert names_of(load_image_folder(tmp_path)) == [["cat", "dog"], ["dog"]]


def test_an_unknown_class_0_of_a_label_file_is_kept(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        write_image(tmp_path / name)
    rows = [{"file_name": "a.jpg", "labels": 1, "unknown": 0}, {"file_name": "b.jpg", "labels": 0}]
    (tmp_path / "labels.json").write_text(json.dumps({"categories": ["cat", "dog"], "images": rows}))
    assert partial_label_matrix(load_image_folder(tmp_path)).tolist() == [[0, 1], [1, -1]]


def hub_rows(labels, feature=None) -> Dataset:
    pictures = [Image.new("RGB", (6, 4), (shade, 0, 0)) for shade in range(len(labels))]
    dataset = Dataset.from_dict({"picture": pictures, "tags": labels})
    return dataset if feature is None else dataset.cast_column("tags", feature)


@pytest.mark.parametrize(
    ("labels", "feature", "options"),
    [
        ([[0, 1], [], [1]], List(ClassLabel(names=["cat", "dog"])), {}),
        ([["dog", "cat"], [], ["dog"]], None, {}),
        ([["dog", "cat"], None, ["dog"]], None, {"class_names": ["cat", "dog"]}),
        ([[1, 1], [0, 0], [0, 1]], None, {"class_names": ["cat", "dog"]}),
        ([[0, 1], [], [1]], List(Value("int64")), {"class_names": ["cat", "dog"]}),
        (
            [{"category": [0, 1, 1]}, {"category": []}, {"category": [1]}],
            None,
            {"label_column": "tags.category", "class_names": ["cat", "dog"]},
        ),
        ([[{"name": "dog"}, {"name": "cat"}], [], [{"name": "dog"}]], None, {"label_column": "tags.name"}),
    ],
    ids=["class_labels", "names", "null", "multi_hot", "indices", "objects", "list_of_objects"],
)
def test_any_data_set(labels, feature, options):
    dataset = load_image_dataset(hub_rows(labels, feature), "picture", **{"label_column": "tags"} | options)
    assert dataset.column_names == ["image", "labels", "image_id"]
    assert names_of(dataset) == [["cat", "dog"], [], ["dog"]]
    assert isinstance(dataset.features["image"], ImageFeature)
    assert dataset[2]["image"].getpixel((0, 0)) == (2, 0, 0)
    assert dataset["image_id"][:] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "file_name,dog,cat\na.png,1,0\nb.png,,1\n"),
        ("labels.csv", "file_name,dog,cat\na.png,1,-1\nb.png,0,1\n"),
        ("labels.csv", "file_name,labels,unknown\na.png,dog,\nb.png,cat,dog\n"),
        (
            "labels.jsonl",
            '{"file_name": "a.png", "labels": ["dog"]}\n'
            + '{"file_name": "b.png", "labels": ["cat"], "unknown": ["dog"]}\n',
        ),
    ],
)
def test_unknown_labels_of_a_folder(tmp_path, name, text):
    for image in ("a.png", "b.png"):
        write_image(tmp_path / image)
    (tmp_path / name).write_text(text)
    dataset = load_images(tmp_path)
    assert names_of(dataset, "unknown") == [[], ["dog"]]
    assert partial_label_matrix(dataset, ["dog", "cat"]).tolist() == [[1, -1], [0, 1]]


def test_unknown_labels_of_any_data_set():
    rows = hub_rows([[1, -1, 0], [-1, 1, 1]])
    dataset = load_image_dataset(rows, "picture", "tags", class_names=["dog", "cat", "bus"])
    assert names_of(dataset, "unknown") == [["bus"], []]
    assert partial_label_matrix(dataset).tolist() == [[1, -1, 0], [-1, 1, 1]]
    again = load_image_dataset(dataset)  # the column of the loaders is read as well
    assert partial_label_matrix(again).tolist() == partial_label_matrix(dataset).tolist()


def test_classes_that_a_data_set_does_not_annotate_are_unknown(tmp_path):
    """VOC annotates 20 of COCO's 80 classes; the other 60 are not absent from its photographs."""
    labels = [entry["name"] for entry in load_class_table("coco80")]
    original = load_images(write_voc(tmp_path), difficult="unknown")
    voc = align_classes(original, labels)
    matrix = partial_label_matrix(voc, labels)  # (3, 80)
    dog, person = labels.index("dog"), labels.index("person")
    assert [np.flatnonzero(row == 1).tolist() for row in matrix] == [[person], [dog], []]
    assert (matrix == 0).sum(axis=1).tolist() == [60 + 1, 60, 60]  # the difficult dog of the first image
    assert matrix[:, dog].tolist() == [0, 1, -1]
    write_coco(tmp_path / "coco")
    joined = concatenate_datasets([voc, align_classes(load_images(tmp_path / "coco"), labels)])
    assert partial_label_matrix(joined)[:3].tolist() == matrix.tolist()
    assert (partial_label_matrix(joined)[3:] == 0).sum(axis=1).tolist() == [78] * 3  # the file has two categories
    assert joined[1]["image"].size == (6, 4)
    fewer = partial_label_matrix(align_classes(original, ["dog", "zebra"]))
    assert fewer.tolist() == [[0, 0], [1, 0], [-1, 0]]
    with pytest.raises(ValueError, match=r"annotates none of the 1 classes \(zebra \.\.\.\), but aeroplane"):
        align_classes(original, ["zebra"])


def test_any_data_set_from_a_repository_or_folder(tmp_path):
    hub_rows([["dog"], ["cat"]]).to_parquet(str(tmp_path / "repo" / "data" / "test-0.parquet"))
    dataset = load_images(str(tmp_path / "repo"), "hub", image_column="picture", label_column="tags", split="test")
    assert names_of(dataset) == [["dog"], ["cat"]]
    only = load_images(str(tmp_path / "repo"), "hub", image_column="picture", label_column="tags")
    assert names_of(only) == names_of(dataset)
    hub_rows([["dog"]]).to_parquet(str(tmp_path / "repo" / "data" / "train-0.parquet"))
    with pytest.raises(ValueError, match=r"has the splits 'train', 'test': name one, as split=train"):
        load_images(str(tmp_path / "repo"), "hub", image_column="picture", label_column="tags")


def test_any_data_set_says_what_is_wrong():
    rows = hub_rows([["dog"], ["cat"]])
    with pytest.raises(ValueError, match="no column 'image' in the data set, it has picture, tags"):
        load_image_dataset(rows)
    with pytest.raises(ValueError, match="label 'cat' in row 1 of the data set is none of the 1 classes"):
        load_image_dataset(rows, "picture", "tags", class_names=["dog"])
    with pytest.raises(ValueError, match="numbers without names: give `class_names`"):
        load_image_dataset(hub_rows([[0], [1]]), "picture", "tags")
    with pytest.raises(ValueError, match="no image in the data set: the split is empty"):
        load_image_dataset(rows.select([]), "picture", "tags")
    with pytest.raises(TypeError, match="pass one, as dataset"):
        load_image_dataset(DatasetDict(test=rows), "picture", "tags")
    with pytest.raises(TypeError, match=r"IterableDataset: give a `datasets.Dataset`, no stream"):
        load_image_dataset(rows.to_iterable_dataset(), "picture", "tags")


def test_a_broken_image_is_met_when_its_row_is_read(tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps(ROWS))
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_text("no picture")
    dataset = load_images(tmp_path)  # nothing is opened
    with pytest.raises(OSError, match="cannot identify image file"):
        dataset[0]
