"""Messages of a run about its recording."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from recordings import durations

from arm_control.recording.reading import read_recording
from arm_control.recording.recorder import Recorder
from arm_control.recording.schema import Event, Tick
from arm_control.runner.run_recorder import close_recorder


class TestRecorded:
    """The message about a run's recording."""

    @pytest.mark.parametrize(("ticks", "message"), [(0, "no tick was recorded"), (1, "recorded")])
    def test_a_recording_without_ticks_is_reported_as_such(self, ticks: int, message: str, tmp_path: Path) -> None:
        """The file exists, but holds nothing to replay."""
        recorder = Recorder(tmp_path / "run.mcap", {})
        for _ in range(ticks):
            recorder.tick(Tick(time_s=1.0, phase="run", band="pass", **durations(1.0)))
        recorder.event(Event(2.0, "end", "parked"))
        lines: list[str] = []
        console: Any = SimpleNamespace(err=lines.append)
        close_recorder(recorder, console)
        assert lines == [f"{message}: {tmp_path / 'run.mcap'}"]
        assert len(read_recording(tmp_path / "run.mcap").ticks) == ticks
