"""The study of what needs no label, on a few photographs: it prints its tables, and scores as the model does."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel
from modeling_taidpt.hub import find_image_processor
from modeling_taidpt.pipelines.heatmaps import ProcessorView, enlarged
from modeling_taidpt.pipelines.image_reading import open_encoded

from .test_examples import ROOT, run

SHOWN = 4  # photographs with labels


@pytest.fixture(scope="module")
def data(shared, tmp_path_factory) -> Path:
    """Folders of a few photographs with labels, all of the selection part, and of 100 without."""
    sys.path.insert(0, str(ROOT / "examples"))
    from embedded_base.image_features import is_selection

    folder, source = tmp_path_factory.mktemp("data"), shared / "data"
    table = json.loads((source / "coco_train" / "labels.json").read_text(encoding="utf-8"))
    table["images"] = [image for image in table["images"] if is_selection(image["file_name"])][:SHOWN]
    (folder / "shown").mkdir()
    (folder / "shown" / "labels.json").write_text(json.dumps(table), encoding="utf-8")
    (folder / "shown" / "images").symlink_to(source / "coco_train" / "images")
    (folder / "photos" / "images").mkdir(parents=True)
    files = sorted(file for file in (source / "voc2012" / "images").iterdir() if not is_selection(file.name))
    for file in files[:100]:
        (folder / "photos" / "images" / file.name).symlink_to(file)
    return folder


@pytest.mark.slow
@pytest.mark.shared
def test_the_tables_are_printed(data, tmp_path):
    options = ["--selection", "shown", "--judged", "shown", "--unlabelled", "photos", "--counts", "100"]
    options += ["--shares", "0.3", "--resamples", "20", "--cache_dir", str(tmp_path / "cache")]
    output = run("examples/study_adaptation.py", "--data", str(data), *options, folder=tmp_path)
    assert len(re.findall(r"^\| (?:learned|zero-shot) \| 0(?:\.3)? \|", output, re.MULTILINE)) == 4
    rows = dict(re.findall(r"^\| learned \| ([a-z][^|]*) \| .* \| ([\d.]+) \| [\d.]+ \|$", output, re.MULTILINE))
    assert list(rows) == [
        "plain",
        "visual classifier, 100 photographs",
        "second look",
        "tiles",
        "tiles, visual classifier",
        "tiles, second look",
        "tiles, second look, visual classifier",
    ]
    assert rows["plain"] == "1.0" and rows["tiles"] == "10.0" and 1 < float(rows["second look"]) < 12


@pytest.mark.slow
@pytest.mark.shared
@torch.no_grad()
def test_a_second_look_scores_as_the_model_does(data, tmp_path):
    sys.path.insert(0, str(ROOT / "examples"))
    from adaptation.photographs import Labelled
    from adaptation.rows import Row, score_row

    model = TaiDptModel.from_pretrained(DEFAULT_CHECKPOINT)
    processor = find_image_processor(model.config)
    labelled = Labelled(model, processor, data / "shown", True, SHOWN, tmp_path)
    for tiles in (False, True):
        found = score_row(model, {}, Row("", tiles=tiles, second_look=True), labelled).logits
        whole = ProcessorView(processor, model.config.view_settings("max"))
        view = whole if tiles else enlarged(ProcessorView(processor, {}))
        for file, logits in zip(labelled.files, found, strict=True):
            pixels = torch.as_tensor(view(open_encoded(file).convert("RGB")))  # (1, 3, height, width)
            expected = model(pixel_values=pixels, second_look=True, multi_crop="max" if tiles else None).logits[0]
            # of a center crop the model sees one of twice the size, made smaller, where the study has one of the size
            likeness = torch.corrcoef(torch.stack([logits, expected]))[0, 1]
            assert likeness > (0.99 if tiles else 0.95)
