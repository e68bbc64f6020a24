"""README and docs: every block of code is run or says why not, and no command names an option that is not there."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from transformers import HfArgumentParser

import modeling_taidpt
from modeling_taidpt import TaiDptTrainingArguments
from taidpt_cli.app import app

from ..hub.hub_server import TOKEN, HubServer
from .docs_blocks import PAGES, ROOT, read_blocks, write_outputs

QUICK_PAGES = ("README.md",)  # the blocks of the others take long
BLOCKS = [block for page in PAGES for block in read_blocks(page)]
CODE = [block for block in BLOCKS if block.language in ("python", "bash")]
RUN = [block for block in CODE if block.reason is None]
QUICK = [block for block in RUN if block.page.name in QUICK_PAGES]
SLOW = [block for block in RUN if block not in QUICK]
NOT_RUN = [block for block in CODE if block.reason is not None]
COMMANDS = [
    pytest.param(words, id=f"{block.name}-{number}")
    for block in CODE
    if block.language == "bash"
    for number, words in enumerate(block.commands())
]


def run_pages(pages, place):
    """What became of the blocks of pages, by page and line: all run once, in one fresh interpreter."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE", "PYTEST"))}
    environment |= {"HF_HOME": str(place / "home"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "MPLBACKEND": "Agg"}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    with HubServer().running() as server:
        command = [
            sys.executable,
            str(ROOT / "tests" / "docs" / "docs_client.py"),
            str(place / "report.json"),
            str(place),
        ]
        done = subprocess.run(
            [*command, *map(str, pages)],
            env=environment | {"HF_ENDPOINT": server.url},
            capture_output=True,
            text=True,
        )  # each block has its limit of time
    assert done.returncode == 0, done.stderr[-5000:]
    report = json.loads((place / "report.json").read_text())
    if os.environ.get("TAIDPT_UPDATE_OUTPUTS"):
        for page in pages:
            shown = {block.line for block in read_blocks(page) if block.output is not None}
            write_outputs(page, {int(line): out for line, (_, out) in report[page.name].items() if int(line) in shown})
    return report


def pages_of(blocks):
    return [page for page in PAGES if any(block.page == page for block in blocks)]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return run_pages(pages_of(QUICK), tmp_path_factory.mktemp("docs"))


@pytest.fixture(scope="module")
def slow_outcomes(tmp_path_factory):
    return run_pages(pages_of(SLOW), tmp_path_factory.mktemp("slow"))


def assert_ran(block, outcomes):
    outcome, printed = outcomes[block.page.name][str(block.line)]
    assert outcome == "ok", f"{block.code}\n{outcome}"
    if block.output is None or os.environ.get("TAIDPT_UPDATE_OUTPUTS"):
        return
    shown, printed = block.output.split(), printed.split()
    assert len(shown) == len(printed), f"{block.name} prints\n{' '.join(printed)}"
    for said, word in zip(shown, printed, strict=True):  # processors round differently
        number = re.fullmatch(r"-?\d+\.\d+", word)
        same = abs(float(said) - float(word)) < 0.02 if number else said == word
        assert same, f"{block.name} prints {word!r}, not {said!r}: TAIDPT_UPDATE_OUTPUTS=1 writes what it prints"


@pytest.mark.parametrize("block", QUICK, ids=lambda block: block.name)
def test_block_runs(block, outcomes):
    assert_ran(block, outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("block", SLOW, ids=lambda block: block.name)
def test_slow_block_runs(block, slow_outcomes):
    assert_ran(block, slow_outcomes)


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: block.name)
def test_block_that_is_not_run_says_why_and_names_what_is_there(block):
    assert len(block.reason.split()) >= 2
    if block.language == "bash":
        assert block.commands()
        return
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "modeling_taidpt":
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


class _ParsedError(Exception):
    """The options of a script are right; the rest of it is not run."""


def parse_script(script: str, arguments: list[str], monkeypatch) -> None:
    """Runs a script up to where its options are read."""
    parse = argparse.ArgumentParser.parse_known_args

    def parse_and_stop(parser, args=None, namespace=None):
        left = parse(parser, arguments, namespace)[1]
        if left:  # scripts that train take all training arguments too, once the recipe is known
            left = parse(HfArgumentParser(TaiDptTrainingArguments), left)[1]
        raise _ParsedError(left)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.setattr(sys, "path", [str((ROOT / script).parent), *sys.path])
    with pytest.raises(_ParsedError) as stopped:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert stopped.value.args == ([],), f"{script} has no option {stopped.value.args[0]}"


@pytest.mark.parametrize("words", COMMANDS)
def test_options_of_commands_exist(words, monkeypatch):
    if words[0] == "taidpt":
        group = typer.main.get_command(app)
        names = [word for word in words[1:] if not word.startswith("-")]
        if names:
            group.get_command(None, names[0]).make_context(names[0], words[2:])
        else:
            assert set(words[1:]) <= {"--help", "--version"}
        return
    script = next((word for word in words if re.fullmatch(r"(examples|benchmarks)/\w+\.py", word)), None)
    if script is not None and "ArgumentParser(" in (ROOT / script).read_text(encoding="utf-8"):
        parse_script(script, words[words.index(script) + 1 :], monkeypatch)


def public_names() -> dict[str, str]:
    """Where each public name is documented: by the package if in `__all__`, else by its folder."""
    folders = [path.parent.name for path in Path(modeling_taidpt.__file__).parent.glob("*/__init__.py")]
    names = {name: f"modeling_taidpt.{name}" for name in modeling_taidpt.__all__}
    for folder in folders:
        for name in getattr(importlib.import_module(f"modeling_taidpt.{folder}"), "__all__", ()):
            names.setdefault(name, f"modeling_taidpt.{folder}.{name}")
    return names


def test_every_public_name_has_a_reference():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)
    assert len(set(named)) == len(named)
    missing = sorted(set(public_names().values()) - set(named))
    assert not missing, "docs/api.md lacks " + ", ".join(f"`::: {path}`" for path in missing)
    for path in named:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), f"docs/api.md names {path}, which is not there"
        if module == "modeling_taidpt":
            assert name in modeling_taidpt.__all__, f"docs/api.md: {name} is documented in the folder where it lives"


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert re.search(rf"[:-] {page.name}$", text, re.MULTILINE), f"docs/{page.name} is not in mkdocs.yml"
