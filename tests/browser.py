"""A real browser for tests of pages: headless Chromium of the system through playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMIUM_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def open_browser(**context: Any) -> Iterator[tuple[Any, list[str], list[str]]]:
    """A tab of Chromium, the addresses that it asks for, and the errors that its page raises.

    Args:
        **context: Arguments of playwright's `new_context`; a viewport of 1280 by 1000 pixels by default.
    """
    if CHROMIUM is None:
        pytest.skip("needs Chromium: install the system's package `chromium`")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra [dev]")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        tab = browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **context}).new_page()
        tab.set_default_timeout(60_000)
        requests: list[str] = []
        errors: list[str] = []
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        yield tab, requests, errors
        browser.close()
