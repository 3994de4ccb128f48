"""`shoal doctor` on Ray: the kernel's tables, Ray's processes, and the verdict; on real sockets."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.doctor.checks.ray import ray_authentication, ray_ports
from deploy.doctor.examination import examine
from deploy.doctor.facts.gathering import has_ray_token
from deploy.doctor.facts.ray_processes import (
    RayProcess,
    RayRole,
    encrypts,
    port_of,
    ports_of_others,
    ray_processes,
    role_of,
)
from deploy.doctor.facts.record import Facts
from deploy.doctor.facts.sockets import Listening, parse_table, read_listening
from deploy.doctor.findings import Severity, exit_code

ROOT = Path(__file__).resolve().parents[2]


def _gcs(mode, port=6379):
    return RayProcess(role=RayRole.GCS, pid=7, port=port, auth_mode=mode)


def _bad(findings):
    return [f for f in findings if f.severity is not Severity.OK]


def _open(port, host="0.0.0.0"):
    return Listening(host=host, port=port)


@contextlib.contextmanager
def _listener(host, family=socket.AF_INET):
    with socket.create_server((host, 0), family=family) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("host", "family", "exposed"),
    [
        ("127.0.0.1", socket.AF_INET, False),
        ("0.0.0.0", socket.AF_INET, True),
        ("::1", socket.AF_INET6, False),
        ("::", socket.AF_INET6, True),
    ],
)
def test_a_real_socket_is_found_with_its_address(host, family, exposed):
    """What the kernel says is the truth, whatever a program's configuration promised."""
    try:
        listener = _listener(host, family)
        with listener as port:
            found = read_listening()
    except OSError:
        pytest.skip("this machine has no IPv6")
    # another process may have the port at another address
    assert [s.exposed for s in found if (s.host, s.port) == (host, port)] == [exposed]


def test_a_socket_that_only_connected_is_not_listening():
    """An outgoing connection opens nothing to anyone."""
    with _listener("127.0.0.1") as port, socket.create_connection(("127.0.0.1", port)) as other:
        assert not [s for s in read_listening() if s.port == other.getsockname()[1]]


@pytest.mark.skipif(sys.byteorder != "little", reason="the table below was written by one")
def test_an_ipv4_address_in_ipv6_clothes_is_loopback_still():
    """Java and gRPC listen on ::ffff:127.0.0.1, which other machines can't reach."""
    table = (
        "  sl  local_address                         remote_address st\n"
        "   0: 0000000000000000FFFF00000100007F:2711 00000000000000000000000000000000:0000 0A 0 0\n"
    )
    assert parse_table(table) == [Listening(host="127.0.0.1", port=10001)]


@pytest.mark.parametrize("port", [6379, 8265, 10001, 52365])
def test_a_port_of_ray_that_is_open_without_authentication_is_a_fault(port):
    """Fault 53: whoever reaches it runs code on the cluster."""
    findings = _bad(examine(Facts(listening=(_open(port),), has_token=True)))
    assert [(f.check, f.severity) for f in findings] == [("ray-ports", Severity.FAULT)]
    assert str(port) in findings[0].what
    assert "RAY_AUTH_MODE=token" in findings[0].remedy


@pytest.mark.parametrize("port", [6379, 8265, 10001, 52365])
def test_a_port_of_ray_on_loopback_is_nothing(port):
    """`ray dashboard` and ssh reach it there, and nobody else does."""
    listening = (_open(port, "127.0.0.1"), _open(port, "::1"))
    assert not _bad(ray_ports(Facts(listening=listening)))


def test_what_nodes_need_of_each_other_is_a_warning_once_tokens_are_asked_for():
    """A cluster of several machines can't have its GCS on loopback; its dashboard it can."""
    facts = Facts(
        ray=(_gcs("token"),),
        listening=(_open(6379), _open(8265), _open(10001), _open(52365, "10.0.0.7")),
    )
    assert {f.what.split(",")[0]: f.severity for f in ray_ports(facts)} == {
        "port 6379": Severity.WARNING,
        "port 8265": Severity.FAULT,
        "port 10001": Severity.WARNING,
        "port 52365": Severity.WARNING,
    }


@pytest.mark.parametrize(
    ("encrypts", "host", "told"),
    [(False, "0.0.0.0", True), (True, "0.0.0.0", False), (None, "0.0.0.0", False),
     (False, "127.0.0.1", False)],
)  # fmt: skip
def test_a_network_that_carries_our_token_in_plaintext_is_told(encrypts, host, told):
    """The token between our own processes goes through Ray's connections: RAY_USE_TLS closes them,
    and on loopback nobody listens.
    """
    gcs = RayProcess(role=RayRole.GCS, pid=7, port=6379, auth_mode="token", encrypts=encrypts)
    facts = Facts(ray=(gcs,), listening=(_open(6379, host),))
    found = [f for f in examine(facts) if f.check == "ray-encryption"]
    assert [f.severity for f in found] == [Severity.WARNING] * told
    assert all("RAY_USE_TLS=1" in f.remedy for f in found)


def test_ray_is_looked_for_where_it_was_told_to_listen():
    """`ray start --port` moves the GCS, and what is at 6379 then is another program."""
    facts = Facts(ray=(_gcs("token", port=7001),), listening=(_open(6379), _open(7001)))
    assert [f.what.split(",")[0] for f in ray_ports(facts)] == ["port 7001"]


def test_another_program_at_a_port_of_ray_is_not_ray():
    """A Redis has 6379 for its own: to protect Ray would not protect it."""
    facts = Facts(listening=(_open(6379), _open(8265)), not_rays=frozenset({6379}))
    assert [f.what.split(",")[0] for f in _bad(ray_ports(facts))] == ["port 8265"]
    seen = Facts(ray=(_gcs("token"),), listening=(_open(6379),), not_rays=frozenset({6379}))
    assert len(_bad(ray_ports(seen))) == 1, "what Ray was told to listen on is Ray's"


_LISTEN = (
    "import socket, sys\n"
    "server = socket.create_server((sys.argv[1], 0))\n"
    "print(server.getsockname()[1], flush=True)\n"
    "sys.stdin.read()\n"
)


@pytest.mark.parametrize(
    ("title", "host", "is_others"),
    [
        ("redis-server", "0.0.0.0", True),
        ("redis-server", "127.0.0.1", False),
        ("ray::DashboardAgent", "0.0.0.0", False),
    ],
)
def test_who_holds_a_port_is_told_by_its_command_line(title, host, is_others):
    """A real process under that title; one that could be Ray's is taken for Ray's."""
    child = subprocess.Popen(
        [title, "-c", _LISTEN, host], executable=sys.executable,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        port = int(child.stdout.readline())
        assert ports_of_others({port}) == (frozenset({port}) if is_others else frozenset())
    finally:
        child.communicate()
    assert ports_of_others({port}) == frozenset()


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(ray=(_gcs("token"),)), None),
        (Facts(ray=(_gcs(""),), auth_mode="token"), Severity.FAULT),
        (Facts(ray=(_gcs("disabled"),)), Severity.FAULT),
        (Facts(ray=(_gcs(None),)), Severity.WARNING),
        (Facts(auth_mode="token"), None),
        (Facts(auth_mode="disabled", has_token=True), Severity.FAULT),
        (Facts(has_token=True), None),
        (Facts(), Severity.NOTE),
    ],
)
def test_authentication_is_judged_by_what_runs_and_else_by_what_would(facts, expected):
    """Fault 53: the environment of a running process counts; this shell's only before it runs."""
    assert next((f.severity for f in _bad(ray_authentication(facts))), None) == expected


def test_faults_come_first_and_decide():
    """Who reads one line reads the one that matters."""
    findings = _bad(examine(Facts(ray=(_gcs(None), _gcs("")), listening=(_open(6379),))))
    severities = [finding.severity for finding in findings]
    assert severities == [Severity.FAULT, Severity.FAULT, Severity.WARNING]
    assert [exit_code(findings), exit_code(findings[-1:]), exit_code(())] == [78, 1, 0]


@pytest.mark.parametrize(
    ("command", "role", "port"),
    [
        (["/x/ray/core/src/ray/gcs/gcs_server", "--gcs_server_port=6380"], RayRole.GCS, 6380),
        (["/x/raylet", "--node_manager_port=0"], RayRole.NODE, None),
        (
            ["/x/raylet", "--dashboard_agent_command=python agent.py --listen-port=52366 --x=1"],
            RayRole.NODE,
            52366,
        ),
        (["/x/raylet", "--dashboard_agent_command=agent.py --listen-port=0"], RayRole.NODE, None),
        (["python3", "/x/ray/dashboard/dashboard.py", "--port=8266"], RayRole.DASHBOARD, 8266),
        (["python3", "-m", "ray.util.client.server", "--port=10002"], RayRole.CLIENT, 10002),
        (["vim", "gcs_server"], None, None),
        ([""], None, None),
    ],
)
def test_rays_processes_are_known_by_their_command_lines(command, role, port):
    """As `ps` shows them for ray 2.60."""
    assert role_of(command) is role
    assert role is None or port_of(role, command) == port


@contextlib.contextmanager
def _running_gcs(folder, port, mode):
    """A process that looks like Ray's GCS from outside: its name, its flag, its environment."""
    program = folder / "gcs_server"
    program.symlink_to(sys.executable)
    command = [program, "-c", "import time; time.sleep(600)", f"--gcs_server_port={port}"]
    with subprocess.Popen(command, env={**os.environ, "RAY_AUTH_MODE": mode}) as process:
        try:
            end_s = time.monotonic() + 60
            while process.pid not in [seen.pid for seen in ray_processes()]:
                assert time.monotonic() < end_s
            yield process
        finally:
            process.kill()


def test_a_process_is_read_with_its_port_and_its_environment(tmp_path):
    """Its own environment counts, not the one that `shoal doctor` runs in."""
    with _running_gcs(tmp_path, 6390, "Token") as process:
        (seen,) = [p for p in ray_processes() if p.pid == process.pid]
    assert (seen.role, seen.port, seen.auth_mode) == (RayRole.GCS, 6390, "token")
    assert seen.encrypts is False
    assert encrypts({"RAY_USE_TLS": "1"})


def test_a_token_is_looked_for_where_ray_does(tmp_path):
    """RAY_AUTH_TOKEN, then RAY_AUTH_TOKEN_PATH, then ~/.ray/auth_token."""
    assert not has_ray_token({}, tmp_path)
    assert has_ray_token({"RAY_AUTH_TOKEN": "x"}, tmp_path)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    assert has_ray_token({}, tmp_path)
    assert not has_ray_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, tmp_path)


def test_a_token_that_cannot_be_looked_for_is_none():
    """HOME may be another user's folder, where asking is an error: Ray would find none either."""
    assert not has_ray_token({"RAY_AUTH_TOKEN_PATH": "x" * 5_000})


def _doctor(environment, *arguments):
    return subprocess.run(
        [sys.executable, "-c", "from deploy.cli.main import main; main()", "doctor", *arguments],
        capture_output=True, text=True, timeout=250, env={**os.environ, **environment}, cwd=ROOT,
    )  # fmt: skip


def test_the_command_fails_loudly_where_authentication_is_off():
    """Fault 53: exit code not 0, one finding a line with what to do, and JSON for programs."""
    told = _doctor({"RAY_AUTH_MODE": "disabled"}, "--json")
    answer = json.loads(told.stdout)
    assert told.returncode == 78
    assert not answer["well"]
    assert "ray-authentication" in {f["check"] for f in answer["findings"]}
    assert all(f["remedy"] for f in answer["findings"])
    assert "ray" not in told.stderr


def test_the_command_finds_a_port_that_really_is_open(tmp_path):
    """Fault 53, on a real socket that stands for the GCS's."""
    with _listener("0.0.0.0") as port, _running_gcs(tmp_path, port, "disabled"):
        told = _doctor({"RAY_AUTH_MODE": "token"})
    assert told.returncode == 78
    assert f"fault: port {port}, Ray's GCS, is open to other machines on 0.0.0.0" in told.stdout
    assert "set RAY_AUTH_MODE=token" in told.stdout
