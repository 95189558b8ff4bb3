"""The clock of what is played."""

from typing import Any, cast

import pytest

from arm_control.viewers.common.playback import BEHIND_S, FASTEST, FRAME_S, SLOWEST, Playback, paced, playback_of


class Clock:
    """A wall clock that moves when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def playback(clock: Clock) -> Playback:
    """Of 10 s, with steps of 0.1 s."""
    return Playback(0.1, 10.0, now_s=clock)


class TestPlayback:
    """Position, speed and steps."""

    def test_it_plays_from_the_beginning_and_stops_at_the_end(self, clock: Clock, playback: Playback) -> None:
        """It plays from the start and stops at the end."""
        assert (playback.position_s, playback.playing) == (0.0, True)
        clock.now_s += 4.0
        assert (playback.position_s, playback.playing) == (4.0, True)
        clock.now_s += 100.0
        assert (playback.position_s, playback.playing) == (10.0, False)

    def test_played_from_the_end_it_begins_again(self, clock: Clock, playback: Playback) -> None:
        """Playing at the end starts again."""
        clock.now_s += 11.0
        playback.toggle()
        assert (playback.position_s, playback.playing) == (0.0, True)
        clock.now_s += 1.0
        assert playback.position_s == pytest.approx(1.0)

    def test_paused_it_stays_and_then_goes_on_from_there(self, clock: Clock, playback: Playback) -> None:
        """A pause keeps the position."""
        clock.now_s += 2.0
        playback.toggle()
        clock.now_s += 50.0
        assert (playback.position_s, playback.playing) == (2.0, False)
        playback.toggle()
        clock.now_s += 1.0
        assert (playback.position_s, playback.playing) == (3.0, True)

    def test_a_new_speed_counts_from_where_it_is(self, clock: Clock, playback: Playback) -> None:
        """A new speed applies from the current position."""
        clock.now_s += 1.0
        playback.speed = 2.0
        assert playback.position_s == pytest.approx(1.0)
        clock.now_s += 1.0
        assert playback.position_s == pytest.approx(3.0)
        playback.speed = 0.5
        clock.now_s += 2.0
        assert playback.position_s == pytest.approx(4.0)

    @pytest.mark.parametrize(("asked", "got"), [(0.0, SLOWEST), (-1.0, SLOWEST), (1.5, 1.5), (1e9, FASTEST)])
    def test_speeds_have_bounds(self, playback: Playback, asked: float, got: float) -> None:
        """The speed is limited."""
        playback.speed = asked
        assert playback.speed == got

    @pytest.mark.parametrize("playing", [True, False])
    def test_seeking_goes_there_within_both_ends_and_on_as_before(
        self, clock: Clock, playback: Playback, playing: bool
    ) -> None:
        """Seeking clips to both ends and keeps playing or paused."""
        if not playing:
            playback.pause()
        for asked, got in ((5.0, 5.0), (-3.0, 0.0), (7.0, 7.0)):
            playback.seek(asked)
            assert playback.position_s == got
        clock.now_s += 1.0
        assert (playback.position_s, playback.playing) == (8.0 if playing else 7.0, playing)

    def test_what_has_come_to_its_end_stays_where_it_is_put(self, clock: Clock, playback: Playback) -> None:
        """After the end, seeking does not start playing."""
        clock.now_s += 99.0
        assert (playback.position_s, playback.playing) == (10.0, False)
        playback.seek(3.0)
        clock.now_s += 1.0
        assert (playback.position_s, playback.playing) == (3.0, False)
        playback.seek(99.0)
        assert playback.position_s == 10.0

    def test_steps_pause_and_go_to_whole_periods(self, clock: Clock, playback: Playback) -> None:
        """Steps pause, and move to multiples of the period."""
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

    def test_a_caller_that_asks_seldom_loses_no_time(self, clock: Clock, playback: Playback) -> None:
        """The position depends on the clock alone."""
        often = Playback(0.1, 10.0, now_s=clock)
        for _ in range(64):
            clock.now_s += 0.125
            assert often.position_s == clock.now_s - 1000.0
        assert playback.position_s == 8.0

    def test_what_is_live_has_no_end(self, clock: Clock) -> None:
        """A live playback has no end."""
        live = Playback(0.1, now_s=clock)
        clock.now_s += 1e6
        assert (live.position_s, live.playing) == (1e6, True)


class Shown:
    """What a playback wants to know of a trajectory."""

    def __init__(self, length_s: float, opens_at_s: float = 0.0, growing: bool = False) -> None:
        self.period_s, self.length_s, self.opens_at_s, self.growing = 0.1, length_s, opens_at_s, growing


class TestPlaybackOf:
    """The playback of trajectories."""

    def test_trajectories_are_played_from_the_beginning_to_the_end_of_the_longest(self) -> None:
        """It ends with the longest trajectory."""
        playback = playback_of(cast(Any, [Shown(3.0), Shown(5.0)]))
        assert (playback.length_s, playback.playing) == (5.0, True)
        assert playback.position_s < 1.0

    def test_a_post_mortem_waits_at_the_refusal(self) -> None:
        """A post-mortem is paused at its fault."""
        playback = playback_of(cast(Any, [Shown(12.0, opens_at_s=10.0)]))
        assert (playback.position_s, playback.playing) == (10.0, False)

    def test_what_grows_is_followed_a_little_behind(self) -> None:
        """A growing recording is followed with a delay."""
        playback = playback_of(cast(Any, [Shown(12.0, growing=True)]))
        assert playback.playing
        assert 12.0 - BEHIND_S <= playback.position_s <= 12.0


class TestPaced:
    """Regular updates."""

    def test_updates_are_due_at_absolute_times_and_missed_ones_are_left_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Updates are due at absolute times; missed ones are skipped."""
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
