"""Docstrings for the reference: the form of transformers, as mkdocstrings reads it.

There `name (`int`, *optional*, defaults to 16): text` says what the signature says too, and [`TaiDptModel`] is a link.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

PACKAGE = "modeling_taidpt"
ARGUMENT = re.compile(r"^(\s+)((?:\*{0,2}\w+, )*\*{0,2}\w+) \([^\n]*?\):", re.MULTILINE)
RESULT = re.compile(r"^(\s+)\[?`~?([^`\n]+)`\]?: ", re.MULTILINE)
LINK = re.compile(r"\[`(~?)([\w.]+)`\]")


class HouseStyle(griffe.Extension):
    """Rewrites docstrings of the package when they are loaded."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """All modules of the package are known: rewrite their docstrings, link the names that are public."""
        if pkg.name != PACKAGE:
            return
        pkg.set_member("pipelines", loader.load("pipelines"))  # lives beside the package, is installed inside it
        self._rewrite(pkg, pkg)

    def _rewrite(self, thing: griffe.Object, package: griffe.Module) -> None:
        if thing.docstring is not None:
            text = RESULT.sub(r"\1\2: ", ARGUMENT.sub(r"\1\2:", thing.docstring.value))
            thing.docstring.value = LINK.sub(lambda match: _link(match, package), text)
        for member in thing.members.values():
            if not member.is_alias:
                self._rewrite(member, package)


def _link(match: re.Match[str], package: griffe.Module) -> str:
    """`[`X`]` as a link where the reference has X, or the method X.m of a class; else its name alone."""
    short, path = match.groups()
    shown = path.rpartition(".")[2] if short else path
    name, _, member = path.partition(".")
    for place in (package, *(folder for folder in package.modules.values() if folder.is_init_module)):
        if name in {str(entry) for entry in place.exports or ()} and name in place.members:
            if not member or member in place[name].all_members:
                return f"[`{shown}`][{place.path}.{path}]"
            break
    return f"`{shown}`"
