"""Whatever holds images, captions and labels is read alike by every public entry point, or refused in a sentence."""

from __future__ import annotations

import io

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from modeling_taidpt import (
    CaptionLabeler,
    MultiLabelImageClassificationPipeline,
    TaiDptModel,
    TaiDptTrainer,
    TaiDptTrainingArguments,
)
from modeling_taidpt.captions import label_captions, read_captions
from modeling_taidpt.data.image_rows import holds_images, read_images
from modeling_taidpt.data.sources import count_images, open_images
from modeling_taidpt.evaluation import score_fitting
from modeling_taidpt.evaluation.evaluate import score_images
from modeling_taidpt.features.captions import CaptionFeatures
from modeling_taidpt.features.images import ImageFeatures

LABELS = ["dog", "cat", "car"]
PROCESSOR = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
CAPTIONS = ["A dog.", "A cat and a car.", "Nothing.", "Two dogs."]
NAMES = [["dog"], [], ["cat", "car"]]
MATRIX = [[1, 0, 0], [0, 0, 0], [0, 1, 1]]


class Rows(torch.utils.data.Dataset):
    """A data set of PyTorch that raises no IndexError at its end."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index % len(self.rows)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three images by what holds them; the last ones have labels of their own."""
    folder = tmp_path_factory.mktemp("images")
    arrays = np.random.default_rng(0).integers(0, 256, (3, 40, 36, 3), dtype=np.uint8)
    pictures, paths = [Image.fromarray(array) for array in arrays], [str(folder / f"{n}.png") for n in range(3)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    encoded = [open(path, "rb").read() for path in paths]  # noqa: SIM115
    (folder / "list.txt").write_text("\n".join(paths))
    rows = [{"image": picture, "labels": names} for picture, names in zip(pictures, NAMES, strict=True)]
    table = datasets.Dataset.from_dict({"image": paths, "labels": NAMES}).cast_column("image", datasets.Image())
    return {
        "pictures": pictures,
        "tuple": tuple(pictures),
        "paths": paths,
        "bytes": encoded,
        "array": arrays,
        "tensor": torch.from_numpy(arrays),
        "column": table["image"],
        "series": pd.Series(pictures),
        "object array": np.array([*paths], dtype=object),
        "torch images": Rows(pictures),
        "folder": folder,
        "list file": str(folder / "list.txt"),
        "rows": rows,
        "data set": table,
        "frame": pd.DataFrame({"image": paths, "labels": NAMES}),
        "arrow": pa.table({"image": encoded, "labels": NAMES}),
        "columns": {"image": pictures, "labels": NAMES},
        "torch rows": Rows(rows),
        "pairs": Rows([(row["image"], row["labels"]) for row in rows]),
        "pandas format": table.with_format("pandas"),
        "arrow format": table.with_format("arrow"),
        "numpy format": table.with_format("numpy"),
        "files in memory": [io.BytesIO(content) for content in encoded],
        "view of a dict": dict(enumerate(pictures)).values(),
    }


WITHOUT_LABELS = [
    *("pictures", "tuple", "paths", "bytes", "array", "tensor", "column", "series", "object array", "torch images"),
    *("folder", "list file", "files in memory", "view of a dict"),
]
WITH_LABELS = [
    *("rows", "data set", "frame", "arrow", "columns", "torch rows", "pairs"),
    *("pandas format", "arrow format", "numpy format"),
]


@pytest.fixture
def model(clip):
    return TaiDptModel.from_clip(clip, labels=LABELS, num_context_tokens=2)


@pytest.mark.parametrize("kind", [*WITHOUT_LABELS, *WITH_LABELS])
def test_images_are_read_alike(model, images, tmp_path, kind):
    options = {"image_processor": PROCESSOR, "cache_dir": tmp_path, "progress": False}
    expected = score_images(model, images["pictures"], **options)["merged"]  # (3, 3)
    given = images[kind]
    np.testing.assert_allclose(score_images(model, given, **options)["merged"], expected, atol=1e-6)
    if kind not in ("folder", "list file"):
        assert len(list(open_images(given))) == count_images(given) == 3
        assert holds_images(given) == (kind not in ("paths", "object array"))  # texts are captions
        generator = (given[index] for index in range(3)) if kind in ("pictures", "torch rows") else None
        if generator is not None:
            np.testing.assert_allclose(score_images(model, generator, **options)["merged"], expected, atol=1e-6)
    column = "labels" if kind in WITH_LABELS else None
    features = ImageFeatures.encode(model, given, label_column=column, **options)
    assert features.labels.tolist() == (MATRIX if column else np.zeros((3, 3)).tolist())


@pytest.mark.parametrize("kind", [*WITHOUT_LABELS, *WITH_LABELS])
def test_scores_are_fitted_alike(model, images, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    given = images[kind]
    if kind in WITHOUT_LABELS:
        with pytest.raises(ValueError, match="The images have no labels"):
            score_fitting.calibrate(model, given, image_processor=PROCESSOR)
        given = read_images(given).with_labels(NAMES)
    figures = score_fitting.calibrate(model, given, image_processor=PROCESSOR)
    again = score_fitting.calibrate(model, images["pictures"], MATRIX, image_processor=PROCESSOR)
    assert figures["f1"] == again["f1"]
    other = score_fitting.calibrate(model, images[kind], [["car"], ["dog"], []], image_processor=PROCESSOR)
    assert other["f1_before"] != pytest.approx(figures["f1_before"])  # labels that are given win over those in rows
    score_fitting.calibrate_without_labels(model, images[kind], prevalence=0.3, image_processor=PROCESSOR)
    with pytest.raises(ValueError, match="There are 3 images and labels for 2"):
        score_fitting.calibrate(model, images[kind], NAMES[:2], image_processor=PROCESSOR)


@pytest.mark.parametrize(
    "labels",
    [
        NAMES,
        MATRIX,
        np.array(MATRIX),
        torch.tensor(MATRIX),
        pd.DataFrame({"cat": [0, 0, 1], "dog": [1, 0, 0], "car": [0, 0, 1], "bus": [1, 1, 1]}),
        {"car": [0, 0, 1], "cat": [0, 0, 1], "dog": [1, 0, 0]},
        pd.Series(["dog", None, "cat|car"]),
        (names for names in NAMES),
        datasets.Dataset.from_dict(
            {"y": [[2], [], [0, 1]]},
            features=datasets.Features({"y": datasets.List(datasets.ClassLabel(names=["cat", "car", "dog"]))}),
        )["y"],
    ],
    ids=lambda labels: type(labels).__name__,
)
def test_labels_are_read_alike(images, labels):
    assert read_images(images["pictures"]).with_labels(labels).labels(LABELS).tolist() == MATRIX


REFUSED = [
    None,
    3,
    b"",
    set(CAPTIONS),
    {},
    [],
    [None],
    [3.5],
    iter([]),
    {"text": CAPTIONS},
    {"caption": CAPTIONS, "image": [1]},
    pd.DataFrame({"text": CAPTIONS}),
    datasets.Dataset.from_dict({"text": CAPTIONS}),
    datasets.DatasetDict(train=datasets.Dataset.from_dict({"caption": CAPTIONS, "image": CAPTIONS})),
    {"train": datasets.Dataset.from_dict({"caption": CAPTIONS, "image": CAPTIONS})},
    "nowhere/at/all.txt",
    np.array(3),
    object(),
]


@pytest.mark.parametrize("given", REFUSED, ids=lambda given: type(given).__name__)
def test_what_holds_nothing_is_refused_in_a_sentence(model, given):
    stream = datasets.Dataset.from_dict({"image": ["a.png"]}).to_iterable_dataset()
    for refused in (given, stream):
        with pytest.raises((TypeError, ValueError, FileNotFoundError)) as error:
            ImageFeatures.encode(model, refused, PROCESSOR, label_column=None, progress=False)
        assert "\n" not in str(error.value)
        assert str(error.value)[:1].isupper()
    is_iterator = hasattr(given, "__next__")
    labeler = CaptionLabeler(LABELS)
    for read in (read_captions, labeler, lambda data: label_captions(labeler, data, LABELS)):
        if isinstance(given, list) and not given and read is not read_captions:
            continue  # no captions have no labels
        if isinstance(given, str) and read is labeler:
            continue  # a text is a caption there
        with pytest.raises((TypeError, ValueError, FileNotFoundError)) as error:
            read(iter([]) if is_iterator else given)
        assert "\n" not in str(error.value)


def caption_sources(folder):
    (folder / "captions.txt").write_text("\n".join(CAPTIONS))
    rows = [{"caption": caption, "id": 0} for caption in CAPTIONS]
    table = datasets.Dataset.from_list(rows)
    return [
        list(CAPTIONS),
        tuple(CAPTIONS),
        np.array(CAPTIONS),
        pd.Series(CAPTIONS, index=[7, 7, 7, 7]),
        pa.array(CAPTIONS),
        table,
        table["caption"],
        table.to_iterable_dataset(),
        pd.DataFrame(rows),
        pa.table({"caption": CAPTIONS}),
        {"caption": CAPTIONS},
        rows,
        Rows(rows),
        Rows(CAPTIONS),
        iter(CAPTIONS),
        (row for row in rows),
        str(folder / "captions.txt"),
        folder / "captions.txt",
    ]


@pytest.mark.parametrize("number", range(18))
def test_captions_are_read_alike(model, tmp_path, number, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)

    def given():
        return caption_sources(tmp_path)[number]

    labeler = CaptionLabeler(LABELS)
    expected = [[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert read_captions(given()).captions == CAPTIONS
    assert label_captions(labeler, given(), LABELS).tolist() == expected
    if not isinstance(given(), str):  # to the labeler a text is a caption
        assert labeler(given()).tolist() == expected
    assert len(CaptionFeatures.encode(model, given(), np.array(expected), progress=False)) == 4
    score_fitting.fit_caption_bank(model, given(), size=2)
    score_fitting.fit_score_statistics(model, captions=given())


@pytest.mark.parametrize("kind", ["data set", "frame", "columns", "torch rows", "pairs", "arrow"])
def test_the_trainer_learns_from_images_of_any_kind(model, images, tmp_path, kind):
    options = {
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "feature_cache_dir": str(tmp_path),
    }
    options |= {"loss": "bce", "max_steps": 1, "per_device_train_batch_size": 3}
    arguments = TaiDptTrainingArguments(
        str(tmp_path / "run"), eval_strategy="no", load_best_model_at_end=False, **options
    )
    given = images[kind]
    trainer = TaiDptTrainer(
        model, arguments, train_dataset=given, eval_dataset=given, image_eval_dataset=given, image_processor=PROCESSOR
    )
    assert trainer.train_dataset.labels.tolist() == MATRIX
    assert trainer.eval_dataset.labels.tolist() == MATRIX
    assert 0 <= trainer.evaluate_images()["image_map"] <= 100


def test_one_class_label_a_row_trains_and_measures_as_lists_do(model, images, tmp_path):
    """The first class is number 0, which is no truth value of labels."""
    names = ["car", "cat", "dog"]  # another order than the model's
    captions = ["A car.", "A cat.", "A dog."] * 4
    numbers = datasets.Features({"caption": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    table = datasets.Dataset.from_dict({"caption": captions, "label": [0, 1, 2] * 4}, features=numbers)
    pictures = datasets.Dataset.from_dict({"image": images["paths"], "labels": [0, 1, 2]})
    pictures = pictures.cast_column("labels", datasets.ClassLabel(names=names))
    options = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "feature_cache_dir": str(tmp_path)}
    options |= {"eval_strategy": "no", "load_best_model_at_end": False, "validation_size": 0, "add_templates": False}
    arguments = TaiDptTrainingArguments(str(tmp_path / "run"), label_column="label", **options)
    lists = [{"image": path, "labels": [name]} for path, name in zip(images["paths"], names, strict=True)]
    for given in (table, table.to_iterable_dataset()):
        trainer = TaiDptTrainer(
            model, arguments, train_dataset=given, image_eval_dataset=pictures, image_processor=PROCESSOR
        )
        assert trainer._data.describe()["per_class"] == {"dog": 4, "cat": 4, "car": 4}
        assert trainer._data.train_captions.labels[0].tolist() == [0, 0, 1]
    assert trainer.evaluate_images() == trainer.evaluate_images(lists)
    with pytest.raises(ValueError, match="The images have no column 'labels'"):
        TaiDptTrainer(model, arguments, train_dataset=table, image_eval_dataset=images["pictures"])


def test_a_configuration_that_asks_for_tuples_changes_nothing_else(model, images, tmp_path):
    given = {"image": images["pictures"], "labels": NAMES}
    options = {"image_processor": PROCESSOR, "cache_dir": tmp_path, "progress": False}
    expected = score_images(model, given, **options)["merged"]  # (3, 3)
    model.config.return_dict = False
    np.testing.assert_array_equal(score_images(model, given, **options)["merged"], expected)
    tagger = MultiLabelImageClassificationPipeline(model=model, image_processor=PROCESSOR)
    assert [len(tags) for tags in tagger(images["pictures"])] == [3] * 3
    settings = {"max_steps": 1, "per_device_train_batch_size": 2, "report_to": "none", "disable_tqdm": True}
    settings |= {"loss": "bce", "use_cpu": True, "feature_cache_dir": str(tmp_path)}
    args = TaiDptTrainingArguments(str(tmp_path / "run"), **settings)
    assert TaiDptTrainer(model, args, train_dataset=given, image_processor=PROCESSOR).train().global_step == 1
