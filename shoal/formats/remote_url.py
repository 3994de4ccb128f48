"""An index's URL: told from a folder, shown without its secrets, and where its copy lies. Pure.

Must not know what lies at the URL, nor ask it.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from shoal.errors import ConfigError

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://.")
_USER = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(://[^\s?]*\?)[^\s'\"]+")


def is_url(index: str) -> bool:
    """Whether `index` names a URL; everything else is a folder."""
    return _URL.match(index) is not None


def redacted(text: str) -> str:
    """`text` with the user, password and query of every URL in it put out of sight."""
    return _QUERY.sub(r"\1***", _USER.sub("***@", text))


def refuse_credentials(url: str) -> None:
    """ConfigError for a URL with secrets: a process's arguments and state are read by others."""
    if redacted(url) != url:
        raise ConfigError(
            f"{redacted(url)}: a process keeps its URL where others read it; leave out user, "
            "password and query, and give credentials by the environment or the store's own files"
        )


def default_cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where local copies lie: $XDG_CACHE_HOME/shoal/indexes, or under ~/.cache."""
    home = environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "shoal" / "indexes"


def copy_folder(url: str, cache_dir: Path) -> Path:
    """The folder of the copy of what lies at `url`; its name can be told by people."""
    plain = redacted(url).rstrip("/")
    digest = hashlib.sha256(plain.encode()).hexdigest()[:16]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", plain.rpartition("/")[2]).strip("-")[:40]
    return cache_dir / (f"{stem}-{digest}" if stem else digest)
