"""What is read of a child process from outside: its address, its last words, its end."""

import json

import pytest

from deploy.child import error_of_exit, how_ended, read_address, told_reason
from shoal import errors


def test_an_address_is_believed_from_the_process_itself(tmp_path):
    """A file left by an earlier process, or half written, is no address."""
    path = tmp_path / "a.json"
    assert read_address(path, 5) == ""
    path.write_text('{"address": "127.0')
    assert read_address(path, 5) == ""
    path.write_text(json.dumps({"address": "127.0.0.1:9", "pid": 4}))
    assert read_address(path, 5) == ""
    assert read_address(path, 4) == "127.0.0.1:9"
    assert read_address(path, 4, "http") == ""


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("INFO start\nrouter: error: port 7 is taken\nnoise\n\n", "port 7 is taken"),
        ("Traceback\n  x\nValueError: y\n", "ValueError: y"),
        ("", ""),
    ],
)
def test_the_reason_is_the_error_line_or_the_last(tmp_path, log, reason):
    """What a process says of its end may be followed by noise of its libraries."""
    (tmp_path / "x.log").write_text(log)
    assert told_reason(tmp_path / "x.log") == reason


def test_no_log_is_no_reason(tmp_path):
    """A process may end before it writes."""
    assert told_reason(tmp_path / "none.log") == ""


@pytest.mark.parametrize(
    ("code", "cls"),
    [(78, errors.ConfigError), (74, errors.StorageError), (75, errors.LockedError),
     (1, errors.UnavailableError), (-9, errors.UnavailableError)],
)  # fmt: skip
def test_the_parent_ends_as_the_child_did(code, cls):
    """The exit codes that mean something keep their meaning."""
    assert type(error_of_exit(code, "x")) is cls


def test_an_end_in_words():
    """Signals by name, codes by number."""
    assert how_ended(-9) == "SIGKILL"
    assert how_ended(3) == "exit code 3"
