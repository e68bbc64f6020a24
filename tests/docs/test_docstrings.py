"""The examples of docstrings run, and what people use most has one."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import modeling_taidpt

from .docs_blocks import ROOT

MOST_USED = {
    *("TaiDptModel", "TaiDptTrainer", "MultiLabelImageClassificationPipeline", "CaptionLabeler", "CaptionFeatures"),
    *("ImageFeatures", "tag_images", "calibrate", "mean_average_precision", "multilabel_f1", "make_captions"),
    "read_captions",
}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples() -> list[doctest.DocTest]:
    """All docstrings of the package with an example."""
    roots = (modeling_taidpt, modeling_taidpt.pipelines)  # a checkout has pipelines beside the package
    modules = {name for root in roots for _, name, _ in pkgutil.walk_packages(root.__path__, f"{root.__name__}.")}
    found = []
    for name in sorted(modules):
        if ".assets" not in name and ".evaluate_modules" not in name:
            module = importlib.import_module(name)
            found += [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name.rpartition(".")[2])
def test_an_example_of_a_docstring_runs(example, tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    said: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(example, out=said.append)
    assert not said, "".join(said)


def test_what_people_use_most_has_an_example():
    missing = MOST_USED - {example.name.rpartition(".")[2] for example in EXAMPLES}
    assert not missing, f"no `>>>` example in the docstring of {', '.join(sorted(missing))}"
