"""The page of the lab: it opens offline, and says the same in HTML and Markdown."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from arm_control.lab.common.experiment import Verdict
from arm_control.lab.common.page import write_page
from arm_control.lab.common.running import FIGURE, Outcome, Plan

PNG = b"\x89PNG\r\n\x1a\n"
MEASURED = "At p* and q* the share is <1 & >0 [exact: 1_000_000 | `x`], ~~5~~ % of $1."


class Page(HTMLParser):
    """The text of a page, its open elements, and what it loads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.loaded: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what is loaded from elsewhere, and where."""
        for name, value in attrs:
            if name in ("src", "href"):
                self.loaded.append(value or "")

    def handle_data(self, data: str) -> None:
        """Collect the text."""
        self.text += data


def outcomes(folder: Path) -> list[Outcome]:
    """One claim that holds, and one that does not, of a quick run."""
    made = []
    for name, holds, quick in (("corridor", True, False), ("grid", False, True)):
        plan = Plan(name, None, 2, quick, folder / (f"{name}-quick" if quick else name))
        plan.folder.mkdir()
        (plan.folder / FIGURE).write_bytes(PNG + name.encode())
        made.append(Outcome(plan, f"The claim of {name}: 1 < 2 & p* = q*.", Verdict(holds, MEASURED), 1.0))
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the page in both forms."""
    write_page(outcomes(tmp_path), tmp_path)
    return tmp_path


class TestHtml:
    """index.html"""

    def test_opens_offline(self, folder: Path) -> None:
        """Figures are embedded, and nothing is loaded from anywhere."""
        html = (folder / "index.html").read_text(encoding="utf-8")
        page = Page(html)
        assert len(page.loaded) == 2
        assert all(address.startswith("data:image/png;base64,") for address in page.loaded)
        assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link", html)

    def test_has_the_claims_and_what_was_measured(self, folder: Path) -> None:
        """Characters of HTML are escaped."""
        text = Page((folder / "index.html").read_text(encoding="utf-8")).text
        assert "1 of 2 claims hold as stated." in text
        assert text.count(MEASURED) == 2
        assert "The claim of corridor: 1 < 2 & p* = q*." in text
        assert "arm-control lab grid --quick" in text
        assert "The claim does not hold as stated." in text


class TestMarkdown:
    """index.md"""

    def test_is_rendered_as_the_same_text(self, folder: Path) -> None:
        """No star, bracket or dollar of a sentence is read as Markdown."""
        rendered = MarkdownIt("commonmark").enable(["strikethrough", "table"]).render((folder / "index.md").read_text())
        page = Page(rendered)
        assert page.text.count(MEASURED) == 2
        assert "The claim of corridor: 1 < 2 & p* = q*." in page.text
        assert rendered.count("<h2>") == 2
        assert "<em>" not in rendered

    def test_shows_the_figures_beside_it(self, folder: Path) -> None:
        """Addresses are relative to the page."""
        page = Page(MarkdownIt("commonmark").render((folder / "index.md").read_text()))
        assert page.loaded == ["corridor/figure.png", "grid-quick/figure.png"]
        for address in page.loaded:
            assert (folder / address).exists()
