"""The saved page: one file that works from disk without a network."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from browser import browsing, chromium, green, picture
from playwright.sync_api import Browser

from arm_control.evaluation.opening import open_controller
from arm_control.viewers.common.live import roll_out
from arm_control.viewers.common.trajectory import TicksInMemory, Trajectory
from arm_control.viewers.page.html import LONGEST_S, save_page, shown_part


@pytest.fixture(scope="module")
def trajectories() -> list[Trajectory]:
    return [roll_out(open_controller(name, 0), 2, 0) for name in ("ik", "zero")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


class TestSavePage:
    """The page in one file."""

    @pytest.mark.slow
    def test_it_works_from_disk_without_a_network(
        self, browser: Browser, trajectories: list[Trajectory], tmp_path: Path
    ) -> None:
        """The picture changes with time, and nothing is requested from elsewhere."""
        path = tmp_path / "page.html"
        save_page(trajectories[:1], path)
        assert path.stat().st_size < 3_000_000
        requests: list[str] = []
        with browsing(browser, offline=True) as (page, errors):
            page.on("request", lambda request: requests.append(request.url))
            page.goto(path.as_uri())
            scene = page.frame_locator("iframe")
            scene.locator("canvas").first.wait_for()
            scene.locator(".mantine-Notification-closeButton").first.click()  # that there is no graphics card
            shots = []
            end = time.monotonic() + 90
            while len(shots) < 12 and time.monotonic() < end:
                shot = picture(page, 50, 1230)
                if green(shot).sum() > 50:
                    shots.append(shot)
                time.sleep(0.4)
            apart = [(np.abs(shot - shots[0]).max(axis=-1) > 40).mean() for shot in shots]
            assert max(apart) > 0.002  # it plays by itself
            text = page.inner_text("body")
            assert "goal 2 of 2" in text
            assert page.locator("body > svg").count() == 1
            assert errors == []
        assert [url for url in requests if not url.startswith(("file:", "data:", "blob:", "about:"))] == []

    def test_the_table_has_the_error_of_each_goal(self, trajectories: list[Trajectory], tmp_path: Path) -> None:
        """The page itself refers to no other file."""
        path = tmp_path / "both.html"
        save_page(trajectories, path)
        text = path.read_text()
        assert "<title>ik and zero</title>" in text
        rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td></tr>", text)
        assert [row[0] for row in rows] == ["goal 1 of 2", "goal 2 of 2"]
        for (_, *errors), episode in zip(rows, trajectories[0].episodes, strict=True):
            for error, trajectory in zip(errors, trajectories, strict=True):
                last = trajectory.sample(episode.end_s - trajectory.period_s)
                assert float(error) == pytest.approx(last.error_mm[0], abs=0.051)
        outer = re.sub(r'srcdoc=".*?"', "", text, flags=re.DOTALL)
        assert re.findall(r"(?:src|href)=\"(?!#)[^\"]*", outer) == []
        assert [file.name for file in tmp_path.iterdir()] == ["both.html"]

    def test_a_missing_folder_is_an_error(self, trajectories: list[Trajectory], tmp_path: Path) -> None:
        """A ValueError names the folder."""
        with pytest.raises(ValueError, match="there is no folder"):
            save_page(trajectories, tmp_path / "missing" / "x.html")

    @pytest.mark.parametrize(
        ("length_s", "opens_at_s", "part"),
        [
            (10.0, 0.0, (0.0, 10.0)),
            (3600.0, 0.0, (0.0, LONGEST_S)),
            (3600.0, 1000.0, (1000.0 - LONGEST_S / 2, 1000.0 + LONGEST_S / 2)),
            (3600.0, 3599.0, (3600.0 - LONGEST_S, 3600.0)),
        ],
    )
    def test_a_long_recording_is_cut_around_its_opening_time(
        self, trajectories: list[Trajectory], length_s: float, opens_at_s: float, part: tuple[float, float]
    ) -> None:
        """To `LONGEST_S`, within both ends of the recording."""
        first, last = trajectories[0]._ticks.ticks(0.0, 0.1)[0], trajectories[0]._ticks.ticks(0.0, 0.1)[-1]
        ticks = TicksInMemory([first, msgspec.structs.replace(last, time_s=first.time_s + length_s)])
        trajectory = Trajectory("long", trajectories[0].arm, 0.01, ticks, opens_at_s=opens_at_s)
        assert shown_part([trajectory]) == pytest.approx(part)
