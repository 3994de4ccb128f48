"""The installed packages beside what Shoal's own metadata asks for.

Rule: nothing is imported to learn its version. An extra counts as wanted where all that is its own
is there in any version: nobody must be told of packages for what they don't run.
"""

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

from deploy.doctor.facts.faiss_build import installed
from shoal import __version__

_SHOAL = "shoal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """An installed package, the range that Shoal supports, and whether it lies in it."""

    name: str
    version: str
    wanted: str
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Packages:
    """`python_fits` is False where this Python is below the one that Shoal needs, `python_wanted`.

    `shoal` is the release of the code, `recorded` the one that was installed: they differ where a
    checkout moved on. `packages` are all of Shoal's requirements that are installed.
    """

    python: str
    python_wanted: str
    python_fits: bool
    shoal: str
    recorded: str
    packages: tuple[Package, ...]


def read_packages() -> Packages:
    """This environment's.

    Raises:
        ImportError: `packaging` is not installed.
        PackageNotFoundError: Shoal runs from a checkout that was not installed.
    """
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415 -- not in the bare install

    own = metadata.distribution(_SHOAL)
    wanted = own.metadata["Requires-Python"] or ""
    return Packages(
        python=platform.python_version(),
        python_wanted=wanted,
        python_fits=SpecifierSet(wanted).contains(platform.python_version(), prereleases=True),
        shoal=__version__,
        recorded=own.version,
        packages=judge(own.requires or ()),
    )


def judge(requirements: Iterable[str]) -> tuple[Package, ...]:
    """Each installed package among `requirements` once, its ranges put together, by name."""
    from packaging.requirements import Requirement  # noqa: PLC0415 -- not in the bare install

    ranges: dict[str, str] = {}
    for text in requirements:
        requirement = Requirement(text)
        if requirement.name == _SHOAL or not str(requirement.specifier):
            continue
        told = filter(None, (ranges.get(requirement.name, ""), str(requirement.specifier)))
        ranges[requirement.name] = ",".join(
            sorted({part for text in told for part in text.split(",")})
        )
    return tuple(
        Package(name=name, version=version, wanted=wanted, fits=_fits(version, wanted))
        for name, wanted in sorted(ranges.items())
        if (version := installed(name))
    )


def _fits(version: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet  # noqa: PLC0415 -- not in the bare install

    return SpecifierSet(wanted).contains(version, prereleases=True)
