"""Machines to log in to, made of Linux namespaces: own network, processes, /root, /tmp, /dev/shm.

Rule: nothing outlives the processes, and the machine's own network is never touched: the bridge
stands in a namespace of its own, and every namespace ends with the process that holds it. The
checkout and its Python are seen inside as they are outside; knows nothing of Ray or Shoal.
"""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "10.77.0"
COVERED = ("/tmp", "/root", "/dev/shm", "/run")  # each machine has its own
TOOLS = ("unshare", "nsenter", "ip", "mount", "ssh", "ssh-keygen", "rsync", "/usr/sbin/sshd")
_DEADLINE_S = 20.0
# the first process of a machine inherits what is orphaned there; ignoring SIGCHLD buries it
_REAP = "exec env --ignore-signal=CHLD sleep infinity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One set of namespaces; `pid` is their first process as this machine sees it."""

    name: str
    address: str
    pid: int

    def command(self, *arguments: str, folder: str = "/root") -> list[str]:
        """A command line that runs `arguments` inside, as root, with nothing of our environment."""
        inside = ["nsenter", "--target", str(self.pid), "--all", f"--wdns={folder}"]
        environment = ["HOME=/root", "USER=root", "LANG=C.UTF-8", f"PATH={_PATH}"]
        return [*inside, "env", "-i", *environment, *arguments]

    def processes(self) -> dict[int, str]:
        """Command lines of what runs inside, by pid as inside sees them; this look-up aside."""
        listing = subprocess.run(
            self.command("sh", "-c", "for d in /proc/[0-9]*; do [ -r $d/cmdline ] && "
                         "printf '%s %s\\n' ${d#/proc/} \"$(tr '\\0' ' ' < $d/cmdline)\"; done"),
            capture_output=True, text=True, timeout=_DEADLINE_S, check=False,
        ).stdout  # fmt: skip
        found = (line.partition(" ") for line in listing.splitlines())
        return {
            int(pid): text.strip() for pid, _, text in found if text and "/proc/[0-9]*" not in text
        }


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing_tools() -> list[str]:
    """Programs that these machines need and this one lacks."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


@contextlib.contextmanager
def machines(base: Path, names: Sequence[str]) -> Iterator[list[Machine]]:
    """An operator's machine and one for each name, which it can log in to as root with its key.

    The operator has NETWORK.1 and holds the bridge; the others have NETWORK.11 and on, and sshd.
    """
    with contextlib.ExitStack() as stack:
        key = base / "id_ed25519"
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key))
        operator = stack.enter_context(_machine(base, "operator", f"{NETWORK}.1", names))
        for command in (
            "ip link set lo up", "ip link add hosts type bridge", "ip link set hosts up",
            f"ip address add {operator.address}/24 dev hosts",
        ):  # fmt: skip
            _run(*operator.command(*command.split()))
        ssh = base / "operator/root/.ssh"
        shutil.copy(key, ssh / "id_ed25519")
        hosts = [
            stack.enter_context(_machine(base, name, f"{NETWORK}.{11 + i}", names))
            for i, name in enumerate(names)
        ]
        for host in hosts:
            shutil.copy(base / "id_ed25519.pub", base / host.name / "root/.ssh/authorized_keys")
            _connect(operator, host)
            _serve_ssh(base, host)
        yield [operator, *hosts]


@contextlib.contextmanager
def _machine(base: Path, name: str, address: str, names: Sequence[str]) -> Iterator[Machine]:
    own = base / name
    for covered in COVERED:
        (own / covered[1:]).mkdir(parents=True)
    (own / "root/.ssh").mkdir(mode=0o700)
    lines = ["127.0.0.1 localhost", f"{NETWORK}.1 operator"]
    lines += [f"{NETWORK}.{11 + i} {other}" for i, other in enumerate(names)]
    (own / "hosts").write_text("".join(f"{line}\n" for line in lines))
    (own / "resolv.conf").write_text("")  # a name that isn't in `hosts` is refused at once
    unshare = ["unshare", "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child",
               "--mount-proc"]  # fmt: skip
    holder = subprocess.Popen(
        [*unshare, "sh", "-ec", f"{_mounts(own)}\nhostname {name}\necho ready\n{_REAP}"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n", f"{name}: its namespaces can't be made"
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        yield Machine(name=name, address=address, pid=int(children[0]))
    finally:
        holder.kill()  # --kill-child: and with the first process in it, everything in it
        holder.wait(_DEADLINE_S)
        assert holder.stdout is not None
        holder.stdout.close()


def _mounts(own: Path) -> str:
    """Shell lines that put the machine's own folders over the real ones, the checkout left in."""
    lines = []
    kept = {str(path.resolve()) for path in map(Path, (ROOT, sys.prefix, sys.base_prefix))}
    for path in sorted(kept):
        if path.startswith(tuple(f"{covered}/" for covered in COVERED)):
            lines += [f"mkdir -p '{own}{path}'", f"mount --rbind '{path}' '{own}{path}'"]
    lines += [f"mount --bind '{own}/{name}' /etc/{name}" for name in ("hosts", "resolv.conf")]
    # the folder that holds them all may itself lie in one that is covered: that one goes last
    covered = sorted(COVERED, key=lambda path: str(own).startswith(f"{path}/"))
    lines += [f"mount --rbind '{own}{path}' {path}" for path in covered]
    return "\n".join(lines)


def _connect(operator: Machine, host: Machine) -> None:
    link = f"to-{host.name}"
    # in the operator's network, but among this machine's processes: the host's pid is known here
    _run("nsenter", "--target", str(operator.pid), "--net", "ip", "link", "add", link,
         "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))  # fmt: skip
    _run(*operator.command("ip", "link", "set", link, "master", "hosts", "up"))
    for command in (
        "ip link set lo up", f"ip address add {host.address}/24 dev eth0", "ip link set eth0 up",
        f"ip route add default via {operator.address}",  # leads nowhere: the operator forwards none
    ):  # fmt: skip
        _run(*host.command(*command.split()))


def _serve_ssh(base: Path, host: Machine) -> None:
    home = base / host.name / "root"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / "host_key"))
    (home / "sshd_config").write_text(
        "HostKey /root/host_key\nPidFile none\nUsePAM no\nPermitRootLogin prohibit-password\n"
        f"PasswordAuthentication no\nListenAddress {host.address}\nSubsystem sftp internal-sftp\n"
    )
    (base / host.name / "run/sshd").mkdir(mode=0o755)
    _run(*host.command("/usr/sbin/sshd", "-f", "/root/sshd_config", "-E", "/root/sshd.log"))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
