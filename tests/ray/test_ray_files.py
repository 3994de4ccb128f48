"""A replica's files: whose they are, and who takes them away."""

import pytest

from deploy.ray.files import ReplicaFiles


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "shoal" / "wiki.ray"


def test_what_a_killed_supervisor_left_is_taken_away_by_the_next(folder):
    """A token must not lie there for ever; its log may be what somebody looks for."""
    killed = ReplicaFiles("wiki", "shard-0.a")
    killed.prepare("secret")
    killed.log.write_text("last words")
    killed._lock.close()  # as the kernel does
    living = ReplicaFiles("wiki", "shard-0.b")
    living.prepare("secret")
    assert not killed.token.exists()
    assert killed.log.read_text() == "last words"
    assert living.token.read_text() == "secret\n"
    living.remove()
    assert not folder.exists()


def test_files_of_the_living_stay(folder):
    """Replicas of one node share the folder, and end at different times."""
    one, two = ReplicaFiles("wiki", "shard-0.a"), ReplicaFiles("wiki", "shard-0.b")
    one.prepare("secret")
    two.prepare("secret")
    two.log.write_text("x")
    one.remove()
    assert two.token.exists()
    assert two.log.exists()
    two.remove()
    assert not folder.exists()
