"""`shoal token new` and the file that it adds to: what the file was, it stays."""

import os
import stat

import pytest

from deploy.cli.token import new
from shoal.rpc.tokens import read_tokens


def names_in(path):
    return [grant.name for grant in read_tokens(path)]


def test_a_link_stays_a_link(tmp_path):
    """Deployments link to the file in force: the file must change, not the link."""
    real, link = tmp_path / "releases" / "7.yaml", tmp_path / "tokens.yaml"
    real.parent.mkdir()
    link.symlink_to(real)
    new(scopes="search", file=link, name="one")  # to nothing yet
    new(scopes="search", file=link, name="two")
    assert link.is_symlink()
    assert not real.is_symlink()
    assert names_in(real) == ["one", "two"]
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_and_the_mode_stay(tmp_path):
    """Root adds a token, and the server's own user must still be able to read the file."""
    path = tmp_path / "tokens.yaml"
    new(scopes="search", file=path, name="one")
    os.chown(path, 12_345, 54_321)
    path.chmod(0o640)
    new(scopes="search", file=path, name="two")
    now = path.stat()
    assert (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode)) == (12_345, 54_321, 0o640)
    assert names_in(path) == ["one", "two"]
    assert {entry.name for entry in tmp_path.iterdir()} == {"tokens.yaml", ".tokens.yaml.lock"}
