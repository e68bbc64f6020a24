"""Pictures of results: heatmaps where they belong, files of the wanted format, one sentence on bad input."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from PIL import Image

from modeling_taidpt.serving.plots import draw_results, overlay_heatmap, save_figure

from ..conftest import ROOT

CAT = ROOT / "examples" / "images" / "cat.jpg"  # 451 x 300 pixels


def make_results(labels=("cat", "sofa"), size=(300, 451)):
    heatmap = np.full(size, np.nan, dtype=np.float32)
    heatmap[:, 75:375] = np.linspace(-0.2, 0.6, 300)  # seen in the middle, highest at the right
    return [{"label": label, "score": 0.02 / (1 + place), "heatmap": heatmap} for place, label in enumerate(labels)]


def test_overlay_covers_the_highest_place_and_darkens_what_was_not_seen():
    heatmap = make_results()[0]["heatmap"]
    grey = Image.new("RGB", (451, 300), (100, 100, 100))
    pixels = np.asarray(overlay_heatmap(grey, heatmap)).astype(int)
    assert pixels.shape == (300, 451, 3)
    assert (pixels[:, 75] == 100).all()  # lowest: the photograph
    assert pixels[0, 374, 0] > 200 and pixels[0, 374, 0] > pixels[0, 374, 2] + 40  # highest: yellow
    assert (pixels[:, :75] == 35).all() and (pixels[:, 375:] == 35).all()  # outside: dark


def test_overlays_can_share_a_scale():
    grey, weak = Image.new("RGB", (4, 3), (100, 100, 100)), np.full((3, 4), 0.1, dtype=np.float32)
    weak[0, 0] = 0.2
    own, shared = (np.asarray(overlay_heatmap(grey, weak, scale)).astype(int) for scale in (None, (0.0, 1.0)))
    assert own[0, 0, 0] > 200  # the highest of this map
    assert abs(shared[0, 0] - 100).max() < 10  # far below the highest of all
    high = np.asarray(overlay_heatmap(grey, np.full((3, 4), 7.0, dtype=np.float32), (0.0, 1.0))).astype(int)
    assert (high[0, 0] == own[0, 0]).all()  # values outside the scale are its ends


@pytest.mark.parametrize("value", [0.25, np.nan])
def test_overlay_of_a_map_without_differences(value):
    grey = Image.new("RGB", (4, 3), (100, 100, 100))
    pixels = np.asarray(overlay_heatmap(grey, np.full((3, 4), value, dtype=np.float32)))
    assert (pixels == (35 if np.isnan(value) else 100)).all()


def test_figure_has_the_photograph_bars_and_maps_of_the_best_labels():
    results = make_results(["cat", "a $5 note", "x" * 5000, "dog"])
    figure = draw_results(CAT, results, max_labels=3, max_heatmaps=2)
    figure.canvas.draw()  # a dollar sign starts no formula
    picture, bars, first, second, scale = figure.axes
    assert 7 < figure.get_figwidth() < 9  # as wide as a column of text
    assert "own map" in scale.get_xlabel() and np.allclose(scale.get_xlim(), (0, 1))  # of each map
    assert picture.images[0].get_array().shape[:2] == (300, 451)
    assert [bar.get_width() for bar in bars.patches] == [result["score"] for result in results[:3]]
    assert bars.yaxis_inverted()  # the best on top
    assert [text.get_text() for text in bars.texts] == ["0.020", "0.010", "0.007"]  # as many decimals each
    assert [len(text.get_text()) for text in bars.get_yticklabels()] == [3, 10, 24]
    assert [panel.get_title().split("  ")[0] for panel in (first, second)] == ["cat", r"a \$5 note"]
    assert len(draw_results(CAT, [{"label": "cat", "score": 0.5}]).axes) == 2
    assert len(draw_results(CAT, []).axes) == 2  # no label reached the threshold


def test_saves_whole_files_of_the_format_that_the_suffix_says(tmp_path):
    for suffix, kind in ((".jpg", "JPEG"), (".png", "PNG")):
        file = save_figure(CAT, make_results(), tmp_path / "new" / f"cat{suffix}", dpi=30)
        assert Image.open(file).format == kind
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["cat.jpg", "cat.png"]


def test_bad_requests_are_refused_in_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"No figure can be saved as .*cat\.txt': end it in \.jpg"):
        save_figure(CAT, make_results(), tmp_path / "cat.txt")
    with pytest.raises(ValueError, match="those of one image"):
        draw_results(CAT, [make_results()])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cannot read image .*broken\.jpg"):
        save_figure(broken, make_results(), tmp_path / "out.png")
    actual = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return actual(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ImportError, match="run `pip install matplotlib`"):
        save_figure(CAT, make_results(), tmp_path / "out.png")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.jpg"]
