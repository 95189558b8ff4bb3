"""Reading of files from elsewhere: regular files of bounded size, at once, and nothing else."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.arm import DEFAULT_URDF, Arm
from envs.files import open_regular, read_file, read_text
from envs.urdf import LARGEST_URDF


class TestReadFile:
    """`read_file` returns a whole file or raises OSError."""

    @given(content=st.binary(max_size=200), most=st.integers(0, 200))
    def test_returns_the_content_of_a_file_within_the_bound(
        self, tmp_path_factory: pytest.TempPathFactory, content: bytes, most: int
    ) -> None:
        """A file of up to the bound is returned; one byte more raises an error with both sizes."""
        path = tmp_path_factory.getbasetemp() / "content"
        path.write_bytes(content)
        if len(content) <= most:
            assert read_file(path, most) == content
        else:
            with pytest.raises(OSError, match=f"{len(content)} bytes; expected at most {most}:"):
                read_file(path, most)

    def test_a_file_that_grows_is_read_up_to_the_bound(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The bound applies to the bytes read, not to the size that `fstat` gave when the file was opened."""
        path = tmp_path / "growing"
        path.write_bytes(b"abc")
        fstat = os.fstat

        def fstat_and_grow(descriptor: int) -> os.stat_result:
            status = fstat(descriptor)
            path.write_bytes(b"x" * 3000)
            return status

        monkeypatch.setattr(os, "fstat", fstat_and_grow)
        with pytest.raises(OSError, match="too large"):
            read_file(path, 2999)
        path.write_bytes(b"abc")
        assert read_file(path, 3000) == b"x" * 3000

    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="wants /proc")
    def test_a_file_without_a_size_is_read_to_its_end(self) -> None:
        """Files in /proc, whose size is reported as 0, are read to their end within the bound."""
        assert Path("/proc/self/status").stat().st_size == 0
        assert b"VmPeak" in read_file("/proc/self/status", 100_000)
        with pytest.raises(OSError, match="too large"):
            read_file("/proc/self/status", 10)

    @pytest.mark.parametrize(
        "kind", ["pipe", "pipe with a writer", "device", "folder", "socket", "missing", "null byte"]
    )
    def test_rejects_irregular_files_without_blocking(self, kind: str, tmp_path: Path) -> None:
        """Pipes, devices, folders, sockets and missing files raise OSError at once instead of blocking."""
        path = tmp_path / "file"
        writer = None
        if kind.startswith("pipe"):
            os.mkfifo(path)
        if kind == "pipe with a writer":
            writer = os.open(path, os.O_RDWR)
            os.write(writer, b"0.1,0.2,0.3\n")
        if kind == "socket":
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(path))
        names: dict[str, str | Path] = {"device": "/dev/zero", "folder": tmp_path, "null byte": "a\0b"}
        errors: list[OSError] = []

        def read() -> None:
            try:
                read_file(names.get(kind, path), 10**9)
            except OSError as error:
                errors.append(error)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        thread.join(20)
        if writer is not None:
            os.close(writer)
        (error,) = errors
        assert error.strerror
        assert len(error.strerror.splitlines()) == 1

    def test_a_link_to_a_regular_file_is_followed(self, tmp_path: Path) -> None:
        """Symbolic links to regular files are followed."""
        (tmp_path / "file").write_text("text")
        (tmp_path / "link").symlink_to("file")
        assert read_file(tmp_path / "link", 10) == b"text"
        with open_regular(tmp_path / "link") as file:
            assert file.read() == b"text"

    def test_a_byte_order_mark_is_removed(self, tmp_path: Path) -> None:
        """The byte order mark that spreadsheets and Windows editors write is not part of the text."""
        (tmp_path / "file").write_bytes(b"\xef\xbb\xbf0.1,0.2,0.3")
        assert read_text(tmp_path / "file", 100) == "0.1,0.2,0.3"


class TestArms:
    """An arm's URDF is read within bounds of its size, texts and numbers."""

    def test_rejects_a_pipe_a_device_and_a_huge_file(self, tmp_path: Path) -> None:
        """Each raises a one-line error within 5 s of CPU time."""
        os.mkfifo(tmp_path / "pipe.urdf")
        with (tmp_path / "huge.urdf").open("wb") as file:
            file.truncate(2**40)
        for path in (tmp_path / "pipe.urdf", tmp_path / "huge.urdf", Path("/dev/zero")):
            begin = time.process_time()
            with pytest.raises(ValueError, match="cannot read arm"):
                Arm(path)
            assert time.process_time() - begin < 5.0

    def test_the_bound_applies_to_texts_too(self) -> None:
        """A URDF given as text, as contracts and recordings hold it, has the same bound of 262,144 characters."""
        text = Arm(DEFAULT_URDF).urdf_text
        Arm("padded.urdf", text=text + " " * (LARGEST_URDF - len(text)))
        with pytest.raises(ValueError, match="at most 262,144 characters"):
            Arm("padded.urdf", text=text + " " * (LARGEST_URDF - len(text) + 1))


BOX = '<collision><geometry><box size="{}"/></geometry></collision>'


def changed(before: str, after: str) -> str:
    """The default arm's URDF with a part replaced."""
    text = Arm(DEFAULT_URDF).urdf_text
    assert before in text
    return text.replace(before, after)


class TestTexts:
    """Names and attributes of a URDF are short and printable, since PyBullet and terminals receive them unchanged."""

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            pytest.param("base_yaw", "{}", id="joint"),
            pytest.param("turntable", "{}", id="link"),
            pytest.param('robot name="arm3"', 'robot name="{}"', id="robot"),
            pytest.param("servo_black", "{}", id="material"),
            pytest.param("<collision>", '<collision name="{}">', id="unused name"),
        ],
    )
    @pytest.mark.parametrize(
        "text", ["x" * 257, "x" * 20_000, "\u6f22" * 86, "a\u202eb", "a&#10;b", "a&#x85;b", "a\u200bb"]
    )
    def test_rejects_long_and_unprintable_names(self, before: str, after: str, text: str) -> None:
        """257 bytes of UTF-8, bidirectional overrides, line feeds, C1 controls and invisible characters are
        rejected."""
        with pytest.raises(ValueError, match=r"arm bad\.urdf: expected") as error:
            Arm("bad.urdf", text=changed(before, after.format(text)))
        assert len(str(error.value)) < 400

    @pytest.mark.parametrize("text", ["x" * 256, "\u6f22" * 85, "base yaw", "\u00e9paule", "$x$"])
    def test_a_name_within_the_bounds_is_kept(self, text: str) -> None:
        """Names of up to 256 bytes in any language are kept."""
        assert Arm("good.urdf", text=changed("base_yaw", text)).joint_names[0] == text

    def test_rejects_deep_nesting(self) -> None:
        """40 nested elements are rejected; PyBullet's parser fails at about a hundred."""
        deep = "<a>" * 40 + "</a>" * 40
        with pytest.raises(ValueError, match="nested at most 32 deep"):
            Arm("deep.urdf", text=changed("</robot>", f"{deep}</robot>"))

    def test_rejects_more_than_a_hundred_joints_fixed_ones_included(self) -> None:
        """PyBullet supports 127 links and would fail later."""
        link = '<link name="e{1}"/><joint name="f{0}" type="fixed"><parent link="e{0}"/><child link="e{1}"/></joint>'
        links = '<link name="e0"/>' + "".join(link.format(n, n + 1) for n in range(97))
        tip = Arm(DEFAULT_URDF).tip_link
        joint = f'<joint name="f" type="fixed"><parent link="{tip}"/><child link="e0"/></joint>'
        before = Arm(DEFAULT_URDF).urdf_text.count("<joint")
        assert before + 98 > 100
        with pytest.raises(ValueError, match=f"at most 100 joints, fixed ones included, got {before + 98}"):
            Arm("many.urdf", text=changed("</robot>", f"{links}{joint}</robot>"))


class TestNumbers:
    """Numbers of a URDF are finite and bounded, also those that only the simulator reads."""

    @pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e300", "1e999", "one"])
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            pytest.param('xyz="0 0 0.2"', 'xyz="0 0 {}"', id="origin"),
            pytest.param('mass value="0.16416"', 'mass value="{}"', id="mass"),
            pytest.param('ixx="5.8681728e-04"', 'ixx="{}"', id="inertia"),
            pytest.param('upper="1.5707963267948966"', 'upper="{}"', id="limit"),
            pytest.param('effort="1.4"', 'effort="{}"', id="effort"),
            pytest.param('velocity="5.969"', 'velocity="{}"', id="velocity"),
            pytest.param('acceleration="40"', 'acceleration="{}"', id="acceleration"),
            pytest.param('<axis xyz="0 0 1"/>', '<axis xyz="0 0 1"/><dynamics damping="{}"/>', id="damping"),
            pytest.param('box size="0.04 0.0465 0.1964"', 'box size="0.04 {} 1"', id="box"),
            pytest.param('cylinder radius="0.06"', 'cylinder radius="{}"', id="cylinder"),
        ],
    )
    def test_rejects_numbers_out_of_bounds(self, before: str, after: str, number: str) -> None:
        """Non-finite, huge and non-numeric values of ten attributes raise an error that quotes the value."""
        with pytest.raises(ValueError, match=r"arm bad\.urdf: ") as error:
            Arm("bad.urdf", text=changed(before, after.format(number)))
        assert number in str(error.value)

    @pytest.mark.parametrize("effort", ["5e-324", "1e-320", "1e-20", "0", "9e-5", "-1"])
    def test_rejects_an_effort_close_to_zero(self, effort: str) -> None:
        """Efforts below 0.0001 N m are rejected: derived limits divide by a tenth of the effort."""
        with pytest.raises(ValueError, match=r"an effort of at least 0\.0001 N m"):
            Arm("weak.urdf", text=changed('effort="1.4"', f'effort="{effort}"'))

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ('velocity="5.969"', 'velocity="1e-3"'),
            ('velocity="5.969"', 'velocity="5e-324"'),
            ('acceleration="40"', 'acceleration="1e-3"'),
        ],
    )
    def test_rejects_speeds_and_accelerations_close_to_zero(self, before: str, after: str) -> None:
        """Speeds and accelerations have a lower bound, so that every motion ends."""
        with pytest.raises(ValueError, match=r"arm slow\.urdf: joint"):
            Arm("slow.urdf", text=changed(before, after))

    @given(
        words=st.lists(st.floats(width=32) | st.sampled_from(["", "0x1", "1e", "--1", "1_0"]), min_size=3, max_size=3)
    )
    def test_any_origin_is_read_or_raises_value_error(self, words: list[float | str]) -> None:
        """No other exception is raised, and an accepted arm has a finite reach."""
        text = changed('xyz="0 0 0.2"', f'xyz="{" ".join(map(str, words))}"')
        try:
            arm = Arm("any.urdf", text=text)
        except ValueError:
            return
        assert arm.reach_m < 1e4
