"""The session's cluster, and what every fault's test checks at its end."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from faults import stub
from faults.index import MiniIndex, build
from faults.mini import Mini
from faults.oracle import Oracle
from faults.processes import Process, poll
from faults.record import Record

N_QUERIES = 64


@pytest.fixture(scope="session")
def rate(pytestconfig: pytest.Config) -> float:
    """Queries a second of the open loop."""
    return pytestconfig.getoption("--rate")


@pytest.fixture(scope="session")
def mini_index(tmp_path_factory: pytest.TempPathFactory) -> MiniIndex:
    return build(tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [f"question {number}" for number in range(N_QUERIES)]


@pytest.fixture(scope="session")
def oracle(mini_index: MiniIndex, texts: list[str]) -> Oracle:
    return Oracle(mini_index, np.stack([stub.vector_of(text) for text in texts]))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, mini_index: MiniIndex) -> Iterator[Mini]:
    """The session's processes."""
    mini = Mini(tmp_path_factory.mktemp("cluster"), mini_index)
    try:
        yield mini
    finally:
        mini.end_all()


@pytest.fixture
def mini(cluster: Mini) -> Iterator[Mini]:
    """The session's processes, this test's routers, and I4 at its end."""
    try:
        yield cluster
        cluster.refuse_unexpected_ends()
    finally:
        cluster.end_test()


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Iterator[Record]:
    """The test's line in the results; its docstring begins "Fault N: ..."."""
    head, _, told = (request.function.__doc__ or "").partition(": ")
    assert head.startswith("Fault "), f"{request.node.name} names no fault"
    fault = told.partition("\n")[0].strip().rstrip(".")
    if (case := getattr(request.node, "callspec", None)) is not None:
        fault = f"{fault} ({case.id})"
    judges_times = request.config.getoption("--judge-times")
    line = Record(row=head.removeprefix("Fault "), fault=fault, judges_times=judges_times)
    n_failed = request.session.testsfailed
    yield line
    line.write(is_kept=request.session.testsfailed == n_failed)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test that measured a broken promise has failed, once it has measured everything."""
    done = yield
    record = getattr(item, "funcargs", {}).get("record")
    if isinstance(record, Record):
        record.refuse_broken()
    return done


@pytest.fixture
def steady() -> Callable[..., Callable[[], None]]:
    """I5: takes the memory and descriptors of processes, and later checks that they are back.

    Within 10 % and 8 MiB: a process that has just started keeps buffers that its first calls made.
    """

    def take(*processes: Process) -> Callable[[], None]:
        before = [(p, p.pid, p.rss_bytes(), p.n_fds()) for p in processes]

        def check() -> None:
            for process, pid, n_bytes, n_fds in before:
                assert process.pid == pid, f"{process.name} is another process"
                poll(lambda p=process, n=n_fds: p.n_fds() <= n + 8, within_s=60.0,
                     what=f"{process.name} has its {n_fds} descriptors again")  # fmt: skip
                poll(lambda p=process, n=n_bytes: p.rss_bytes() <= 1.1 * n + (8 << 20),
                     within_s=60.0, what=f"{process.name} has its memory again")  # fmt: skip

        return check

    return take
