"""The illustrated page of the lab: HTML with embedded figures, which opens offline, and Markdown."""

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from arm_control.lab.common.running import FIGURE, Outcome
from arm_control.runs.files import write_text

STYLE = (
    "body{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em;line-height:1.45}"
    "img{max-width:100%}code{background:#eee;padding:0 .2em}"
)


def write_page(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write `index.html` and `index.md` into the folder that holds the experiments' folders."""
    markdown = [f"# Experiments\n\n{summary(outcomes)}\n"]
    html = [f"<h1>Experiments</h1><p>{escape(summary(outcomes))}</p>"]
    for outcome in outcomes:
        name = outcome.plan.name
        figure = outcome.plan.folder / FIGURE
        picture = base64.b64encode(figure.read_bytes()).decode()
        command = command_of(outcome)
        markdown.append(
            f"## {name}\n\n**Claim.** {plain_markdown(outcome.claim)}\n\n"
            f"**Measured.** {plain_markdown(outcome.verdict.measured)} {conclusion(outcome)} (`{command}`)\n\n"
            f"![{name}]({figure.relative_to(folder)})\n"
        )
        html.append(
            f'<h2 id="{name}">{name}</h2><p><b>Claim.</b> {escape(outcome.claim)}</p>'
            f"<p><b>Measured.</b> {escape(outcome.verdict.measured)} {conclusion(outcome)}</p>"
            f"<p><code>{command}</code></p>"
            f'<img alt="{name}" src="data:image/png;base64,{picture}">'
        )
    write_text(folder / "index.md", "\n".join(markdown))
    head = f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Experiments</title><style>{STYLE}</style>'
    write_text(folder / "index.html", head + "\n".join(html) + "</html>\n")


def plain_markdown(text: str) -> str:
    """Text in which no character is read as Markdown, such as the stars of p* and q*."""
    return re.sub(r"([\\`*_\[\]<>|~$&])", r"\\\1", text)


def summary(outcomes: Sequence[Outcome]) -> str:
    """The number of claims that hold, as a sentence."""
    holding = sum(outcome.verdict.holds for outcome in outcomes)
    return f"{holding} of {len(outcomes)} claims hold as stated."


def conclusion(outcome: Outcome) -> str:
    """The verdict on the claim, as a sentence."""
    return "The claim holds." if outcome.verdict.holds else "The claim does not hold as stated."


def command_of(outcome: Outcome) -> str:
    """The command that measures this again."""
    quick = " --quick" if outcome.plan.quick else ""
    return f"arm-control lab {outcome.plan.name}{quick}"
