"""Models that simulators and viewers load: masses, meshes, and suppressed output."""

import logging
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from envs.arm import DEFAULT_URDF, Arm
from envs.bullet import load_urdf, pybullet, readable_meshes, silenced
from envs.model import Drawing, drawn_urdf, find_file, mesh_files, simulated_urdf
from envs.scene import Scene
from envs.simulation import SOLVERS, Simulation, fastest_solver

INERTIAL = (
    '<inertial><origin xyz="0 0 0.1"/><mass value="{}"/><inertia ixx="1e-4" iyy="1e-4" izz="1e-4" ixy="0" ixz="0" '
    'iyz="0"/></inertial>'
)
LIMIT = '<limit lower="0" upper="1.5708" effort="{}" velocity="3"/>'


def arm_of(*, mass_kg: float = 0.1, effort_nm: float = 2.0, moving: str | None = None, more: str = "") -> Arm:
    """A level joint 0.1 m up, whose link has its mass 0.1 m further up."""
    moving = INERTIAL.format(mass_kg) if moving is None else moving
    return Arm(
        "arm.urdf",
        text=f"""<robot name="one"><link name="base"/><link name="part">{moving}</link>
        <joint name="lift" type="revolute"><parent link="base"/><child link="part"/><origin xyz="0 0 0.1"/>
        <axis xyz="0 1 0"/>{LIMIT.format(effort_nm)}</joint>{more}</robot>""",
    )


def fixed(name: str, parent: str, inside: str = "", xyz: str = "0 0 0") -> str:
    """A link that is fixed to another."""
    return (
        f'<link name="{name}">{inside}</link><joint name="to_{name}" type="fixed"><parent link="{parent}"/>'
        f'<child link="{name}"/><origin xyz="{xyz}"/></joint>'
    )


def with_frames(text: str) -> str:
    """A URDF with frames without mass at its base, in between and at its tip."""
    frames = fixed("tool0", "tip") + fixed("camera", "forearm", xyz="0 0.05 0.1") + fixed("mark", "turntable")
    return text.replace("</robot>", f"{frames}</robot>")


class TestFrames:
    """Links without mass, which are simulated as weightless if they are fixed to a link with mass."""

    def test_frames_do_not_change_the_motion(self) -> None:
        """Frames without mass leave the motion unchanged to 1e-6 degrees, although PyBullet assumes 1 kg each."""
        text = DEFAULT_URDF.read_text()
        paths = []
        for arm in (Arm("plain.urdf", text=text), Arm("frames.urdf", text=with_frames(text))):
            with Simulation(arm) as simulation:
                simulation.reset([0.0, 45.0, 45.0])
                generator = np.random.default_rng(0)
                path = []
                for step in range(90):
                    if step % 15 == 0:
                        simulation.command(generator.uniform(0.0, 90.0, 3).tolist())
                    simulation.step()
                    path.append(simulation.angles_deg)
                paths.append(path)
        np.testing.assert_allclose(paths[0], paths[1], atol=1e-6)

    def test_the_payload_is_at_the_tip_in_any_link_order(self) -> None:
        """Torque of 100 g at 0.1 m plus 50 g at 0.2 m, 30 degrees from level, computed by hand for both orders."""
        camera = fixed("camera", "part", xyz="0.01 0 0")
        tip = fixed("tip", "part", xyz="0 0 0.2")
        for more in (camera + tip, tip + camera):
            arm = arm_of(more=more)
            assert arm.tip_link == "tip"
            with Simulation(arm) as simulation:
                simulation.set_dynamics(payload_kg=0.05)
                torques = []
                for level in (60.0, 0.0):
                    simulation.reset([level])
                    simulation.advance(240)
                    state = pybullet.getJointState(simulation._body, simulation._joints[0], simulation._client)
                    torques.append(abs(state[3]))
            assert torques[0] == pytest.approx(9.81 * (0.1 * 0.1 + 0.05 * 0.2) * math.sin(math.pi / 3), rel=0.01)
            assert torques[1] == pytest.approx(0.0, abs=1e-3)

    def test_a_moving_link_may_have_its_mass_in_a_fixed_link(self) -> None:
        """An arm whose masses belong to fixed frames is simulated and held."""
        arm = arm_of(moving="", more=fixed("weight", "part", INERTIAL.format(0.1)))
        with Simulation(arm) as simulation:
            simulation.reset([60.0])
            simulation.advance(240)
            simulation.measure()
            assert simulation.angles_deg == pytest.approx([60.0], abs=0.1)

    @pytest.mark.parametrize("moving", ["", INERTIAL.format(0)])
    def test_simulation_rejects_a_moving_link_without_mass(self, moving: str) -> None:
        """Only the simulation needs masses: kinematics work, and Simulation raises an error that names the link."""
        arm = arm_of(moving=moving, more=fixed("tool0", "part"))
        assert arm.tip_position([0.0]) == pytest.approx((0.0, 0.0, 0.1))
        with pytest.raises(ValueError, match="link 'part' turns but weighs nothing"):
            Simulation(arm)


class TestServos:
    """Servos strong enough to hold the arm."""

    def test_gravity_torques_equal_pybullets_inverse_dynamics(self) -> None:
        """Torques of 20 random poses for three arms equal PyBullet's inverse dynamics to 1e-6 N m."""
        more = fixed("camera", "part", INERTIAL.format(0.3), "0.05 0.02 0.1")
        for arm in (Arm(), arm_of(more=more), Arm("frames.urdf", text=with_frames(DEFAULT_URDF.read_text()))):
            poses = np.random.default_rng(1).uniform(arm.limits.lower_deg, arm.limits.upper_deg, (20, arm.joint_count))
            torques = arm.gravity_torques_nm(poses)
            with Simulation(arm) as simulation:
                for pose, torque in zip(np.radians(poses).tolist(), torques, strict=True):
                    still = [0.0] * arm.joint_count
                    expected = pybullet.calculateInverseDynamics(
                        simulation._body, pose, still, still, physicsClientId=simulation._client
                    )
                    np.testing.assert_allclose(torque, expected, atol=1e-6)

    def test_rejects_a_servo_that_is_too_weak(self) -> None:
        """0.1 kg at 0.1 m needs 0.0981 N m: 0.11 N m is accepted, 0.09 is rejected with both torques."""
        Simulation(arm_of(effort_nm=0.11)).close()
        with pytest.raises(ValueError, match=r"joint 'lift' cannot hold the arm: its effort is 0\.09 N m.*0\.103"):
            Simulation(arm_of(effort_nm=0.09))

    def test_a_light_arm_of_many_joints_needs_more_iterations(self) -> None:
        """The selected solver holds the pose within 0.03 degrees, PyBullet's default not within 0.05."""
        arm = many_joints()
        found = fastest_solver(arm)
        pose = [40.0] * 6
        off_deg = {}
        for solver in (SOLVERS[0], found):
            with Simulation(arm, solver=solver) as simulation:
                simulation.reset(pose)
                simulation.advance(240)
                simulation.measure()
                off_deg[solver] = np.abs(np.subtract(simulation.angles_deg, pose)).max()
        assert off_deg[found] < 0.03 < 0.05 < off_deg[SOLVERS[0]]

    def test_its_motion_is_restored_exactly(self) -> None:
        """With the selected solver, motion after restoring a state repeats bit for bit."""
        with Simulation(many_joints()) as simulation:
            simulation.reset([10.0] * 6)
            simulation.command([50.0] * 6)
            simulation.step()
            state = simulation.save()
            paths = []
            for _ in range(2):
                simulation.restore(state)
                path = []
                for _ in range(20):
                    simulation.step()
                    path.append((simulation.angles_deg, simulation.speeds_deg_s))
                paths.append(path)
            assert paths[0] == paths[1]


def many_joints() -> Arm:
    """A desk arm of six joints whose last links weigh a few grams, as with a gripper."""
    parts = ['<link name="l0"/>']
    for number in range(6):
        mass = (0.2, 0.15, 0.1, 0.05, 0.02, 0.002)[number]
        inertial = (
            f'<inertial><origin xyz="0 0 0.05"/><mass value="{mass}"/><inertia ixx="{mass * 1e-4}" '
            f'iyy="{mass * 1e-4}" izz="{mass * 1e-4}"/></inertial>'
        )
        axis = ("0 0 1", "0 1 0", "0 1 0", "0 1 0", "0 0 1", "0 1 0")[number]
        parts.append(
            f'<link name="l{number + 1}">{inertial}</link><joint name="j{number}" type="revolute"><parent '
            f'link="l{number}"/><child link="l{number + 1}"/><origin xyz="0 0 0.1"/><axis xyz="{axis}"/>'
            '<limit lower="-1.5708" upper="1.5708" effort="35" velocity="5"/></joint>'
        )
    return Arm("many.urdf", text=f'<robot name="many">{"".join(parts)}</robot>')


def stl(triangles: int = 2) -> bytes:
    """A binary STL mesh."""
    triangle = struct.pack("<12fH", 0, 0, 1, 0, 0, 0, 0.1, 0, 0, 0, 0.1, 0, 0)
    return b"\0" * 80 + struct.pack("<I", triangles) + triangle * triangles


def drawn_arm(folder: Path, *names: str) -> Arm:
    """An arm in a folder, each of whose moving links has one mesh of the names."""
    folder.mkdir(exist_ok=True)
    parts = ['<link name="l0"/>']
    for number, name in enumerate(names):
        visual = f'<visual><geometry><mesh filename="{name}"/></geometry></visual>'
        parts.append(
            f'<link name="l{number + 1}">{INERTIAL.format(0.01)}{visual}</link><joint name="j{number}" type="revolute">'
            f'<parent link="l{number}"/><child link="l{number + 1}"/><origin xyz="0 0 0.1"/><axis xyz="0 1 0"/>'
            f"{LIMIT.format(5)}</joint>"
        )
    (folder / "arm.urdf").write_text(f'<robot name="drawn">{"".join(parts)}</robot>')
    return Arm(folder / "arm.urdf")


def drawing(arm: Arm) -> Drawing:
    return drawn_urdf(arm.chain, arm.mesh_folder)


class TestMeshes:
    """Meshes are read for drawing only, from the URDF's folder, and omitted if they cannot be read."""

    @pytest.mark.parametrize(
        "name",
        ["m.stl", "./m.stl", "sub/../m.stl", "package://m.stl", "package://some_arm/m.stl", "model://some_arm/m.stl"],
    )
    def test_a_mesh_in_the_folder_is_found(self, name: str, tmp_path: Path) -> None:
        """Relative paths, `package://` and `model://` names are resolved in the URDF's folder."""
        (tmp_path / "m.stl").write_bytes(stl())
        assert find_file(name, tmp_path) == tmp_path / "m.stl"

    @pytest.mark.parametrize(
        "name",
        [
            *("none.stl", "../secret.stl", "/etc/hostname", "file:///etc/hostname", "package://../secret.stl", ""),
            *("pipe.stl", "folder.stl", "huge.stl", "outside.stl", "loop.stl", "x" * 256, "."),
        ],
    )
    def test_other_files_are_omitted_with_a_warning(
        self, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Missing, outside, irregular and oversized files are omitted with one warning, and the arm is drawn."""
        folder = tmp_path / "arm"
        folder.mkdir()
        (tmp_path / "secret.stl").write_bytes(stl())
        os.mkfifo(folder / "pipe.stl")
        (folder / "folder.stl").mkdir()
        with (folder / "huge.stl").open("wb") as file:
            file.truncate(2**40)
        (folder / "outside.stl").symlink_to(tmp_path / "secret.stl")
        (folder / "loop.stl").symlink_to("loop.stl")
        assert find_file(name, folder) is None
        assert find_file(name, None) is None
        arm = drawn_arm(folder, name)
        with caplog.at_level(logging.WARNING):
            scene = Scene(arm)
        scene.show([45.0], None)
        scene.close()
        (record,) = caplog.records
        assert record.getMessage().isprintable()
        assert f"'{name}'" in record.getMessage()

    def test_readable_meshes_are_drawn_without_the_others(self, tmp_path: Path) -> None:
        """Of three meshes, one missing and one of an unsupported format, the readable one is drawn."""
        (tmp_path / "m.stl").write_bytes(stl())
        (tmp_path / "m.ply").write_bytes(b"ply")
        found = drawing(drawn_arm(tmp_path, "m.stl", "m.ply", "n.stl"))
        assert list(found.files.values()) == [tmp_path / "m.stl"]
        assert found.urdf.count("<visual>") == found.urdf.count("<mesh") == 1

    def test_an_arm_without_readable_meshes_is_drawn_as_lines(self, tmp_path: Path) -> None:
        """Spheres and cylinders replace the meshes and cover more than 1000 pixels."""
        arm = drawn_arm(tmp_path, "n.stl", "o.stl")
        found = drawing(arm)
        assert found.files == {}
        assert found.urdf.count("<sphere") == 3
        assert found.urdf.count("<cylinder") == 2
        scene = Scene(arm)
        scene.show([45.0, 45.0], None)
        left, top, right, bottom = scene.occupied(320, 240)
        scene.close()
        assert (right - left) * (bottom - top) > 1000

    @pytest.mark.parametrize(
        ("suffix", "data"),
        [
            (".stl", stl(2)[:100]),
            (".stl", b"\0" * 80 + struct.pack("<I", 2**31 - 1) + b"\0" * 50),
            (".stl", b""),
            (".stl", b"solid x\nfacet"),
            (".obj", b"f 1 2 3\n"),
            (".obj", b"v 0 0 0\nf 1000000000 2 3\n"),
            (".dae", b"<COLLADA/>"),
            (".dae", b"<"),
        ],
    )
    def test_a_damaged_mesh_does_not_end_the_process(self, suffix: str, data: bytes, tmp_path: Path) -> None:
        """Truncated and invalid meshes are tried in another process first, and the arm is drawn."""
        (tmp_path / f"m{suffix}").write_bytes(data)
        arm = drawn_arm(tmp_path, f"m{suffix}")
        scene = Scene(arm)
        scene.show([45.0], None)
        scene.picture(64, 48)
        scene.close()

    def test_a_mesh_that_crashes_the_loader_is_found_among_good_ones(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A loader that dies on one of three meshes leaves the two others."""
        for name in "abc":
            (tmp_path / f"{name}.stl").write_bytes(stl())
        (tmp_path / "sitecustomize.py").write_text(
            "import os, pathlib, envs.bullet\n"
            "load = envs.bullet.load_urdf\n"
            "def crash(urdf, client, files):\n"
            "    if any(path.stem == 'b' for path in files.values()): os.kill(os.getpid(), 11)\n"
            "    return load(urdf, client, files=files)\n"
            "envs.bullet.load_urdf = crash\n"
        )
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
        readable = readable_meshes(tmp_path / f"{name}.stl" for name in "abc")
        assert sorted(path.stem for path in readable) == ["a", "c"]

    def test_a_simulation_reads_no_mesh(self, tmp_path: Path) -> None:
        """The simulated model has no shapes, so that a 20 MB mesh costs no memory."""
        (tmp_path / "m.stl").write_bytes(stl(400_000))
        arm = drawn_arm(tmp_path, "m.stl")
        assert "<mesh" not in simulated_urdf(arm.chain)
        with Simulation(arm) as simulation:
            assert pybullet.getVisualShapeData(simulation._body, physicsClientId=simulation._client) == ()
            assert pybullet.getCollisionShapeData(simulation._body, 0, physicsClientId=simulation._client) == ()

    def test_the_simulated_model_moves_as_the_file_does(self) -> None:
        """600 steps of the reduced model equal those of the URDF loaded by PyBullet with its shapes, bit for bit."""
        paths = []
        arm = Arm()
        with Simulation(arm) as simulation:
            joints = [0, 1, 2]
            raw = pybullet.connect(pybullet.DIRECT)
            pybullet.setGravity(0, 0, -9.81, physicsClientId=raw)
            body = pybullet.loadURDF(
                str(DEFAULT_URDF), useFixedBase=True, flags=pybullet.URDF_USE_INERTIA_FROM_FILE, physicsClientId=raw
            )
            for link in range(-1, 4):
                pybullet.changeDynamics(
                    body, link, linearDamping=0, angularDamping=0, jointDamping=0, physicsClientId=raw
                )
            for client, number in ((simulation._client, simulation._body), (raw, body)):
                generator = np.random.default_rng(3)
                path = []
                for joint in joints:
                    pybullet.changeDynamics(number, joint, maxJointVelocity=5.969, physicsClientId=client)
                    pybullet.resetJointState(number, joint, 0.3, 0.0, physicsClientId=client)
                for step in range(600):
                    if step % 60 == 0:
                        target = generator.uniform(0.0, 1.57, 3).tolist()
                        pybullet.setJointMotorControlArray(
                            *(number, joints, pybullet.POSITION_CONTROL, target, [0.0] * 3, [1.4] * 3, [0.2] * 3),
                            *([1.0] * 3, client),
                        )
                    pybullet.stepSimulation(client)
                    path.append([state[:2] for state in pybullet.getJointStates(number, joints, client)])
                paths.append(path)
            pybullet.disconnect(raw)
        assert paths[0] == paths[1]


class TestSilence:
    """PyBullet's output on stdout and stderr is suppressed."""

    def test_output_of_c_code_is_dropped_only_inside(self) -> None:
        """C output inside of the block is dropped; what C had buffered before it is kept."""
        script = (
            "import ctypes, sys\nfrom envs.bullet import silenced\nlibc = ctypes.CDLL(None)\n"
            "libc.printf(b'before\\n')\n"
            "with silenced():\n    libc.printf(b'lost\\n')\n    libc.write(2, b'lost', 4)\n"
            "libc.printf(b'after\\n')\n"
        )
        # Under PYTHONUNBUFFERED C does not buffer either.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert done.stdout == "before\nafter\n"
        assert done.stderr == ""

    @pytest.mark.parametrize("closed", ["", ">&-", "2>&-", ">&- 2>&-"])
    def test_works_with_closed_outputs(self, closed: str) -> None:
        """With stdout or stderr closed, as in a service, a simulation starts and prints nothing."""
        script = (
            "from envs.arm import *; from envs.simulation import *; "
            'text = DEFAULT_URDF.read_text().replace(\'</robot>\', \'<link name="f"/><joint name="g" type="fixed">'
            '<parent link="tip"/><child link="f"/></joint></robot>\'); '
            "Simulation(Arm('x', text=text))"
        )
        done = subprocess.run(
            ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, script], capture_output=True, text=True, check=True
        )
        assert done.stdout == done.stderr == ""

    def test_an_error_inside_restores_the_outputs(self, capfd: pytest.CaptureFixture[str]) -> None:
        """An exception inside of the block propagates, and stdout works again."""
        with pytest.raises(KeyError), silenced():
            raise KeyError
        os.write(1, b"printed")
        assert capfd.readouterr().out == "printed"

    def test_a_model_that_pybullet_rejects_is_a_value_error(self) -> None:
        """A failure of PyBullet's loader becomes a one-line ValueError."""
        client = pybullet.connect(pybullet.DIRECT)
        try:
            with pytest.raises(ValueError, match="PyBullet cannot load the arm") as error:
                load_urdf("<robot", client)
            assert str(error.value).isprintable()
        finally:
            pybullet.disconnect(client)


def test_mesh_files_lists_existing_files_once(tmp_path: Path) -> None:
    """Existing mesh files are listed once each, missing ones not at all."""
    (tmp_path / "m.stl").write_bytes(stl())
    arm = drawn_arm(tmp_path, "m.stl", "m.stl", "n.stl")
    assert mesh_files(arm.chain, arm.mesh_folder) == [tmp_path / "m.stl"]
