"""Reading URDFs: encodings, other kinds of files, names and references, branches and frames, masses, limits."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from urdf_parts import INERTIA, INERTIAL, LIMIT, joint, link, robot

from envs.arm import DEFAULT_URDF, Arm
from envs.simulation import Simulation

TWO = link("a") + link("b") + joint("j", "a", "b")


def rejection(text: str) -> str:
    """The one-line error that a text raises."""
    with pytest.raises(ValueError, match=r"^arm bad\.urdf: ") as error:
        Arm("bad.urdf", text=text)
    line = str(error.value)
    assert line.isprintable()
    return line


class TestEncodings:
    """Encodings of the file; contracts and recordings hold the text in UTF-8."""

    @pytest.mark.parametrize(
        ("codec", "declared"),
        [
            ("utf-8", None),
            ("utf-8", "UTF-8"),
            ("utf-8-sig", None),
            ("utf-8-sig", "utf-8"),
            ("latin-1", "ISO-8859-1"),
            ("cp1252", "windows-1252"),
            ("utf-16", "UTF-16"),
            ("utf-16", None),
            ("utf-16-le", "UTF-16"),
            ("utf-16-be", "UTF-16"),
        ],
    )
    def test_a_name_is_the_same_in_every_encoding(self, codec: str, declared: str | None, tmp_path: Path) -> None:
        """A name with an accent is read from ten encodings, and again from the text written in UTF-8."""
        declaration = "" if declared is None else f'<?xml version="1.0" encoding="{declared}"?>\n'
        text = f"{declaration}<!-- préparé -->{robot(TWO)}".replace('"j"', '"épaule"')
        (tmp_path / "arm.urdf").write_bytes(text.encode(codec))
        arm = Arm(tmp_path / "arm.urdf")
        assert arm.joint_names == ("épaule",)
        (tmp_path / "again.urdf").write_text(arm.urdf_text, encoding="utf-8")
        again = Arm(tmp_path / "again.urdf")
        assert again.joint_names == ("épaule",)
        assert again.urdf_text == arm.urdf_text
        assert Arm("text.urdf", text=arm.urdf_text).joint_names == ("épaule",)

    def test_a_declared_encoding_takes_precedence_over_utf_8(self, tmp_path: Path) -> None:
        """Bytes that are valid UTF-8 are decoded as the declared Latin-1."""
        text = robot(TWO).replace('"j"', '"Ã©"')
        data = f'<?xml version="1.0" encoding="ISO-8859-1"?>{text}'.encode("latin-1")
        assert "é" in data.decode("utf-8")
        (tmp_path / "arm.urdf").write_bytes(data)
        arm = Arm(tmp_path / "arm.urdf")
        assert arm.joint_names == Arm("again.urdf", text=arm.urdf_text).joint_names == ("Ã©",)

    @pytest.mark.parametrize("codec", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
    def test_rejects_a_doctype_in_every_encoding(self, codec: str, tmp_path: Path) -> None:
        """A DOCTYPE is found before the parser reads its definitions, in any encoding."""
        text = f'<?xml version="1.0" encoding="{codec[:6]}"?><!DOCTYPE robot [<!ENTITY a "é">]>{robot(TWO)}'
        (tmp_path / "arm.urdf").write_bytes(text.encode(codec))
        with pytest.raises(ValueError, match="without a DOCTYPE"):
            Arm(tmp_path / "arm.urdf")

    @pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"\x00" * 10, "<robot/>".encode("utf-32"), b"\xe9<robot/>"])
    def test_rejects_bytes_that_are_not_text(self, data: bytes, tmp_path: Path) -> None:
        """Undecodable bytes raise the one-line error of malformed XML."""
        (tmp_path / "arm.urdf").write_bytes(data)
        with pytest.raises(ValueError, match="not well-formed XML") as error:
            Arm(tmp_path / "arm.urdf")
        assert str(error.value).isprintable()


class TestOtherKinds:
    """Files of other formats are rejected by the name of their format."""

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('<mujoco model="arm"><worldbody/></mujoco>', "MJCF"),
            ('<sdf version="1.6"><model name="arm"/></sdf>', "SDF"),
            ('<COLLADA xmlns="http://www.collada.org/2005/11/COLLADASchema"/>', "COLLADA"),
            ("<html><body/></html>", "<html>"),
            ('<robot xmlns:xacro="http://www.ros.org/wiki/xacro"><xacro:arm/></robot>', "xacro FILE > arm.urdf"),
            ('<robot><xacro:include filename="a"/></robot>', "xacro FILE > arm.urdf"),
            (robot(TWO).replace("0.1", "${length}"), "xacro FILE > arm.urdf"),
        ],
    )
    def test_the_error_names_the_format(self, text: str, message: str) -> None:
        """MJCF, SDF, COLLADA, HTML and xacro are named, xacro with the command that expands it."""
        assert message in rejection(text)

    def test_expanded_xacro_is_accepted(self) -> None:
        """The xacro namespace and an expression in a colour, which expanded files contain, are accepted."""
        colour = '<material name="orange"><color rgba="${255/255} 0.4 0 1"/></material>'
        visual = f'<visual><geometry><box size="1 1 1"/></geometry>{colour}</visual>'
        text = robot(link("a", INERTIAL + visual), link("b"), joint("j", "a", "b"), colour)
        arm = Arm("arm.urdf", text=text.replace("<robot", '<robot xmlns:xacro="http://www.ros.org/wiki/xacro"'))
        assert arm.chain.links[0].visuals[0].rgba is None


class TestReferences:
    """Links and joints form one tree."""

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            (robot(TWO, link("loose", "")), "link 'loose' is loose"),
            (robot(TWO, joint("k", "b", "gone")), "'gone'"),
            (robot(TWO, joint("k", "gone", "a", "fixed")), "'gone'"),
            (robot(TWO, '<joint name="k" type="fixed"><parent link="b"/></joint>'), "'k'"),
            (robot(TWO, link("b")), "'b'"),
            (robot(TWO, link("")), "''"),
            (robot(TWO, link("c"), joint("j", "b", "c", "fixed")), "'j'"),
            (robot(TWO, link("c"), joint("", "b", "c", "fixed")), "''"),
            (robot(TWO, joint("k", "b", "b", "fixed")), "'b'"),
        ],
    )
    def test_loose_missing_and_duplicate_names_are_reported(self, text: str, named: str) -> None:
        """The error names the element; PyBullet crashes on some of these files."""
        assert named in rejection(text)

    def test_joints_and_links_inside_other_elements_are_ignored(self) -> None:
        """Elements of <transmission> and <gazebo> do not define joints or links."""
        other = '<transmission name="t"><joint name="j"/></transmission><gazebo><link name="z"/></gazebo>'
        assert Arm("arm.urdf", text=robot(TWO, other)).joint_names == ("j",)


class TestJoints:
    """Joints are revolute or fixed, and each revolute one has a servo of its own."""

    @pytest.mark.parametrize("kind", ["continuous", "prismatic", "floating", "planar", "", "Revolute"])
    def test_rejects_other_joint_types_by_name(self, kind: str) -> None:
        """The error names the joint and its type."""
        line = rejection(robot(TWO, link("c"), joint("finger", "b", "c", kind)))
        assert "'finger'" in line
        assert f"'{kind}'" in line

    def test_rejects_a_mimic_joint(self) -> None:
        """A mimic joint, which PyBullet would leave without a motor, is rejected with both names."""
        inside = f'<axis xyz="0 1 0"/>{LIMIT}<mimic joint="j" multiplier="-1"/>'
        line = rejection(robot(TWO, link("c"), joint("follower", "b", "c", inside=inside)))
        assert "'follower' mimics joint 'j'" in line


class TestBranches:
    """Fixed branches belong to the link that they are fixed to; only one branch may move."""

    FORK = (link("a"), link("b"), link("c"), joint("j", "a", "b"))

    def test_rejects_two_moving_branches(self) -> None:
        """The error names the link at the fork, also if a fixed frame separates it from a joint."""
        text = robot(
            *self.FORK,
            link("d"),
            link("e"),
            joint("left_mount", "b", "c", "fixed"),
            joint("left", "c", "d"),
            joint("right", "b", "e"),
        )
        assert "link 'b' has several branches" in rejection(text)

    @pytest.mark.parametrize("first", [True, False], ids=["camera first", "tip first"])
    def test_the_tip_is_the_end_that_is_furthest_from_the_last_joint(self, first: bool) -> None:
        """Of two fixed ends, the one further from the last joint is the tip, in either order."""
        camera = joint("eye", "b", "c", "fixed", '<origin xyz="0.05 0 0.1"/>')
        tip = link("d") + joint("tool", "b", "d", "fixed", '<origin xyz="0 0 0.2"/>')
        arm = Arm("arm.urdf", text=robot(*self.FORK, *((camera, tip) if first else (tip, camera))))
        assert arm.tip_link == "d"
        assert arm.tip_position([0.0]) == pytest.approx((0.0, 0.0, 0.3))

    def test_of_coincident_ends_the_deepest_one_is_the_tip(self) -> None:
        """Of ends at the same place, the one after most links is the tip, as tool0 after flange."""
        frames = link("flange", "") + link("tool0", "") + link("sensor", "")
        mounts = joint("s", "b", "sensor", "fixed", "") + joint("f", "b", "flange", "fixed", "")
        text = robot(TWO, frames, mounts, joint("t", "flange", "tool0", "fixed", ""))
        assert Arm("arm.urdf", text=text).tip_link == "tool0"

    def test_a_branch_between_two_joints_does_not_change_the_kinematics(self) -> None:
        """A camera on the forearm changes neither kinematics nor tip."""
        plain = (link("a"), link("b"), link("c"), joint("j", "a", "b"), joint("k", "b", "c"))
        camera = link("camera", INERTIAL) + joint("mount", "b", "camera", "fixed", '<origin xyz="0 0.5 0"/>')
        arm = Arm("plain.urdf", text=robot(*plain))
        branched = Arm("branched.urdf", text=robot(*plain, camera))
        assert branched.moves_like(arm)
        assert branched.tip_link == arm.tip_link


class TestMasses:
    """Inertias are physically possible, or absent."""

    @pytest.mark.parametrize(
        "inertial",
        [
            '<mass value="0.1"/>',
            f"{INERTIA}",
            f'<mass value="-1"/>{INERTIA}',
            f'<mass value="nan"/>{INERTIA}',
            f'<mass value=""/>{INERTIA}',
            f"<mass/>{INERTIA}",
            '<mass value="0.1"/><inertia ixx="nan" iyy="1" izz="1"/>',
            '<mass value="0.1"/><inertia ixx="1" iyy="1"/>',
            '<mass value="0.1"/><inertia ixx="1" iyy="1" izz="-1"/>',
            '<mass value="0.1"/><inertia ixx="1" iyy="1" izz="1" ixy="2"/>',
        ],
    )
    def test_rejects_impossible_inertias_by_link_name(self, inertial: str) -> None:
        """Incomplete, negative and indefinite inertias are rejected: ixy = 2 gives a moment of 1 - 2 = -1."""
        text = robot(link("a"), link("heavy", f"<inertial>{inertial}</inertial>"), joint("j", "a", "heavy"))
        assert "link 'heavy'" in rejection(text)

    @given(
        moments=st.tuples(*[st.floats(0.0, 1.0)] * 3),
        size=st.floats(-9.0, 2.0),
        turned=st.sampled_from([(0.0, 0.0, 0.0), (0.0, 0.0, math.pi / 2)]) | st.tuples(*[st.floats(-3.0, 3.0)] * 3),
        flat=st.sampled_from(["as drawn", "plate", "rod"]),
    )
    def test_pybullet_gets_the_principal_moments_of_the_file(
        self, moments: tuple[float, float, float], size: float, turned: tuple[float, float, float], flat: str
    ) -> None:
        """PyBullet's moments equal the file's, clipped to the triangle inequality that it would otherwise zero."""
        x, y, z = moments
        drawn = {"as drawn": (x, y, z), "plate": (x, y, x + y), "rod": (0.0, y, y)}[flat]
        diagonal = np.sort(np.array(drawn) * 10**size)
        if diagonal[2] < 1e-9:
            return
        rotation = Rotation.from_euler("xyz", turned).as_matrix()
        tensor = rotation * diagonal @ rotation.T
        names = ("ixx", "ixy", "ixz", "iyy", "iyz", "izz")
        values = zip(names, tensor[np.triu_indices(3)].tolist(), strict=True)
        inertia = " ".join(f'{name}="{value!r}"' for name, value in values)
        text = robot(
            link("a"), link("b", f'<inertial><mass value="1e-9"/><inertia {inertia}/></inertial>'), joint("j", "a", "b")
        )
        inertial = Arm("arm.urdf", text=text).chain.links[1].inertial
        assert inertial is not None
        (found,) = simulated_inertias(text)
        # What no body has is clipped: the largest moment is at most the sum of the others.
        expected = np.array([diagonal[0], diagonal[1], min(diagonal[2], diagonal[0] + diagonal[1])])
        np.testing.assert_allclose(np.sort(found), expected, atol=3e-4 * diagonal[2])


def simulated_inertias(text: str) -> list[tuple[float, float, float]]:
    """The principal moments that PyBullet has of each moving link."""
    from envs.bullet import load_urdf, pybullet
    from envs.model import simulated_urdf

    client = pybullet.connect(pybullet.DIRECT)
    try:
        urdf = simulated_urdf(Arm("arm.urdf", text=text).chain)
        body = load_urdf(urdf, client, flags=pybullet.URDF_USE_INERTIA_FROM_FILE)
        count = pybullet.getNumJoints(body, physicsClientId=client)
        return [pybullet.getDynamicsInfo(body, index, physicsClientId=client)[2] for index in range(count)]
    finally:
        pybullet.disconnect(client)


class TestLimits:
    """Limits that were rounded to a few decimals of a radian mean whole degrees."""

    @pytest.mark.parametrize("degrees", [0, 1, 30, 45, 90, 110, 150, 170, 180, 360])
    @pytest.mark.parametrize("decimals", [3, 4, 5, 7, 11, 16])
    def test_a_rounded_or_cut_limit_is_a_whole_degree(self, degrees: int, decimals: int) -> None:
        """1.571, 1.5708, 1.5707 and 1.5707963 all mean 90 degrees."""
        for rounding in (round, lambda value, digits: math.floor(value * 10**digits) / 10**digits):
            limit = rounding(math.radians(degrees), decimals)
            if abs(limit - math.radians(degrees)) > 5e-4:
                continue
            inside = f'<limit lower="{-limit - 0.1234567}" upper="{limit!r}" effort="1" velocity="1"/>'
            arm = Arm("arm.urdf", text=robot(link("a"), link("b"), joint("j", "a", "b", inside=inside)))
            assert arm.limits.upper_deg == (float(degrees),)

    @pytest.mark.parametrize("limit", [1.57, 3.14, 0.0175 * 3.3, 1.6, 1.5717])
    def test_other_limits_are_kept(self, limit: float) -> None:
        """A limit that is no rounded whole degree stays exact: 3.14 is 179.9 degrees, not 180."""
        inside = f'<limit lower="-1" upper="{limit}" effort="1" velocity="1"/>'
        arm = Arm("arm.urdf", text=robot(link("a"), link("b"), joint("j", "a", "b", inside=inside)))
        assert arm.limits.upper_deg[0] == pytest.approx(math.degrees(limit), abs=1e-12)

    def test_the_simulator_uses_the_same_limits(self) -> None:
        """The simulated arm can be reset to the rounded limit and stays there."""
        arm = Arm("arm.urdf", text=robot(TWO))
        with Simulation(arm) as simulation:
            simulation.reset([90.0])
            simulation.step()
            assert simulation.angles_deg == pytest.approx([90.0], abs=0.01)

    def test_the_default_limits_are_exact(self) -> None:
        """The default arm's limits are exactly 0 and 90 degrees."""
        assert Arm(DEFAULT_URDF).limits.upper_deg == (90.0, 90.0, 90.0)
