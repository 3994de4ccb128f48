"""`shoal index push | pull`, as a user types them."""

import json

from fakes.index_folder import commit

from deploy.cli.main import run


def test_push_and_pull_tell_what_they_did(tmp_path, capsys):
    """An index goes to a URL and comes back; the second time nothing is copied."""
    commit(tmp_path / "index", 1)
    url = f"file://{tmp_path}/remote"
    assert run(["index", "push", "--index", str(tmp_path / "index"), url]) == 0
    assert "index 'tiny' version 1: live at file://" in capsys.readouterr().out
    assert run(["index", "pull", url, "--index", str(tmp_path / "copy"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["version"], told["n_files_copied"]) == ("tiny", 1, 3)
    assert run(["index", "pull", url, "--index", str(tmp_path / "copy")]) == 0
    assert "already; 0 files copied" in capsys.readouterr().out


def test_what_can_not_be_done_is_one_line(tmp_path, capsys):
    """No index there, no URL, another index there."""
    commit(tmp_path / "index", 1)
    commit(tmp_path / "other", 1, name="other")
    url = f"file://{tmp_path}/remote"
    copy = str(tmp_path / "copy")
    index, other = str(tmp_path / "index"), str(tmp_path / "other")
    for arguments, what in [
        (["pull", url, "--index", copy], "holds no index"),
        (["pull", "bucket/tiny", "--index", copy], "is no URL"),
        (["push", url, "--index", copy], "holds no index"),
    ]:
        assert run(["index", *arguments]) == 78
        error = capsys.readouterr().err
        assert what in error
        assert error.count("\n") == 1
    assert run(["index", "push", url, "--index", other]) == 0
    assert run(["index", "push", url, "--index", index]) == 78
    assert "--force" in capsys.readouterr().err
    assert run(["index", "push", url, "--index", index, "--force"]) == 0


def test_a_server_that_does_not_answer_is_one_line(tmp_path, capsys):
    """Exit code 69, as for any server."""
    (tmp_path / "remote").write_text("a file where a folder is meant")
    commit(tmp_path / "index", 1)
    url = f"file://{tmp_path}/remote/tiny"
    assert run(["index", "push", url, "--index", str(tmp_path / "index")]) == 69
    assert "can't be reached" in capsys.readouterr().err
