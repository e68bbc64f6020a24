"""The code blocks of README and docs: where they are, whether they are run, what their commands are.

A block is run unless the line before it says why not, as `<!-- not run: needs COCO -->`. On a page whose commands all
need what is not at hand, one line anywhere says so for its bash blocks: `<!-- commands not run: need COCO -->`.

A block of the language `text` right after one that is run is what that one prints. `TAIDPT_UPDATE_OUTPUTS=1 python -m
pytest -m "slow or not slow" tests/docs` writes them again.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^(?:<!-- not run: (.+?) -->\n)?^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGE_REASON = re.compile(r"^<!-- commands not run: (.+?) -->$", re.MULTILINE)
ASSIGNMENT = re.compile(r"\w+=\S*")


@dataclass(frozen=True)
class Block:
    """One block: its page, the number of its first line, its language and code, why it is not run, what it prints."""

    page: Path
    line: int
    language: str
    code: str
    reason: str | None
    output: str | None = None

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The words of every command of a bash block, without comments and settings of the environment."""
        commands = []
        for line in self.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while "&&" in words:
                index = words.index("&&")
                commands.append(words[:index])
                words = words[index + 1 :]
            commands.append(words)
        for words in commands:
            while words and ASSIGNMENT.fullmatch(words[0]):
                del words[0]
        return [words for words in commands if words]


def read_blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    of_page = PAGE_REASON.search(text)
    matches = list(FENCE.finditer(text))
    blocks = []
    for match, following in zip_longest(matches, matches[1:]):
        reason, language, code = match.groups()
        if reason is None and language == "bash" and of_page:
            reason = of_page[1]
        shown = following is not None and following[2] == "text" and not text[match.end() : following.start()].strip()
        line = text[: match.start(3)].count("\n") + 1
        blocks.append(Block(page, line, language, code, reason, following[3] if shown else None))
    return blocks


def write_outputs(page: Path, outputs: dict[int, str]) -> None:
    """Writes what blocks printed, by the number of their first line, into the text blocks after them."""
    text = page.read_text(encoding="utf-8")
    matches = list(FENCE.finditer(text))
    for match, following in reversed(list(pairwise(matches))):
        printed = outputs.get(text[: match.start(3)].count("\n") + 1)
        if printed is not None:
            text = text[: following.start(3)] + printed.rstrip() + "\n" + text[following.end(3) :]
    page.write_text(text, encoding="utf-8")
