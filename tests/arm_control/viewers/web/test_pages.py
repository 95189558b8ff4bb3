"""The web viewer in a real browser: timeline, dragged goals, plots and live control."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pytest
import viser
from browser import HEIGHT, WIDTH, browsing, chromium, green, picture
from helpers import wait_until
from playwright.sync_api import Browser
from playwright.sync_api import Page as BrowserPage
from served import Served

from arm_control.evaluation.opening import open_controller
from arm_control.recording.schema import Event
from arm_control.viewers.common.live import LiveArm, roll_out
from arm_control.viewers.common.stage import serving
from arm_control.viewers.common.trajectory import Segment, TicksInMemory, Trajectory
from arm_control.viewers.web.live_page import LivePage
from arm_control.viewers.web.page import Page
from arm_control.viewers.web.pages import check_port
from arm_control.viewers.web.panel import rounded
from arm_control.viewers.web.played_page import PlayedPage

pytestmark = pytest.mark.slow


@contextmanager
def watched(browser: Browser, make: Callable[[Any], Page]) -> Iterator[tuple[Served, BrowserPage]]:
    served = Served(make)
    try:
        with browsing(browser) as (page, errors):
            page.goto(served.url)
            page.wait_for_selector("canvas")
            page.locator(".mantine-Notification-closeButton").first.click()  # that there is no graphics card
            wait_until(lambda: green(picture(page)).sum() > 50, poll_s=0.1)
            yield served, page
            assert errors == []
    finally:
        served.close()


def settled(browser: BrowserPage) -> Any:
    """The picture once it no longer changes."""
    before = picture(browser)
    while True:
        time.sleep(0.7)
        now = picture(browser)
        if (np.abs(now - before).max(axis=-1) > 40).mean() < 0.0002:
            return now
        before = now


def apart(first: Any, second: Any) -> float:
    """The fraction of pixels that differ."""
    return float((np.abs(first - second).max(axis=-1) > 40).mean())


def marked(columns: Segment, mark: Any) -> dict[float, float]:
    """The marks of the timeline by their times."""
    return {
        round(time_s, 9): value
        for time_s, value in zip(columns.time_s.tolist(), mark.tolist(), strict=True)
        if value == value
    }


def press(browser: BrowserPage, name: str) -> None:
    browser.get_by_role("button", name=name, exact=True).click()


def fill(browser: BrowserPage, label: str, value: float) -> None:
    """Type a value beside a slider."""
    row = browser.locator("label", has_text=label).locator("xpath=ancestor::*[.//input][1]")
    box = row.locator("input[type=text], input[inputmode]").last
    box.fill(str(value))
    box.press("Enter")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def trajectory() -> Trajectory:
    return roll_out(open_controller("ik", 0), 3, 0)


@pytest.fixture(scope="module")
def played(browser: Browser, trajectory: Trajectory) -> Iterator[tuple[Served, BrowserPage]]:
    with watched(browser, lambda server: PlayedPage(server, [trajectory])) as both:
        yield both


def seek(played: tuple[Served, BrowserPage], position_s: float) -> Any:
    """Pause at a time; returns the picture."""
    served, browser = played
    served.ask(lambda page: (page.playback.pause(), page.playback.seek(position_s)))
    time.sleep(0.5)
    return settled(browser)


def pixel(camera: viser.CameraHandle, point: tuple[float, float, float]) -> tuple[float, float]:
    """The pixel of a point, for a pinhole camera that looks along its z axis, with y downwards."""
    w, x, y, z = camera.wxyz
    right = (1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y))
    down = (2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x))
    ahead = (2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y))
    from_camera = np.array(point) - camera.position
    scale = HEIGHT / 2 / np.tan(camera.fov / 2) / (ahead @ from_camera)
    return WIDTH / 2 + scale * (right @ from_camera), HEIGHT / 2 + scale * (down @ from_camera)


class TestLivePage:
    """A page with a live arm."""

    def test_the_arm_follows_a_dragged_goal(self, browser: Browser) -> None:
        """Its error is below 2 mm after the handle was dragged by 0.1 m."""
        live = LiveArm(open_controller("ik", 0), 0)
        try:
            with watched(browser, lambda server: LivePage(server, live)) as (served, page):
                press(page, "Pause")
                wait_until(lambda: not served.ask(lambda it: it.playback.playing))
                time.sleep(1.0)
                before = served.ask(lambda it: it.live.now())
                (x, y, z), camera = before.goal_m, next(iter(served.page.server.get_clients().values())).camera
                down_m = 0.1 if z > 0.25 else -0.1
                arrow_m = z + 0.07  # the handle's arrow upwards
                page.mouse.move(*pixel(camera, (x, y, arrow_m)))
                time.sleep(0.5)
                page.mouse.down()
                page.mouse.move(*pixel(camera, (x, y, arrow_m - down_m)), steps=12)
                page.mouse.up()
                wait_until(lambda: served.ask(lambda it: it.live.held))
                settled(page)
                moved = served.ask(lambda it: it.live.now()).goal_m
                assert moved == pytest.approx(live.arm.nearest_reachable((x, y, z - down_m)), abs=0.01)
                assert served.ask(lambda it: it.handle.position) == pytest.approx(moved, abs=1e-6)
                press(page, "Play")
                wait_until(lambda: served.ask(lambda it: it.live.recent(0.0).error_mm[0]) < 2.0)
                followed = served.ask(lambda it: it.live.now())
                assert np.abs(np.subtract(followed.target_deg, before.angle_deg)).max() > 1.0
                assert followed.goal_m == moved
                press(page, "Next goal")
                wait_until(lambda: not served.ask(lambda it: it.live.held))
        finally:
            live.close()

    def test_a_live_arm_is_paused_stepped_and_moved_by_hand(self, browser: Browser) -> None:
        """Buttons pause and step it; a slider sets the angle of a joint."""
        live = LiveArm(open_controller("ik", 0), 0)
        try:
            with watched(browser, lambda server: LivePage(server, live)) as (served, page):
                press(page, "Pause")
                wait_until(lambda: not served.ask(lambda it: it.playback.playing))
                stood = served.ask(lambda it: it.live.time_s)
                time.sleep(0.5)
                assert served.ask(lambda it: it.live.time_s) == stood
                press(page, "forward")
                wait_until(lambda: served.ask(lambda it: it.live.time_s) == pytest.approx(stood + live.period_s))
                press(page, "Play")
                page.get_by_text("By hand").click()
                page.locator("input[type=checkbox]").last.check()
                wait_until(lambda: served.ask(lambda it: it.live.manual_deg) is not None)
                fill(page, "shoulder", 60.0)
                wait_until(
                    lambda: served.ask(lambda it: it.live.recent(0.0)).angle_deg[0][1] == pytest.approx(60, abs=1)
                )
        finally:
            live.close()


class TestPlayedPage:
    """A page that plays trajectories."""

    def test_the_timeline_changes_the_picture(self, played: tuple[Served, BrowserPage]) -> None:
        """The same time gives the same picture again."""
        served, browser = played
        first, later = seek(played, 0.2), seek(played, 1.9)
        assert apart(first, later) > 0.003
        fill(browser, "Time (s)", 0.2)
        wait_until(lambda: served.ask(lambda page: page.playback.position_s) == pytest.approx(0.2))
        assert apart(settled(browser), first) < 0.2 * apart(first, later)

    def test_play_pause_step_and_speed(self, played: tuple[Served, BrowserPage]) -> None:
        """Positions follow the chosen speed."""
        served, browser = played
        seek(played, 1.0)
        wait_until(lambda: browser.get_by_role("button", name="Play", exact=True).count() == 1)
        press(browser, "forward")
        wait_until(lambda: served.ask(lambda page: page.playback.position_s) == pytest.approx(1.0 + 1 / 30))
        press(browser, "back")
        press(browser, "back")
        wait_until(lambda: served.ask(lambda page: page.playback.position_s) == pytest.approx(1.0 - 1 / 30))
        fill(browser, "Speed", 0.5)
        wait_until(lambda: served.ask(lambda page: page.playback.speed) == 0.5)
        press(browser, "Play")
        wait_until(lambda: served.ask(lambda page: page.playback.position_s) > 1.2)
        press(browser, "Pause")
        wait_until(lambda: not served.ask(lambda page: page.playback.playing))

    def test_choosing_an_episode_jumps_to_it(self, played: tuple[Served, BrowserPage], trajectory: Trajectory) -> None:
        """The position becomes the start of the episode."""
        served, browser = played
        seek(played, 0.0)
        browser.locator("input[value^='goal 1 of 3']").first.click()
        browser.get_by_text("goal 3 of 3, ", exact=False).last.click()
        wait_until(
            lambda: served.ask(lambda page: page.playback.position_s) == pytest.approx(trajectory.episodes[2].start_s)
        )
        wait_until(lambda: "goal 3 of 3" in browser.inner_text("body"))

    def test_the_plots_hold_the_columns_of_the_trajectory(
        self, played: tuple[Served, BrowserPage], trajectory: Trajectory
    ) -> None:
        """Errors, rewards, measured and commanded angles, with a mark at the present time."""
        served, browser = played
        seek(played, 3.0)
        now, columns = trajectory.sample(3.0), trajectory.segment(0.0, trajectory.length_s)
        wait_until(lambda: marked(columns, served.ask(lambda page: page.error.data[-1])) == {3.0: now.error_mm[0]})
        error, reward, angles = served.ask(
            lambda page: (page.error.data, page.reward.data, [it.data for it in page.angles])
        )
        np.testing.assert_array_equal(error[0], columns.time_s)
        np.testing.assert_array_equal(error[1], columns.error_mm)
        np.testing.assert_array_equal(reward[1], columns.reward)
        for joint, (_, measured, commanded, mark) in enumerate(angles):
            assert marked(columns, mark) == {3.0: now.angle_deg[0][joint]}
            np.testing.assert_array_equal(measured, columns.angle_deg[:, joint])
            np.testing.assert_array_equal(commanded, columns.target_deg[:, joint])
        assert f"{now.error_mm[0]:.1f} mm" in browser.inner_text("body")
        drawn = browser.locator("canvas").all()
        assert len(drawn) >= 3  # the scene, and plots
        inside = browser.evaluate(
            "() => [...document.querySelectorAll('.uplot canvas')].map(c => {"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;"
            "for (let i = 0; i < d.length; i += 4) if (d[i + 3] && d[i + 2] > d[i] + 80) n++; return n; })"
        )
        assert len(inside) == 2 + trajectory.arm.joint_count
        assert min(inside) > 50  # blue lines

    def test_plots_show_ten_seconds_and_the_events(self, browser: Browser, trajectory: Trajectory) -> None:
        """The plots of a long trajectory show the time around the current position."""
        ticks = trajectory._ticks.ticks(0.0, 5.0)
        late = [msgspec.structs.replace(tick, time_s=tick.time_s + 20.0) for tick in ticks[1:]]
        events = [Event(21.0, "refusal", "joint <1> is too fast"), Event(21.5, "driver", "torque off")]
        long = Trajectory(
            "a & b", trajectory.arm, trajectory.period_s, TicksInMemory([*ticks, *late]), events=events, opens_at_s=22.0
        )
        with watched(browser, lambda server: PlayedPage(server, [long])) as (served, page):
            wait_until(lambda: "STOPPED. joint <1> is too fast" in page.inner_text("body"))
            assert "driver at 21.50 s: torque off" in page.inner_text("body")
            assert "a & b: error" in page.inner_text("body")
            assert not served.ask(lambda page: page.playback.playing)
            times, measured = served.ask(lambda page: page.angles[0].data[:2])
            shown = long.segment(14.5, 24.5)
            np.testing.assert_array_equal(times, shown.time_s)
            np.testing.assert_array_equal(measured, shown.angle_deg[:, 0])

    def test_play_at_the_end_starts_again(self, played: tuple[Served, BrowserPage], trajectory: Trajectory) -> None:
        """Playback restarts from the start of the trajectory."""
        served, browser = played
        seek(played, trajectory.length_s)
        press(browser, "Play")
        wait_until(lambda: 0.0 < served.ask(lambda page: page.playback.position_s) < trajectory.length_s)

    def test_two_trajectories_are_overlaid(self, browser: Browser, trajectory: Trajectory) -> None:
        """Both arms, their curves and their numbers are shown."""
        other = roll_out(open_controller("zero", 0), 3, 0)
        with watched(browser, lambda server: PlayedPage(server, [trajectory, other])) as both:
            served, page = both
            shot = seek(both, 1.5)
            alone = len(served.ask(lambda page: page.angles[0].data))
            assert alone == 1 + 2 * 2 + 1  # times, measured and commanded of both, now
            np.testing.assert_allclose(served.ask(lambda page: page.error.data[2]), other.segment(0.0, 5.0).error_mm)
            red, middle, blue = np.moveaxis(shot, -1, 0)
            assert ((red > middle + 60) & (red > blue + 90)).sum() > 300  # orange
            text = page.inner_text("body")
            assert "ik: error" in text
            assert "zero: error" in text

    def test_playback_waits_for_a_browser(self, trajectory: Trajectory) -> None:
        """Nothing is drawn, and the position stays near the start."""
        served = Served(lambda server: PlayedPage(server, [trajectory]))
        try:
            drawn: list[float] = []
            served.ask(lambda page: setattr(page, "draw", drawn.append))
            time.sleep(0.5)
            assert served.ask(lambda page: (page.playback.playing, page.playback.position_s < 0.4)) == (True, True)
            assert drawn == []
        finally:
            served.close()

    def test_error_plots_skip_rows_without_a_goal(self, trajectory: Trajectory) -> None:
        """Plots of the angles include them."""
        ticks = [msgspec.structs.replace(tick, goal_m=None) for tick in trajectory._ticks.ticks(0.0, 0.99)]
        begins = Trajectory(
            "ik", trajectory.arm, trajectory.period_s, TicksInMemory([*ticks, *trajectory._ticks.ticks(1.0, 5.0)])
        )
        with serving("127.0.0.1", 8300) as server:
            page = PlayedPage(server, [begins])
            page.write(2.0)
            with_goal = trajectory.segment(1.0, trajectory.length_s)
            np.testing.assert_array_equal(page.error.data[0], with_goal.time_s)
            np.testing.assert_array_equal(page.error.data[1], with_goal.error_mm)
            np.testing.assert_array_equal(page.angles[2].data[1], trajectory.segment(0.0, 5.0).angle_deg[:, 2])


class TestServe:
    """Ports and values."""

    def test_a_port_in_use_is_an_error(self) -> None:
        """So is an address of another machine."""
        with serving("127.0.0.1", 8300) as server:
            port = server.get_port()
            with pytest.raises(OSError, match=f"port {port} is in use: choose another with --port"):
                check_port("127.0.0.1", port)
        with pytest.raises(OSError, match=r"port 8300 cannot be opened on 192\.0\.2\.1"):
            check_port("192.0.2.1", 8300)

    @pytest.mark.parametrize(("time_s", "shown"), [(0.0, 0.0), (1.0 / 3.0, 0.33), (14.066666, 14.06), (0.29, 0.29)])
    def test_slider_times_are_rounded_down_to_hundredths(self, time_s: float, shown: float) -> None:
        """Rounding up would be beyond the end."""
        assert rounded(time_s) == shown
