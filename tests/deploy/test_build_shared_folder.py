"""Whether another machine sees the build's folder."""

import pytest

from deploy.ray.building.shared_folder import (
    MARK_FILE,
    Mark,
    check_mark,
    leave_mark,
    sizes_of,
    wait_for_files,
)
from shoal.errors import ConfigError


def test_the_folder_itself_is_recognized(tmp_path):
    """And by nothing but what the build wrote there."""
    check_mark(leave_mark(tmp_path))


def test_the_same_path_of_another_disk_is_not(tmp_path):
    """Each machine has a /data: one that holds another build's mark, or none, is refused."""
    ours = leave_mark(tmp_path)
    (tmp_path / MARK_FILE).write_text("another build's")
    with pytest.raises(
        ConfigError, match=r"another folder than the build's.*storage that all nodes"
    ):
        check_mark(ours)
    with pytest.raises(ConfigError, match=r"can't be seen .*storage that all nodes"):
        check_mark(Mark(folder=tmp_path / "nowhere", text=ours.text))


def test_files_are_waited_for_until_they_are_whole(tmp_path):
    """A network file system may show a name before its bytes, and neither at once."""
    (tmp_path / "shard-0001").mkdir()
    late = tmp_path / "shard-0001" / "ids.arrow"
    late.write_bytes(b"1234")

    with pytest.raises(ConfigError, match=r"ids\.arrow: another node wrote it"):
        wait_for_files(tmp_path, {"shard-0001/ids.arrow": 8}, patience_s=0.0)
    wait_for_files(
        tmp_path, {"shard-0001/ids.arrow": 8}, sleep=lambda _: late.write_bytes(b"12345678")
    )
    assert sizes_of(tmp_path) == {"shard-0001/ids.arrow": 8}
