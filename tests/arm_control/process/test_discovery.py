"""Commands with variants, such as `train AGENT`, and their summaries in the help."""

import subprocess
import sys

import pytest

import arm_control.bench
from arm_control.cli import main
from arm_control.process.discovery import command_summary, first_sentence, load_command, module_names
from policies.registry import AGENTS


class TestSummary:
    """The first sentence of a docstring."""

    @pytest.mark.parametrize(
        ("docstring", "summary"),
        [
            ("One sentence.", "One sentence."),
            ("Stop. Continue with 'resume'.\n\nMore.", "Stop."),
            ("By a method (Mnih et al. 2016): it works.", "By a method (Mnih et al. 2016): it works."),
            (None, ""),
        ],
    )
    def test_a_summary_is_the_first_sentence_of_the_first_line(self, docstring: str | None, summary: str) -> None:
        """Later sentences and paragraphs are left out; the full stop of "et al." ends no sentence."""
        assert first_sentence(docstring) == summary

    @pytest.mark.parametrize("name", module_names(arm_control.bench))
    def test_a_summary_read_from_the_source_equals_that_of_the_loaded_command(self, name: str) -> None:
        """Reading the source without importing it finds the dataclass that `run` takes."""
        assert command_summary(arm_control.bench, name) == load_command(arm_control.bench, name).summary


class TestHelp:
    """`arm-control bench --help` and `arm-control train --help`."""

    @pytest.mark.parametrize(
        ("command", "names"), [("bench", module_names(arm_control.bench)), ("train", list(AGENTS))]
    )
    def test_each_variant_has_a_line_with_its_summary(
        self, command: str, names: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Each line is a name and a sentence."""
        assert main([command, "--help"]) == 0
        listed = {}
        for line in capsys.readouterr().out.splitlines():
            if line.startswith("  "):
                name, summary = line.split(maxsplit=1)
                listed[name] = summary
        assert list(listed) == names
        assert all(summary.endswith(".") for summary in listed.values())

    @pytest.mark.parametrize("command", ["bench", "train"])
    def test_help_does_not_import_pytorch(self, command: str) -> None:
        """Summaries are read without importing the benches and learners, which load it."""
        code = f"import sys; from arm_control.cli import main; main(['{command}', '-h']); print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False"
