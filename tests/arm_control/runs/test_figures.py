"""Figures of a command: whether their file can be written, before the work."""

import os
from pathlib import Path

import pytest

from arm_control.runs.figures import check_writable


class TestCheckWritable:
    """`check_writable`, which commands call before their work."""

    @pytest.mark.parametrize("exists", [False, True])
    def test_a_file_that_can_be_written_stays_as_it_is(self, tmp_path: Path, exists: bool) -> None:
        """Neither it nor a temporary file is left in the folder."""
        path = tmp_path / "x.json"
        if exists:
            path.write_text("earlier figures")
        check_writable(str(path))
        assert [file.read_text() for file in tmp_path.iterdir()] == ["earlier figures"] * exists

    def test_no_file_is_allowed(self) -> None:
        """Without --json there is nothing to check."""
        check_writable(None)

    @pytest.mark.usefixtures("file_permissions")
    def test_a_read_only_folder_is_an_error(self, tmp_path: Path) -> None:
        """Also for root without its capabilities, to whom `os.access` reports that everything can be written."""
        tmp_path.chmod(0o555)
        try:
            with pytest.raises(OSError, match=r"cannot write .*x\.json: Permission denied"):
                check_writable(str(tmp_path / "x.json"))
        finally:
            tmp_path.chmod(0o755)

    @pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="requires /proc, where nobody can write")
    def test_a_file_system_without_new_files_is_an_error(self) -> None:
        """Whatever its permissions say."""
        with pytest.raises(OSError, match=r"cannot write /proc/x\.json"):
            check_writable("/proc/x.json")

    def test_a_link_to_a_folder_that_does_not_exist_is_an_error(self, tmp_path: Path) -> None:
        """The file is written behind the link, so that is where it is checked."""
        path = tmp_path / "x.json"
        path.symlink_to(tmp_path / "missing" / "x.json")
        with pytest.raises(OSError, match="No such file or directory"):
            check_writable(str(path))

    def test_what_is_no_regular_file_is_an_error(self, tmp_path: Path) -> None:
        """A pipe is not replaced by a file."""
        path = tmp_path / "x.json"
        os.mkfifo(path)
        with pytest.raises(OSError, match="it is no regular file"):
            check_writable(str(path))
