"""`shoal index build` from vectors and from another index, as it is typed."""

import json
import shutil

import numpy as np
import pytest

from deploy.cli.main import run
from shoal.formats.versions import load_manifest


@pytest.fixture
def vectors(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(1).standard_normal((600, 16)).astype("f4"))
    return path


def build(capsys, *arguments):
    """Runs `index build --json`; returns its report, or its exit code and error line."""
    code = run(["index", "build", "--json", *map(str, arguments)])
    written = capsys.readouterr()
    return json.loads(written.out) if not code else (code, written.err.strip().splitlines()[-1])


def test_vectors_are_imported_and_compressed_anew(capsys, tmp_path, vectors):
    """Metric and shards of the new index are the old one's unless said otherwise."""
    bare = tmp_path / "bare"
    report = build(capsys, "--vectors", vectors, "--index", bare, "--metric", "l2", "--shards", "2")
    assert (report["recipe"], report["metric"], report["model"]) == ("Flat", "l2", None)
    other = tmp_path / "other"
    report = build(capsys, "--from", bare, "--index", other, "--recipe", "PCA8,IVF4,SQ8")
    assert (report["n_shards"], report["metric"], report["n_passages"]) == (2, "l2", 600)
    assert load_manifest(other).default_n_probe == 4
    report = build(capsys, "--from", other, "--index", tmp_path / "third", "--shards", "1")
    assert (report["n_shards"], report["recipe"]) == (1, "Flat")
    assert run(["index", "inspect", "--index", str(other)]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        ([], 78, "give --corpus PATH, --vectors FILE or --from DIR"),
        (["--from", "{tmp}/a", "--vectors", "{tmp}/x.npy"], 78, "give it alone"),
        (["--from", "{tmp}/new"], 78, "name a new folder"),
        (["--from", "{tmp}/a"], 78, "holds no index"),
        (["--vectors", "{tmp}/y.npy"], 65, "no such file"),
        (["--vectors", "{tmp}/x.npy", "--recipe", "PQ5"], 78, "4 would do"),
        (["--vectors", "{tmp}/x.npy", "--recipe", "SQ8", "--for", "gpu"], 78, "take IVF<n> with"),
        (["--vectors", "{tmp}/x.npy", "--corpus", "{tmp}/c.jsonl"], 65, "the corpus 1 passages"),
    ],
)
def test_a_source_that_does_not_do_is_one_line(capsys, tmp_path, vectors, arguments, code, what):
    """Every refusal names the flag or the file, and leaves no folder behind."""
    (tmp_path / "c.jsonl").write_text('{"_id": "a", "text": "b"}\n')
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    got, line = build(capsys, *filled, "--index", tmp_path / "new")
    assert got == code
    assert what in line
    assert not (tmp_path / "new").exists()


def test_an_interrupted_build_says_that_it_goes_on(capsys, tmp_path, vectors, monkeypatch):
    """Ctrl-C tells what stays; the same command says what it took up, and --restart nothing."""
    index = tmp_path / "new"
    command = ["index", "build", "--vectors", str(vectors), "--index", str(index)]
    command += ["--recipe", "SQ8"]

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for again in ([], ["--restart"]):
        with monkeypatch.context() as patch:
            patch.setattr("shard_server.building.build.train_index", interrupt)
            assert run(command) == 130
        assert "the same command goes on" in capsys.readouterr().err
        assert run(["index", "verify", "--index", str(index)]) == 78
        capsys.readouterr()
        assert run([*command, *again]) == 0
        kept = "encode: 600 kept from an earlier, interrupted run"
        assert (kept in capsys.readouterr().err) == (not again)
        assert run(["index", "verify", "--index", str(index)]) == 0
        assert "an interrupted build left" not in capsys.readouterr().out
        shutil.rmtree(index)
