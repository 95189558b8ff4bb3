"""The clock of playback: position, speed, steps and updates."""

from typing import Any, cast

import pytest

from arm_control.viewers.common.playback import BEHIND_S, FASTEST, FRAME_S, SLOWEST, Playback, paced, playback_of


class Clock:
    """A wall clock that tests advance."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def playback(clock: Clock) -> Playback:
    """A playback of 10 s with steps of 0.1 s."""
    return Playback(0.1, 10.0, now_s=clock)


class TestPlayback:
    """Position, speed and steps."""

    def test_it_plays_from_the_beginning_and_stops_at_the_end(self, clock: Clock, playback: Playback) -> None:
        """The position follows the clock up to the length."""
        assert (playback.position_s, playback.playing) == (0.0, True)
        clock.now_s += 4.0
        assert (playback.position_s, playback.playing) == (4.0, True)
        clock.now_s += 100.0
        assert (playback.position_s, playback.playing) == (10.0, False)

    def test_playing_at_the_end_starts_again(self, clock: Clock, playback: Playback) -> None:
        """It starts from position 0."""
        clock.now_s += 11.0
        playback.toggle()
        assert (playback.position_s, playback.playing) == (0.0, True)
        clock.now_s += 1.0
        assert playback.position_s == pytest.approx(1.0)

    def test_a_pause_keeps_the_position(self, clock: Clock, playback: Playback) -> None:
        """It continues from there."""
        clock.now_s += 2.0
        playback.toggle()
        clock.now_s += 50.0
        assert (playback.position_s, playback.playing) == (2.0, False)
        playback.toggle()
        clock.now_s += 1.0
        assert (playback.position_s, playback.playing) == (3.0, True)

    def test_a_new_speed_applies_from_the_current_position(self, clock: Clock, playback: Playback) -> None:
        """Positions by hand for speeds 1, 2 and 0.5."""
        clock.now_s += 1.0
        playback.speed = 2.0
        assert playback.position_s == pytest.approx(1.0)
        clock.now_s += 1.0
        assert playback.position_s == pytest.approx(3.0)
        playback.speed = 0.5
        clock.now_s += 2.0
        assert playback.position_s == pytest.approx(4.0)

    @pytest.mark.parametrize(("requested", "got"), [(0.0, SLOWEST), (-1.0, SLOWEST), (1.5, 1.5), (1e9, FASTEST)])
    def test_speeds_have_bounds(self, playback: Playback, requested: float, got: float) -> None:
        """Speeds are clipped to `SLOWEST` and `FASTEST`."""
        playback.speed = requested
        assert playback.speed == got

    @pytest.mark.parametrize("playing", [True, False])
    def test_seeking_clips_to_both_ends(self, clock: Clock, playback: Playback, playing: bool) -> None:
        """Playing or paused stays as it was."""
        if not playing:
            playback.pause()
        for requested, got in ((5.0, 5.0), (-3.0, 0.0), (7.0, 7.0)):
            playback.seek(requested)
            assert playback.position_s == got
        clock.now_s += 1.0
        assert (playback.position_s, playback.playing) == (8.0 if playing else 7.0, playing)

    def test_after_the_end_seeking_does_not_start_playing(self, clock: Clock, playback: Playback) -> None:
        """It stays paused at the new position."""
        clock.now_s += 99.0
        assert (playback.position_s, playback.playing) == (10.0, False)
        playback.seek(3.0)
        clock.now_s += 1.0
        assert (playback.position_s, playback.playing) == (3.0, False)
        playback.seek(99.0)
        assert playback.position_s == 10.0

    def test_steps_pause_at_multiples_of_the_period(self, clock: Clock, playback: Playback) -> None:
        """Also past both ends, where they are clipped."""
        clock.now_s += 0.26
        playback.step()
        assert playback.position_s == pytest.approx(0.4)  # 0.3 is the nearest, and one on
        assert not playback.playing
        playback.step(-2)
        assert playback.position_s == pytest.approx(0.2)
        playback.step(-9)
        assert playback.position_s == 0.0
        playback.step(1000)
        assert playback.position_s == 10.0

    def test_the_position_depends_on_the_clock_only(self, clock: Clock, playback: Playback) -> None:
        """The number of calls makes no difference."""
        often = Playback(0.1, 10.0, now_s=clock)
        for _ in range(64):
            clock.now_s += 0.125
            assert often.position_s == clock.now_s - 1000.0
        assert playback.position_s == 8.0

    def test_a_live_playback_has_no_end(self, clock: Clock) -> None:
        """After 1e6 s it still plays."""
        live = Playback(0.1, now_s=clock)
        clock.now_s += 1e6
        assert (live.position_s, live.playing) == (1e6, True)


class Shown:
    """The attributes of a trajectory that a playback uses."""

    def __init__(self, length_s: float, opens_at_s: float = 0.0, growing: bool = False) -> None:
        self.period_s, self.length_s, self.opens_at_s, self.growing = 0.1, length_s, opens_at_s, growing


class TestPlaybackOf:
    """Playbacks of trajectories."""

    def test_it_ends_with_the_longest_trajectory(self) -> None:
        """It starts at 0, playing."""
        playback = playback_of(cast(Any, [Shown(3.0), Shown(5.0)]))
        assert (playback.length_s, playback.playing) == (5.0, True)
        assert playback.position_s < 1.0

    def test_a_post_mortem_is_paused_at_its_fault(self) -> None:
        """The position is the time at which the recording opens."""
        playback = playback_of(cast(Any, [Shown(12.0, opens_at_s=10.0)]))
        assert (playback.position_s, playback.playing) == (10.0, False)

    def test_a_growing_recording_is_followed_with_a_delay(self) -> None:
        """The delay is at most `BEHIND_S`."""
        playback = playback_of(cast(Any, [Shown(12.0, growing=True)]))
        assert playback.playing
        assert 12.0 - BEHIND_S <= playback.position_s <= 12.0


class TestPaced:
    """Regular updates."""

    def test_updates_are_due_at_absolute_times_and_missed_ones_skipped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """After an update that takes five periods, the next one follows at once."""
        now_s, began = 100.0, []
        takes = [0.0, 0.01, 5 * FRAME_S, 0.0, 0.0, 0.0]  # s, of each update

        def update() -> bool:
            nonlocal now_s
            began.append(now_s)
            now_s += takes[len(began) - 1]
            return len(began) < len(takes)

        def sleep(seconds: float) -> None:
            nonlocal now_s
            now_s += seconds

        monkeypatch.setattr("arm_control.viewers.common.playback.time.monotonic", lambda: now_s)
        monkeypatch.setattr("arm_control.viewers.common.playback.time.sleep", sleep)
        paced(update)
        assert [(at - 100.0) / FRAME_S for at in began] == pytest.approx([0, 1, 2, 7, 8, 9])
