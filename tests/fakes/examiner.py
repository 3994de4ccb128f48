"""`python -m shard_server.examine` again and again for one start of Python: each is a fork.

The examination takes 50 ms, what it imports more than a second. `Examiner.run` stands in
for `run_child`; the program forks, gives the fork its arguments and its input, and tells how it
ended. What is limited, crashes and is told is the same.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Examiner:
    """The process that forks; ends with `close`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(self, command, **given) -> subprocess.CompletedProcess[bytes]:
        """As `run_child` for the command that `examine_shard` starts."""
        assert command[1:4] == ["-P", "-m", "shard_server.examine"]
        arguments = command[4:-1]  # the last is whom it dies with
        asked = {"arguments": arguments, "manifest": given["input"].decode()}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        output = {name: told[name].encode("latin-1") for name in ("stdout", "stderr")}
        return subprocess.CompletedProcess(command, told["returncode"], **output)

    def close(self) -> None:
        """No more to examine."""
        self._process.communicate(timeout=30)


def fork_one(asked: dict) -> dict:
    from shard_server import examine

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            code = 70
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.stdout = open(1, "w")  # noqa: SIM115 -- dies with the process
                sys.stderr = open(2, "w")  # noqa: SIM115
                sys.stdin = io.TextIOWrapper(io.BytesIO(asked["manifest"].encode()))
                code = examine.main(*asked["arguments"])
            except BaseException:  # noqa: BLE001 -- as Python ends
                sys.excepthook(*sys.exc_info())
                code = 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        told = {"returncode": code}
        for name, file in (("stdout", out), ("stderr", err)):
            file.seek(0)
            told[name] = file.read().decode("latin-1")
    return told


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(fork_one(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
