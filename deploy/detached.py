"""A launcher in the background: started in a session of its own, awaited, found again and ended."""

import contextlib
import os
import signal
import subprocess
import sys
import time

from deploy.child import error_of_exit, told_reason
from deploy.state import (
    ClusterPaths,
    ClusterState,
    ProcessState,
    forget_empty,
    hold_cluster,
    paths_of,
    read_state,
    refuse_ray,
    start_time,
)
from shoal.child_environment import import_environment
from shoal.errors import LockedError, StorageError, UnavailableError

_POLL_S = 0.05


def start_detached(name: str, command: list[str], timeout_s: float) -> ClusterState:
    """Starts `command` (an `up` without --detach) in a session of its own; waits until it is ready.

    Raises:
        ShoalError: it ended before; with its message and its exit code's class.
    """
    paths = paths_of(name)
    refuse_ray(name)
    running = read_state(name)
    if running is not None and running.alive:
        raise LockedError(
            f"cluster {name!r} is running already, pid {running.pid}; end it with 'shoal down' or "
            "choose another --name"
        )
    try:
        paths.folder.mkdir(parents=True, exist_ok=True)
        # appended: where two start at once, the loser must not wipe the winner's log
        log = paths.launcher_log.open("ab")
    except OSError as failure:
        raise StorageError(f"can't write {failure.filename}: {failure.strerror}") from failure
    with log:
        launcher = subprocess.Popen(  # noqa: S603 -- our own program with the operator's arguments
            [sys.executable, "-P", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, **import_environment()},
        )
    try:
        return _until_ready(name, launcher, paths, timeout_s)
    except BaseException:  # Ctrl-C too: what isn't ready must not stay
        launcher.terminate()
        launcher.wait()
        _forget_log(name)
        raise


def _forget_log(name: str) -> None:
    """Removes the launcher's log, which has been told, where no process has begun one of its own.

    Under the cluster's lock: where two start at once, the winner's must stay.
    """
    with contextlib.suppress(LockedError, StorageError), hold_cluster(name) as paths:
        if [*paths.folder.iterdir()] == [paths.launcher_log]:
            paths.launcher_log.unlink()
            forget_empty(paths)


def _until_ready(
    name: str, launcher: subprocess.Popen[bytes], paths: ClusterPaths, timeout_s: float
) -> ClusterState:
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        state = read_state(name)
        if state is not None and state.pid == launcher.pid and state.phase == "ready":
            return state
        code = launcher.poll()
        if code is not None:
            raise error_of_exit(
                code, told_reason(paths.launcher_log) or "the launcher ended without a word"
            )
        time.sleep(_POLL_S)
    raise UnavailableError(
        f"the cluster did not start within {timeout_s:g} s; see {paths.launcher_log}"
    )


def end_cluster(name: str, timeout_s: float) -> ClusterState | None:
    """Ends the cluster `name` and returns what it was; None where none was running.

    The launcher drains and stops its processes. Where it is gone, or isn't done after `timeout_s`
    seconds, what is left of its processes is killed.
    """
    state = read_state(name)
    if state is None:
        return None
    was_alive = state.alive
    until_s = time.monotonic() + timeout_s
    _signal(state.pid, state.started, signal.SIGTERM)
    while state.alive and time.monotonic() < until_s:
        time.sleep(_POLL_S)
    left = read_state(name) or state  # restarted processes have other pids
    _signal(left.pid, left.started, signal.SIGKILL)
    orphans = [process for process in left.processes if _is_alive(process)]
    for process in orphans:
        _signal(process.pid, process.started, signal.SIGKILL)
    paths_of(name).state.unlink(missing_ok=True)
    return state if was_alive or orphans else None


def _is_alive(process: ProcessState) -> bool:
    return process.pid > 0 and start_time(process.pid) == process.started


def _signal(pid: int, started: int, number: signal.Signals) -> None:
    if pid > 0 and start_time(pid) == started:  # the pid may be somebody else's by now
        os.kill(pid, number)
