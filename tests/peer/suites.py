"""transformers' own test suites, which are not in its wheel: `python -m tests.peer.suites` fetches them.

They come from the source distribution of the installed version, by pip, into `build/`; or from the folder that
`TRANSFORMERS_SOURCE` names: an unpacked source distribution or a checkout.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import transformers

ROOT = Path(__file__).parents[2]
PACKAGE = "transformers_tests"
# What test_modeling_common and test_configuration_common import beside themselves. A source distribution lacks it;
# it is for models that generate text, for exporters, and one table of values.
ABSENT = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {"config_common_kwargs": {"output_hidden_states": True, "dtype": "float16"}},
}


def source_folder() -> Path:
    """Where the sources of the installed version are looked for."""
    named = os.environ.get("TRANSFORMERS_SOURCE")
    return Path(named) if named else ROOT / "build" / f"transformers-{transformers.__version__}"


def fetch() -> Path:
    """Downloads the source distribution of the installed version, unless it is there."""
    folder = source_folder()
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        wanted = f"transformers=={transformers.__version__}"
        options = ["--quiet", "--no-binary", ":all:", "--no-deps", "--dest", str(folder.parent)]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, wanted], check=True)
        archive = folder.parent / f"{folder.name}.tar.gz"
        with tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 and 3.10.12 has none
            tests = [member for member in tar if member.name.startswith(f"{folder.name}/tests/")]
            tar.extractall(folder.parent, members=tests)
        archive.unlink()
    return folder


def load(name: str) -> types.ModuleType:
    """A module of transformers' tests.

    Raises:
        `FileNotFoundError`: where their sources are not at hand.
        `ModuleNotFoundError`: where what they need is not installed.
    """
    tests = source_folder() / "tests"
    if not (tests / f"{name}.py").is_file():
        raise FileNotFoundError(f"{tests / name}.py is absent: `python -m tests.peer.suites` fetches it")
    (tests / "__init__.py").touch()  # a source distribution leaves it out, and test_configuration_common reads it
    if PACKAGE not in sys.modules:
        _add_package(PACKAGE, tests)
        for path, values in ABSENT.items():
            folder, _, module = path.partition(".")
            if not (tests / folder / f"{module}.py").is_file():
                _add_package(f"{PACKAGE}.{folder}", tests / folder)
                stub = types.ModuleType(f"{PACKAGE}.{path}")
                vars(stub).update(values)
                sys.modules[stub.__name__] = stub
    return importlib.import_module(f"{PACKAGE}.{name}")


def _add_package(name: str, folder: Path) -> None:
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


if __name__ == "__main__":
    print(fetch())
