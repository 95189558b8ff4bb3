"""A headless browser, and screenshots of its pages."""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from arm_control.bench.viewer import BROWSERS

WIDTH, HEIGHT = 1280, 800


@contextmanager
def chromium(*options: str) -> Iterator[Browser]:
    """A browser. Without one on this machine the test is skipped, but not in CI."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None and not os.environ.get("CI"):
        pytest.skip(f"requires a browser: one of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *options])
        yield browser
        browser.close()


@contextmanager
def browsing(browser: Browser, **options: Any) -> Iterator[tuple[Page, list[str]]]:
    """A page, and the errors that it raises."""
    with browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, **options) as context:
        page = context.new_page()
        page.set_default_timeout(60_000)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page, errors


def picture(page: Page, left: int = 0, right: int = 930) -> NDArray[np.int64]:
    """The pixels of the page's left part, (height, width, 3): the scene without the panel beside it."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return np.asarray(shot).astype(int)[:, left:right]


def green(shot: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The pixels of the goal: predominantly green."""
    red, green, blue = np.moveaxis(shot, -1, 0)
    return (green > red + 40) & (green > blue + 20)
