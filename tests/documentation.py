"""The commands and programs that the README and the docs print, and the short form in which tests run them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from locations import ROOT

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAM = "arm-control "

# How a command starts, the text to replace in it (a regular expression), and its replacement.
# `test_documentation.py` fails if an entry applies to no command, or if a command stays long.
SHORTER = [
    ("train", r"--minutes \S+", "--steps 400"),
    ("train", r"--steps \d{4,}", "--steps 400"),
    ("evaluate", r"--goals \d{3,}", "--goals 3"),
    ("evaluate", r"^(?!.* --goals ).*", r"\g<0> --goals 3"),
    ("compare", r"--(minutes|steps) \S+", "--steps 400"),
    ("compare", r"--seeds [2-9]", "--seeds 1 --no-intervals"),
    ("compare", r"--goals \d{2,}", "--goals 3"),
    # What other comparisons of the pages have as well.
    ("compare", r"^compare ddpg (?=branching)", "compare "),
    ("compare", r" reinforce 'reinforce --baseline none' sb3-ddpg sb3-td3 ", " sb3-ddpg "),
    ("compare", r" dqn ", " 'dqn --grid-step-deg 30' "),
    ("run", r"--random \d{2,}", "--random 3"),
    ("run", r"--random 5 ", "--random 2 "),
    ("run", r"^run (?!\S+\.mcap)(?!.*--pace fast).*", r"\g<0> --seconds-per-goal 1"),
    ("replay", r"^(?!.*(\.mcap|--goals)).*\.mp4$", r"\g<0> --goals 1"),
    ("replay", r"--goals 2 (?=.*\.mp4)", "--goals 1 "),
    ("bench argmax", r"$", " --grid-step-deg 30 --rounds 1"),
    ("bench delay", r"--goals \d{3,}", "--goals 2"),
    ("bench grid", r"$", " --goals 100"),
    ("bench ablation", r"$", " --minutes 0.01 --seeds 1 --goals 2 --grid-step-deg 30"),
    ("bench runner", r"$", " --seconds 1 --rounds 1"),
    ("bench simulation", r"$", " --seconds 0.02 --rounds 1"),
    ("bench viewer", r"$", " --seconds 1"),
    ("lab corridor", r"$", " --quick"),
]
# The same for the Python programs.
SHORTER_PYTHON = [
    (r"steps=[\d_]+", "steps=400"),
    (r"goals=\d{3,}", "goals=3"),
]


def blocks(page: Path, language: str) -> list[str]:
    """The text of the page's fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def saved_files(page: Path) -> dict[str, str]:
    """The files that a reader of the page saves, by path: blocks after "Save this as `PATH` ...:"."""
    return dict(re.findall(r"[Ss]ave this as\s`([^`]+)`[^:]*:\n\n```\w+\n(.*?)```", page.read_text(), re.DOTALL))


def write_saved_files(page: Path, folder: Path) -> None:
    """Write the files that a reader of the page saves, below a folder."""
    for name, text in saved_files(page).items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def exercises(page: Path) -> list[tuple[str, str, str]]:
    """The file, the line and its replacement of each exercise: "In `FILE`, change `LINE` to `LINE`"."""
    text = " ".join(page.read_text().split())
    return re.findall(r"In `([\w/]+\.py)`, change `([^`]+)` to `([^`]+)`", text)


def adds_code(page: Path) -> bool:
    """Return True if the page adds a task, an agent or a driver, without which its commands are not valid."""
    return any(name.endswith((".py", ".toml")) for name in saved_files(page))


def programs(page: Path) -> list[str]:
    """The page's Python programs: its Python blocks except files to be saved."""
    saved = saved_files(page).values()
    return [program for program in blocks(page, "python") if program not in saved]


def commands(page: Path) -> list[str]:
    """The arguments of `arm-control` in the page's shell blocks, one string a command, without comments."""
    return [words_of(line) for block in blocks(page, "sh") for line in block.splitlines() if line.startswith(PROGRAM)]


def mentioned_commands(page: Path) -> Iterator[str]:
    """Commands in indented blocks and in the text, except bare names and those with placeholders."""
    text = page.read_text()
    for line in re.findall(rf"^    {PROGRAM}(.*)$|`{PROGRAM}([^`]*)`", text, re.MULTILINE):
        command = words_of(PROGRAM + "".join(line))
        if " " in command and not re.search(r"\.\.\.|\b[A-Z]+\b|seedS", command):
            yield command


def words_of(line: str) -> str:
    """A command line without the program's name, its comment and its doubled blanks."""
    return shlex.join(shlex.split(line.removeprefix(PROGRAM), comments=True))


def shortened(command: str) -> str:
    """The command at a tiny size."""
    for start, pattern, replacement in SHORTER:
        if command.startswith(start + " ") or command == start:
            command = re.sub(pattern, replacement, command, count=1)
    return command


def shortened_python(program: str) -> str:
    """The program at a tiny size."""
    for pattern, replacement in SHORTER_PYTHON:
        program = re.sub(pattern, replacement, program)
    return program
