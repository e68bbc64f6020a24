"""The rule of the flat level, and the direction in which folders import: see CONTRIBUTING.md."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

PACKAGE = Path(__file__).parent.parent / "modeling_taidpt"
ORDER = (
    *(
        "",
        "evaluate_modules",
        "captions",
        "data",
        "features",
        "evaluation",
        "ensembles",
        "conversion",
        "export",
        "serving",
        "training",
    ),
)  # "" is the flat level, which travels with every checkpoint


def modules() -> dict[str, Path]:
    """Modules of the package by their dotted name below it, `__init__` files left out."""
    files = (
        path for path in PACKAGE.rglob("*.py") if path.stem != "__init__" and "evaluate_modules" not in path.parts
    )
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in files}


def imports(name: str, path: Path, known: set[str]) -> set[str]:
    """The modules of the package that a module imports, also inside functions and under TYPE_CHECKING."""
    parents, found = name.split(".")[:-1], set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*parents[: len(parents) - node.level + 1], *filter(None, (node.module or "").split("."))]
            dotted = [".".join([*base, alias.name]) for alias in node.names] + [".".join(base)]
            found |= {module for module in dotted if module in known}
    return found - {name}


def graph() -> dict[str, set[str]]:
    files = modules()
    return {name: imports(name, path, set(files)) for name, path in files.items()}


def test_what_is_flat_travels_and_nothing_else():
    flat = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    travels = {Path(file).name for file in get_relative_import_files(PACKAGE / "modeling_taidpt.py")}
    assert flat == travels | {"modeling_taidpt.py"}


def test_folders_import_to_their_left():
    wrong = []
    for name, others in graph().items():
        room = name.rpartition(".")[0]
        wrong += [
            f"{name} -> {other}" for other in others if ORDER.index(other.rpartition(".")[0]) > ORDER.index(room)
        ]
    assert not wrong


def test_no_import_goes_in_a_circle():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_no_file_is_longer_than_850_lines():
    root = PACKAGE.parent
    folders = ("modeling_taidpt", "pipelines", "cli", "examples", "benchmarks", "tests", "hub_cards")
    files = [path for folder in folders for path in (root / folder).rglob("*.py")]
    long = [str(path) for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 850]
    assert len(files) > 100 and not long


def test_processors_are_counted_in_one_place():
    """`os.cpu_count` knows nothing of how many of them a process may use."""
    files = [
        path for folder in ("modeling_taidpt", "pipelines", "cli") for path in (PACKAGE.parent / folder).rglob("*.py")
    ]
    counting = {path.name for path in files if "cpu_count" in path.read_text(encoding="utf-8")}
    assert counting == {"onnx_graphs.py"}
