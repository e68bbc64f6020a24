"""The grid pointing game: what grids hold, what counts as found."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

from ..conftest import ROOT

sys.path.insert(0, str(ROOT / "examples"))
from embedded_base.image_features import is_selection
from embedded_base.pointing import Single, draw_grids, judge_map, part_shares, paste_grid, play, read_singles


def test_singles_are_selection_photographs_of_one_known_label(tmp_path):
    names = [f"{number}.jpg" for number in range(40)]
    rows = [{"file_name": name, "labels": [0]} for name in names]
    rows += [{"file_name": f"two-{name}", "labels": [0, 1]} for name in names]
    (tmp_path / "labels.json").write_text(json.dumps({"categories": ["sofa", "cat"], "images": rows}))
    found = read_singles(tmp_path, ["cat", "couch"])
    assert [single.label for single in found] == ["couch"] * len(found)  # by its COCO name
    assert [single.file.rsplit("/")[-1] for single in found] == [name for name in names if is_selection(name)]
    listed = [{"file_name": "a.jpg", "labels": ["cat"]}, {"file_name": "b.jpg", "labels": ["shark"]}]
    (tmp_path / "labels.json").write_text(json.dumps([*listed, {"file_name": "c.jpg", "labels": []}]))
    assert [single.label for single in read_singles(tmp_path, ["cat"], selection=None)] == ["cat"]


def test_grids_have_four_labels_and_use_each_photograph_once_a_round():
    singles = [Single(f"{label}-{number}", label, "x") for label in "abcde" for number in range(6)]
    grids = draw_grids(singles, rounds=2, seed=0)
    assert grids == draw_grids(singles, rounds=2, seed=0) != draw_grids(singles, rounds=2, seed=1)
    assert all(len({single.label for single in grid}) == 4 for grid in grids)
    files = [single.file for grid in grids for single in grid]
    assert max(files.count(single.file) for single in singles) == 2


def test_parts_lie_in_the_order_of_the_grid(tmp_path):
    colours = ["red", "lime", "blue", "white"]
    for colour in colours:
        Image.new("RGB", (30, 20), colour).save(tmp_path / f"{colour}.png")
    grid = [Single(str(tmp_path / f"{colour}.png"), colour, "x") for colour in colours]
    image = paste_grid(grid, 8)
    assert image.size == (8, 8)
    corners = [image.getpixel(place) for place in ((0, 0), (7, 0), (0, 7), (7, 7))]  # (x, y)
    assert corners == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    shares = part_shares(4, 4)
    assert shares.shape == (4, 4, 4) and (shares.sum(dim=0) == 1).all()
    assert shares[1, 0, 3] == 1 and shares[2, 3, 0] == 1


def test_cells_on_the_border_count_by_what_lies_in_a_part():
    shares = part_shares(3, 3)
    assert shares[0].tolist() == [[1, 0.5, 0], [0.5, 0.25, 0], [0, 0, 0]]
    values = torch.tensor([[0.0, 4.0, 0.0], [0.0, 0.0, 0.0], [-9.0, 0.0, 4.0]])
    assert judge_map(values, shares[0]) == (0.25, 0.25)  # two peaks, one half inside
    assert judge_map(torch.zeros(3, 3), shares[0]) == (0.25, 0.25)  # flat: chance
    assert judge_map(torch.eye(3), shares[0]) == pytest.approx((1.25 / 3, 1.25 / 3))


def test_maps_that_light_their_own_parts_win():
    grid = [Single("", label, "x") for label in ("b", "a", "d", "c")]
    cosines = torch.stack([part_shares(4, 4)[part] for part in (1, 0, 3, 2)])  # of a, b, c, d
    ways = {"right": lambda values, c, grid: values[c], "wrong": lambda values, c, grid: values[(c + 1) % 4]}
    results = play(iter([cosines]), [grid], ["a", "b", "c", "d"], ways)
    assert results["right"].shape == (1, 4, 2) and (results["right"] == 1).all() and (results["wrong"] == 0).all()


@pytest.mark.slow
@pytest.mark.shared
def test_the_study_says_that_the_pipeline_draws_what_is_best(shared):
    command = [sys.executable, "examples/study_heatmaps.py", "--images", str(shared / "data" / "caltech101_coco")]
    result = subprocess.run([*command, "--resamples", "50"], cwd=ROOT, capture_output=True, text=True, check=True)
    peaks, masses = {}, {}
    for line in result.stdout.split("256 and 512 pixels")[1].strip().splitlines():
        way, _, figures = line.partition(" peak ")
        peaks[way.strip()], masses[way.strip()] = float(figures.split()[0]), float(figures.split("mass")[1].split()[0])
    drawn = "share of own background"
    assert abs(peaks[drawn] - peaks["cosine"]) < 1 and masses[drawn] > masses["cosine"] + 10
