"""`shoal doctor` on the real cluster: well as it is, and ill as fault 53 has it."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time

import pytest

from deploy.doctor.facts.own_processes import own_processes

pytestmark = pytest.mark.end_to_end

ITS_OWN = {
    "cluster-processes", "router-view", "encoder-contract", "index-files", "index-versions",
    "index-room", "releases", "packages", "faiss-build", "memory",
}  # fmt: skip
"""Checks whose findings are the cluster's alone; others depend on what else the machine runs."""


UNANSWERED = ("does not say that it serves", "its page of metrics at", "did not answer",
              "could not be asked", "no answer")  # fmt: skip


def _doctor(cluster, *arguments):
    """Its exit code and report, of a look that every process answered: each has 2 s for it, which
    on a busy machine may be too short.
    """
    until_s = time.monotonic() + 90
    while True:
        told = cluster.shoal("doctor", "--name", cluster.name, "--json", *arguments, check=False)
        report = json.loads(told.stdout)
        missed = [f for f in report["findings"] if any(words in f["what"] for words in UNANSWERED)]
        if not missed or time.monotonic() > until_s:
            return told.returncode, report


def test_a_healthy_cluster_is_well_and_is_told_to_be(cluster):
    """Each check looked, at the running processes, and found what it should."""
    _, report = _doctor(cluster, "--all")
    found = {f["check"]: f for f in report["findings"] if f["check"] in ITS_OWN}
    assert set(found) == ITS_OWN
    assert {f["severity"] for f in found.values()} == {"ok"}
    assert "probe texts encoded now" in found["encoder-contract"]["what"]
    assert "router and 3 replicas" in found["releases"]["what"]
    assert not [f for f in report["findings"] if f["check"] == "unseen"]


@contextlib.contextmanager
def _exposed_shard(cluster):
    """A shard server that somebody started by hand where every machine reaches it."""
    command = [sys.executable, "-P", "-m", "shard_server", "--index", str(cluster.index_dir),
               "--shard", "0", "--host", "0.0.0.0", "--insecure"]  # fmt: skip
    with subprocess.Popen(
        command, env=cluster.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            until_s = time.monotonic() + 60
            while not (at := _listening(process.pid)):
                assert process.poll() is None
                assert time.monotonic() < until_s
                time.sleep(0.05)
            yield process.pid, at
        finally:
            process.kill()


def _listening(pid):
    mine = [process for process in own_processes() if process.pid == pid]
    return next((s.port for process in mine for s in process.listening or ()), None)


def test_an_exposed_shard_and_a_tampered_file_are_named(cluster, tmp_path):
    """Faults 13 and 53: which process, which port, which file, what to do, and an exit code."""
    shutil.copytree(cluster.index_dir, tmp_path / "copy")
    victim = next(tmp_path.glob("copy/data/*/vectors.faiss"))
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes()[:-1] + b"\xff")
    with _exposed_shard(cluster) as (pid, port):
        code, report = _doctor(cluster, "--index", str(tmp_path / "copy"))
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass  # it was open, and it still is: knocking did it no harm
    faults = {f["check"]: f for f in report["findings"] if f["severity"] == "fault"}
    assert code == 78
    assert report["worst"] == "fault"
    assert f"shard_server (pid {pid})" in faults["open-doors"]["what"]
    assert f":{port}" in faults["open-doors"]["what"]
    assert "in plaintext, and asks for no token" in faults["open-doors"]["what"]
    assert "--tls-certificate" in faults["open-doors"]["remedy"]
    assert str(victim) in faults["index-files"]["what"]
