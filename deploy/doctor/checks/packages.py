"""The installed packages, and the releases that a cluster's processes run. Pure."""

from collections.abc import Iterator

from deploy.doctor.facts.record import Facts
from deploy.doctor.findings import Finding, fault, note, ok, warning

_UNHARDENED = ("faiss-gpu-cu11", "faiss-gpu-cu12")


def python_packages(facts: Facts) -> Iterator[Finding]:
    """A Python or a package outside the range that this release supports."""
    told = facts.packages
    if told is None:
        return
    name = "packages"
    if not told.python_fits:
        yield fault(
            name,
            f"Python {told.python} is not supported: shoal {told.shoal} wants {told.python_wanted}",
            "run Shoal with a Python of that range",
        )
    wrong = [package for package in told.packages if not package.fits]
    for package in wrong:
        yield fault(
            name,
            f"{package.name} {package.version} is installed, and shoal {told.shoal} supports "
            f"{package.wanted}",
            f"pip install '{package.name}{package.wanted}'",
        )
    if told.recorded != told.shoal:
        yield note(
            name,
            f"the installation is recorded as {told.recorded}, and its code is {told.shoal}: what "
            "it requires may have changed",
            "install it again: pip install -e .",
        )
    if told.python_fits and not wrong:
        yield ok(name, f"Python {told.python}, and {len(told.packages)} packages in their ranges")


def faiss_build(facts: Facts) -> Iterator[Finding]:
    """A faiss that doesn't load, of which there are two, or that believes hostile files."""
    build = facts.faiss
    if build is None:
        return
    name = "faiss-build"
    if len(build.wheels) > 1:
        both = " and ".join(wheel for wheel, _ in build.wheels)
        yield fault(
            name,
            f"{both} are installed, and both provide the module faiss: files of either are loaded",
            f"pip uninstall {' '.join(wheel for wheel, _ in build.wheels)}, then install one",
        )
    if build.fault:
        yield fault(
            name,
            f"faiss can't be loaded: {build.fault}",
            "install the wheel for this processor and CUDA again: pip install --force-reinstall "
            f"{build.wheels[0][0]}",
        )
    for wheel, version in build.wheels:
        if wheel in _UNHARDENED:
            yield warning(
                name,
                f"{wheel} {version} is a build that lacks the checks against hostile index files",
                "pip install 'shoal[shard-gpu]' in its place",
            )
    if len(build.wheels) == 1 and not build.fault and build.wheels[0][0] not in _UNHARDENED:
        wheel, version = build.wheels[0]
        yield ok(name, f"{wheel} {version} loads")


def releases(facts: Facts) -> Iterator[Finding]:
    """Processes of a cluster that run another release than this command, or than each other."""
    cluster, told = facts.cluster, facts.packages
    if cluster is None or not cluster.router_release or told is None:
        return
    name = "releases"
    seen = {"router": cluster.router_release}
    seen |= {f"{r.part} at {r.address}": r.release for r in cluster.replicas if r.release}
    here = told.shoal
    for who, release in seen.items():
        if _distance(release, here) > 1:
            yield fault(
                name,
                f"{who} runs shoal {release}, and this command is {here}: only adjacent minor "
                "releases work together",
                "bring both to one release, over each minor one between them",
            )
    if len(set(seen.values())) > 1:
        mixed = ", ".join(f"{who} {release}" for who, release in seen.items())
        yield warning(
            name,
            f"the cluster's processes run several releases: {mixed}",
            "start those of the older one again; adjacent minor releases work together meanwhile",
        )
    elif _distance(cluster.router_release, here) == 1 or (
        cluster.router_release != here and _distance(cluster.router_release, here) == 0
    ):
        yield note(name, f"the cluster runs shoal {cluster.router_release}, this command is {here}")
    elif cluster.router_release == here:
        yield ok(name, f"the router and {len(seen) - 1} replicas run shoal {here}, as this command")
    for replica in cluster.replicas:
        if replica.why:
            what = f"the release of {replica.part} at {replica.address} is unknown: {replica.why}"
            yield note(name, what)


def _distance(one: str, other: str) -> int:
    """Minor releases between two; another major one is far, and so is what is no release."""
    try:
        a, b = ([int(part) for part in text.split(".")[:2]] for text in (one, other))
    except ValueError:
        return 0 if one == other else 2
    return 2 if a[0] != b[0] else abs(a[1] - b[1])
