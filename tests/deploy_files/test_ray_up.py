"""`ray up deploy/cluster.local.yaml` for real: two hosts over ssh, a cluster on them, an answer.

The hosts are namespaces (`ssh_hosts`). What is started is a copy of deploy/cluster.local.yaml in
which only this differs: the hosts, the ssh user and key, the set-up commands, which take this
checkout's environment instead of installing a wheel, and with them the folder of that wheel.
`make test-cluster` runs it, as root, and puts its transcript into docs/ray.md.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trustme
import yaml
from deploy_files.ssh_hosts import ROOT, Machine, machines, missing_tools
from facts import FACTS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

BIN = Path(sys.prefix) / "bin"
TRANSCRIPT = ROOT / ".build" / "cluster" / "transcript.txt"
ENV = "~/shoal-env/bin"
SERVER_NAME = "shoal.example"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """Where the operator types: runs commands on its machine and writes down what is told."""

    def __init__(self, operator: Machine) -> None:
        self._operator = operator
        self.lines: list[str] = []

    def run(self, *command: str, limit_s: float = 120.0, token: str = "") -> str:
        """What a command of the checkout's environment prints, once it succeeded."""
        environment = [f"PYTHONPATH={ROOT}", f"PATH={BIN}:{os.defpath}"]
        environment += [f"SHOAL_TOKEN={token}"] if token else []
        done = subprocess.run(
            self._operator.command("env", *environment, *command, folder=str(ROOT)),
            capture_output=True, text=True, timeout=limit_s, check=False,
        )  # fmt: skip
        told = COLOURS.sub("", done.stdout)
        assert done.returncode == 0, f"{' '.join(command)}\n{told}\n{done.stderr}"
        return told

    def note(self, command: str, told: str) -> None:
        """A command and what it printed, for the page."""
        self.lines += [f"$ {command}", *(line.rstrip() for line in told.splitlines())]


def _derived(head: Machine, worker: Machine) -> str:
    """The operator's copy of deploy/cluster.local.yaml; what differs is all here."""
    config = yaml.safe_load((ROOT / "deploy" / "cluster.local.yaml").read_text())
    config["provider"].update(head_ip=head.address, worker_ips=[worker.address])
    config["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
    config["file_mounts"]["~/shoal-wheel"] = "/root/no-wheel"
    *_, shell = config["setup_commands"]
    config["setup_commands"] = [
        f"ln -sfn {sys.prefix} ~/shoal-env",
        f"echo 'export PYTHONPATH={ROOT}' > ~/.bashrc",
        shell,
    ]
    return yaml.safe_dump(config)


@pytest.fixture(scope="module")
def books(tmp_path_factory) -> Path:
    """An index of facts in two shards, made by the public command with the packaged encoder."""
    folder = tmp_path_factory.mktemp("books")
    lines = [json.dumps({"_id": i, "title": t, "text": x}) for i, (t, x) in FACTS.items()]
    (folder / "facts.jsonl").write_text("\n".join(lines))
    command = ["index", "build", "--corpus", str(folder / "facts.jsonl"), "--shards", "2",
               "--index", str(folder / "index")]  # fmt: skip
    subprocess.run(
        [str(BIN / "shoal"), *command], check=True, capture_output=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return folder / "index"


@pytest.fixture
def hosts(tmp_path, books):
    """The operator's machine, the head and the worker; index, certificate and tokens in place."""
    if os.geteuid() != 0:
        pytest.skip("only root makes namespaces")
    if lacking := missing_tools():
        pytest.skip(f"not installed: {', '.join(lacking)} (openssh-server, rsync, iproute2)")
    with machines(tmp_path, ("head", "worker")) as (operator, head, worker):
        authority = trustme.CA()
        certificate = authority.issue_cert(SERVER_NAME)
        for machine in (operator, head, worker):
            home = tmp_path / machine.name / "root"
            shutil.copytree(books, home / "books", symlinks=True)
            (home / "shoal-access").mkdir()
            authority.cert_pem.write_to_path(str(home / "shoal-access/ca.pem"))
            certificate.private_key_pem.write_to_path(str(home / "shoal-access/server.key"))
            for at, pem in enumerate(certificate.cert_chain_pems):
                pem.write_to_path(str(home / "shoal-access/server.pem"), append=at > 0)
        home = tmp_path / "operator/root"
        (home / "no-wheel").mkdir()
        (home / "cluster.yaml").write_text(_derived(head, worker))
        yield operator, head, worker, home


def _wait_for_nodes(terminal: Terminal, n_nodes: int, limit_s: float) -> str:
    end_s = time.monotonic() + limit_s
    while True:
        told = terminal.run("ray", "exec", "/root/cluster.yaml", f"{ENV}/ray status")
        counts = re.findall(r"^ (\d+) local\.cluster\.node", told, re.MULTILINE)
        if sum(map(int, counts)) >= n_nodes:
            return told[told.index("======") :].partition("Resources")[0].rstrip(" -\n")
        assert time.monotonic() < end_s, told
        time.sleep(2)


def _deploy(terminal: Terminal, head: Machine, home: Path) -> tuple[str, str]:
    """Starts the cluster through `ray exec`; its target, and a token that may search."""
    made = terminal.run("shoal", "token", "new", "--name", "website", "--scopes", "search",
                        "--file", "/root/shoal-access/tokens.yaml", "--json")  # fmt: skip
    for name in ("head", "worker"):
        shutil.copy(home / "shoal-access/tokens.yaml", home.parents[1] / name / "root/shoal-access")
    up = (
        f"{ENV}/shoal up --on ray --index ~/books --replicas 2 --routers 2 --port 50051 "
        "--shard-cpus 0.5 --encoder-cpus 0.5 --router-cpus 0.5 "
        "--tls-certificate ~/shoal-access/server.pem --tls-key ~/shoal-access/server.key "
        f"--tls-ca ~/shoal-access/ca.pem --tls-server-name {SERVER_NAME} "
        "--tokens ~/shoal-access/tokens.yaml"
    )
    told = terminal.run("ray", "exec", "/root/cluster.yaml", up, limit_s=400)
    own = re.compile(r"(ready: |replica |[a-z][\w.-]+ +\d)")  # not what `ray exec` logs
    shown = [line for line in told.splitlines() if own.match(line)]
    terminal.note(f"ray exec deploy/cluster.local.yaml '{up}'", "\n".join(shown))
    (target,) = re.findall(r"^ready: index .* at (\S+)", told, re.MULTILINE)
    return target, json.loads(made)["token"]


def _examine(terminal: Terminal, worker: Machine) -> None:
    """What `shoal doctor` says on the head, and what Kubernetes' probe of a node would."""
    # what else it finds, and so its exit code, is this machine's own: its clock, its file modes
    command = f"{ENV}/shoal doctor || true"
    told = terminal.run("ray", "exec", "/root/cluster.yaml", command)
    shown = [line for line in told.splitlines() if re.match(r"(warning|fault): (port|Ray)", line)]
    terminal.note(f"ray exec deploy/cluster.local.yaml '{ENV}/shoal doctor'", "\n".join(shown))
    assert [line.partition(",")[0] for line in shown] == [
        "warning: port 6379", "warning: port 10001", "warning: port 52365",
        "warning: Ray's nodes talk to each other in plaintext",
    ]  # fmt: skip
    ask = (
        f"import urllib.request as u; print(u.urlopen('http://{worker.address}:52365{{}}').status)"
    )
    assert terminal.run("python", "-c", ask.format("/api/healthz")) == "200\n"


def _alive(machine: Machine) -> list[str]:
    """What runs on a machine beside its first process and sshd."""
    told = machine.processes().values()
    return [line for line in told if not line.startswith(("sshd: ", "sleep infinity"))]


def test_ray_up_ends_with_a_cluster_that_answers_and_ray_down_leaves_nothing(hosts):
    """What deploy/cluster.local.yaml promises an operator, from an empty host to none."""
    operator, head, worker, home = hosts
    terminal = Terminal(operator)
    terminal.run("ray", "get-auth-token", "--generate")
    terminal.note("ray get-auth-token --generate", "")
    told = terminal.run("ray", "up", "--yes", "/root/cluster.yaml", limit_s=240)
    assert "Ray runtime started." in told
    terminal.note("ray up --yes deploy/cluster.local.yaml", "Ray runtime started.")
    terminal.note("ray exec deploy/cluster.local.yaml '~/shoal-env/bin/ray status'",
                  _wait_for_nodes(terminal, 2, 180))  # fmt: skip
    _examine(terminal, worker)
    try:
        target, token = _deploy(terminal, head, home)
        assert target.count(":50051") == 2, target
        search = ("shoal", "search", "What is the capital of France?", "-k", "1",
                  "--target", target, "--tls-ca", "/root/shoal-access/ca.pem",
                  "--tls-server-name", SERVER_NAME)  # fmt: skip
        answer = json.loads(terminal.run(*search, "--json", token=token))
        terminal.note(f"shoal search {search[2]!r} -k 1 --target {target} "
                      f"--tls-ca ca.pem --tls-server-name {SERVER_NAME}",
                      terminal.run(*search, token=token))  # fmt: skip
        assert answer["hits"][0]["id"] == "paris"
        assert answer["coverage"] == 1
        terminal.run("ray", "exec", "/root/cluster.yaml", f"{ENV}/shoal down")
        terminal.note(f"ray exec deploy/cluster.local.yaml '{ENV}/shoal down'", "")
    finally:
        terminal.run("ray", "down", "--yes", "/root/cluster.yaml", limit_s=120)
    terminal.note("ray down --yes deploy/cluster.local.yaml", "No nodes remaining.")
    terminal.run("ssh", "-o", "StrictHostKeyChecking=no", worker.address, f"{ENV}/ray stop")
    terminal.note(f"ssh {worker.address} '{ENV}/ray stop'", "")
    end_s = time.monotonic() + 30
    while left := _alive(head) + _alive(worker):
        assert time.monotonic() < end_s, left
        time.sleep(0.5)
    TRANSCRIPT.parent.mkdir(parents=True, exist_ok=True)
    TRANSCRIPT.write_text("\n".join(terminal.lines) + "\n")
