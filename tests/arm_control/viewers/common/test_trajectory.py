"""Trajectories: recordings and controllers as columns, samples and episodes."""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from helpers import wait_until
from recordings import durations

from arm_control.recording.recorder import Recorder
from arm_control.recording.schema import EVENT, POST_MORTEM, TICK, Event, Tick
from arm_control.recording.writer import RecordingFile
from arm_control.viewers.common.trajectory import Episode, TicksInMemory, Trajectory, open_trajectory, to_segment
from envs.arm import DEFAULT_URDF, Arm

ARM = Arm(DEFAULT_URDF)
METADATA = {
    "arm": ARM.name,
    "arm_urdf": ARM.urdf_text,
    "joint_names": json.dumps(ARM.joint_names),
    "period_s": "0.1",
    "goal_tolerance_m": "0.01",
}
GOAL = (0.1, -0.2, 0.3)


def tick(time_s: float, **fields: Any) -> Tick:
    """A tick of the default arm."""
    values: dict[str, Any] = {
        "phase": "run",
        "goal_m": GOAL,
        "angle_deg": [time_s % 90.0, 20.0, 30.0],
        "band": "pass",
        **durations(1.0),
    }
    return Tick(time_s=time_s, **(values | fields))


def record(path: Path, rows: list[Tick | Event], **metadata: str) -> Path:
    """A recording of these rows."""
    with path.open("wb") as stream:
        file = RecordingFile(stream)
        file.add_metadata(METADATA | metadata)
        for row in rows:
            kind = TICK if isinstance(row, Tick) else EVENT
            file.add(kind, round(1e9 * row.time_s), msgspec.json.encode(row))
        file.finish()
    return path


def ticks(*numbers: int, **fields: Any) -> list[Tick | Event]:
    """Ticks at 50 s plus these numbers of tenths."""
    return [tick(50.0 + number / 10.0, **fields) for number in numbers]


class TestTrajectory:
    """Samples and episodes."""

    @pytest.mark.parametrize(
        ("time_s", "shown_s"),
        [
            (-3.0, 0.0),
            (0.0, 0.0),
            (0.05, 0.0),
            (0.1, 0.1),
            (0.9, 0.9),
            (5.0, 0.9),
            (99.9, 0.9),
            (100.0, 100.0),
            (1e6, 100.1),
        ],
    )
    def test_a_sample_is_the_last_tick_before_a_time(self, tmp_path: Path, time_s: float, shown_s: float) -> None:
        """At or before it, also across gaps."""
        trajectory = open_trajectory(record(tmp_path / "log.mcap", ticks(*range(10), 1000, 1001)))
        sample = trajectory.sample(time_s)
        assert len(sample) == 1
        assert sample.time_s[0] == pytest.approx(shown_s, abs=1e-9)
        assert len(trajectory.segment(2.0, 90.0)) == 0
        trajectory.close()

    def test_a_goal_is_an_episode_until_the_next_or_until_parking(self, tmp_path: Path) -> None:
        """Names and times are those of the events."""
        rows = ticks(*range(30))
        rows[20:20] = [Event(52.0, "phase", "park")]
        rows[12:12] = [Event(51.2, "goal", "goal 2")]
        rows[3:3] = [Event(50.3, "goal", "goal 1")]
        rows[0:0] = [Event(50.0, "phase", "run")]
        trajectory = open_trajectory(record(tmp_path / "log.mcap", rows))
        assert [part.name for part in trajectory.episodes] == ["goal 1", "goal 2"]
        np.testing.assert_allclose([part[1:] for part in trajectory.episodes], [(0.3, 1.2), (1.2, 2.0)], atol=1e-9)
        inside = [trajectory.episode_at(time_s) for time_s in (0.1, 0.3, 1.19, 1.2, 2.5)]
        assert [part and part.name for part in inside] == [None, "goal 1", "goal 1", "goal 2", None]
        assert trajectory.tolerance_m == 0.01
        trajectory.close()

    def test_a_recording_without_goals_is_one_episode(self, tmp_path: Path) -> None:
        """It spans the whole recording."""
        trajectory = open_trajectory(record(tmp_path / "log.mcap", ticks(*range(30), goal_m=None)))
        ((name, start_s, end_s),) = trajectory.episodes
        assert (name, start_s) == ("all", 0.0)
        assert end_s == pytest.approx(2.9)
        assert trajectory.length_s == pytest.approx(2.9)
        assert trajectory.opens_at_s == 0.0
        trajectory.close()

    def test_ticks_in_memory_and_in_a_file_give_the_same(self, tmp_path: Path) -> None:
        """For several intervals, and also thinned out."""
        rows = ticks(*range(200))
        file = open_trajectory(record(tmp_path / "log.mcap", rows))
        memory = Trajectory("memory", ARM, 0.1, TicksInMemory([row for row in rows if isinstance(row, Tick)]))
        for start_s, end_s in ((0.0, 99.0), (0.3, 0.3), (1.25, 7.75), (-5.0, 2.0), (50.0, 60.0), (3.0, 2.0)):
            one, other = memory.segment(start_s, end_s), file.segment(start_s, end_s)
            np.testing.assert_array_equal(one.time_s, other.time_s)
            np.testing.assert_array_equal(one.angle_deg, other.angle_deg)
        assert memory.episodes == [Episode("all", 0.0, memory.length_s)]
        assert memory.length_s == file.length_s
        assert 40 <= len(memory.segment(0.0, 99.0, most=50)) <= 100
        file.close()

    def test_a_recording_that_is_being_written_grows_until_it_is_closed(self, tmp_path: Path) -> None:
        """Its length and its episodes are updated."""
        path = tmp_path / "growing.mcap"
        rows = [tick(at / 10, angle_deg=[at / 10, 20.0, 30.0]) for at in range(60)]
        with Recorder(path, METADATA) as recorder:
            for row in rows[:20]:
                recorder.tick(row)
            wait_until(lambda: path.stat().st_size > 0 and opens(path))
            trajectory = open_trajectory(path)
            wait_until(lambda: trajectory.refresh() or trajectory.length_s == pytest.approx(1.9))
            assert trajectory.growing
            assert trajectory.length_s == pytest.approx(1.9)
            assert trajectory.lost == ""
            recorder.event(Event(2.0, "goal", "goal 1"))
            for row in rows[20:]:
                recorder.tick(row)
            wait_until(lambda: trajectory.refresh() and trajectory.length_s > 5.85)
            assert trajectory.growing
            assert [episode.name for episode in trajectory.episodes] == ["goal 1"]
        wait_until(lambda: not trajectory.refresh() and not trajectory.growing)
        assert trajectory.length_s == pytest.approx(5.9)
        assert trajectory.lost == ""
        np.testing.assert_allclose(trajectory.segment(0.0, 9.0).angle_deg[:, 0], np.arange(60) / 10)
        trajectory.close()
        whole = open_trajectory(path)
        assert not whole.growing
        assert not whole.refresh()
        whole.close()


def opens(path: Path) -> bool:
    try:
        open_trajectory(path).close()
    except ValueError:  # nothing is written yet
        return False
    return True


class TestOpenTrajectory:
    """Opening recordings."""

    def test_a_post_mortem_opens_at_its_fault(self, tmp_path: Path) -> None:
        """At the time of the fault stop; other recordings open at 0."""
        rows = ticks(*range(30))
        rows[15:15] = [Event(51.5, "refusal", "speed: too fast")]
        whole = open_trajectory(record(tmp_path / "log.mcap", rows))
        assert whole.opens_at_s == 0.0
        post_mortem = open_trajectory(record(tmp_path / "log.post-mortem.mcap", rows, **{POST_MORTEM: "true"}))
        assert post_mortem.opens_at_s == pytest.approx(1.5)
        assert [post_mortem.fault_at(time_s) for time_s in (1.4, 1.5, 2.9)] == [None, *2 * ["speed: too fast"]]
        whole.close()
        post_mortem.close()

    def test_a_post_mortem_is_marked_in_its_metadata(self, tmp_path: Path) -> None:
        """As the recorder writes it."""
        with Recorder(None, METADATA, post_mortem=tmp_path / "dead.mcap") as recorder:
            for row in ticks(*range(10)):
                assert isinstance(row, Tick)
                recorder.tick(row)
            recorder.event(Event(50.9, "refusal", "speed: too fast"))
        trajectory = open_trajectory(tmp_path / "dead.mcap")
        assert trajectory.opens_at_s == pytest.approx(0.9)
        trajectory.close()

    def test_a_urdf_of_another_arm_is_an_error(self, tmp_path: Path) -> None:
        """The error names both arms."""
        other = tmp_path / "other.urdf"
        other.write_text(ARM.urdf_text.replace('upper="1.57', 'upper="1.47'))
        assert not Arm(other).moves_like(ARM)
        path = record(tmp_path / "log.mcap", ticks(*range(9)))
        with pytest.raises(
            ValueError, match=r"log\.mcap is of the arm .*other\.urdf \(joints, limits or lengths differ\)"
        ):
            open_trajectory(path, str(other))
        trajectory = open_trajectory(path, str(DEFAULT_URDF))
        assert trajectory.arm.moves_like(ARM)
        trajectory.close()

    def test_another_arm_is_read_from_the_recorded_urdf(self, tmp_path: Path) -> None:
        """No file of it is needed."""
        text = ARM.urdf_text.replace('upper="1.57', 'upper="1.47')
        trajectory = open_trajectory(record(tmp_path / "log.mcap", ticks(*range(9)), arm_urdf=text))
        assert not trajectory.arm.moves_like(ARM)
        assert trajectory.arm.urdf_text == text
        trajectory.close()

    @pytest.mark.parametrize("missing", ["arm", "arm_urdf", "joint_names", "period_s"])
    def test_a_recording_without_an_arm_is_an_error(self, tmp_path: Path, missing: str) -> None:
        """Name, URDF, joint names and period are required."""
        with (tmp_path / "log.mcap").open("wb") as stream:
            file = RecordingFile(stream)
            file.add_metadata({name: text for name, text in METADATA.items() if name != missing})
            file.add(TICK, 1, msgspec.json.encode(tick(1.0)))
            file.finish()
        with pytest.raises(ValueError, match=rf"log\.mcap lacks {missing}"):
            open_trajectory(tmp_path / "log.mcap")

    def test_an_invalid_tolerance_is_an_error(self, tmp_path: Path) -> None:
        """The error names the file."""
        path = record(tmp_path / "x.mcap", ticks(0, 1), goal_tolerance_m="abc")
        with pytest.raises(ValueError, match=r"x\.mcap: .*abc"):
            open_trajectory(path)


class TestSegment:
    """Ticks as columns."""

    def test_columns_have_a_row_for_each_tick(self, tmp_path: Path) -> None:
        """Missing values are NaN."""
        rows: list[Tick | Event] = [
            tick(50.0, target_deg=[1.0, 2.0, 3.0], speed_deg_s=[4.0, 5.0, 6.0], read_us=7.0),
            tick(50.1, angle_deg=None, goal_m=None, phase="hold", band="refuse"),
            tick(50.2, goal_m=(*GOAL, 0.1, 0.2, 0.3)),
        ]
        trajectory = open_trajectory(record(tmp_path / "log.mcap", rows))
        found = trajectory.segment(0.0, 9.0)
        assert len(found) == 3
        np.testing.assert_allclose(found.time_s, [0.0, 0.1, 0.2], atol=1e-9)
        nothing = [math.nan] * 3
        np.testing.assert_array_equal(found.target_deg, [[1.0, 2.0, 3.0], nothing, nothing])
        np.testing.assert_array_equal(found.speed_deg_s, [[4.0, 5.0, 6.0], nothing, nothing])
        np.testing.assert_array_equal(found.angle_deg, [[50.0, 20.0, 30.0], nothing, [50.2, 20.0, 30.0]])
        np.testing.assert_array_equal(found.goal_m, [GOAL, nothing, GOAL])
        np.testing.assert_array_equal(found.timings_us, [[1.0, 7.0, 1.0, 1.0, 1.0], [1.0] * 5, [1.0] * 5])
        assert (found.band, found.phase) == (["pass", "refuse", "pass"], ["run", "hold", "run"])
        assert np.isnan(found.error_mm).tolist() == [False, True, False]
        assert np.isnan(found.reward).tolist() == [False, True, False]
        trajectory.close()

    def test_tip_error_and_reward_are_computed_from_angles_and_goal(self) -> None:
        """As the arm's kinematics and the task compute them."""
        tip = np.array(ARM.tip_position([10.0, 20.0, 30.0]))
        x, y, z = (tip + np.array([0.03, 0.0, -0.04])).tolist()  # 3, 4, 5
        found = to_segment(ARM, [tick(1.0, angle_deg=[10.0, 20.0, 30.0], goal_m=(x, y, z))])
        np.testing.assert_allclose(found.tip_m, [tip])
        np.testing.assert_allclose(found.error_mm, [50.0])
        np.testing.assert_allclose(found.reward, [-0.05 + math.exp(-5.0)])

    def test_no_ticks_give_empty_columns(self) -> None:
        """With the right number of columns."""
        found = to_segment(ARM, [])
        assert len(found) == 0
        assert (found.angle_deg.shape, found.goal_m.shape, found.timings_us.shape) == ((0, 3), (0, 3), (0, 5))
        assert found.error_mm.shape == (0,)

    @pytest.mark.parametrize("points", [1, 3, 4, 10, 100])
    def test_a_trace_ends_at_the_current_tip(self, points: int) -> None:
        """With about as many points as requested, in order, and without NaN."""
        rows = [tick(at / 10, angle_deg=None if at == 3 else [float(at), 20.0, 30.0]) for at in range(11)]
        found = to_segment(ARM, rows)
        trace = found.trace_m(points)
        assert trace[-1] == pytest.approx(ARM.tip_position([10.0, 20.0, 30.0]))
        assert min(points, 10) <= len(trace) <= max(2 * points, 10)
        assert not np.isnan(trace).any()
        assert (np.diff([np.flatnonzero((found.tip_m == place).all(axis=1))[0] for place in trace]) > 0).all()
