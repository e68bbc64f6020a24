"""taidpt: tag images with your own labels, learned from captions alone (TaI-DPT, native to transformers).

Importing the package registers its configuration, models and pipeline with transformers. The public names stand in
`api.py`; the command `taidpt` alone loads them when it first needs one, so that it answers at once.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"

DEFAULT_CHECKPOINT = str(Path(__file__).parent / "assets" / "taidpt-coco80")


def _is_command() -> bool:
    """Whether this process is the console script `taidpt`."""
    script = Path(next(iter(getattr(sys, "argv", [])), ""))
    return script.stem == "taidpt" and script.suffix in ("", ".exe")


if TYPE_CHECKING or not _is_command():
    from .api import *  # noqa: F403
    from .api import __all__ as __all__
else:

    def __getattr__(name: str) -> object:
        """Load the public names when one of them is first asked for; modules of the package load alone."""
        import importlib.util

        if importlib.util.find_spec(f"{__name__}.{name}") is not None:
            return importlib.import_module(f".{name}", __name__)
        return getattr(importlib.import_module(".api", __name__), name)
