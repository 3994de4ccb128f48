"""The tokens file: who may do what, each token kept only as its SHA-256. Pure but for one read.

A token is 32 random bytes, so its plain hash tells nothing of it; slow password hashes protect
what people choose. The file is YAML (JSON is YAML too):

    tokens:
      - name: website
        sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
        scopes: [search]
        expires: 2027-01-31T00:00:00Z      # may be left out
"""

import contextlib
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from shoal.errors import ConfigError
from shoal.yaml_text import parse_yaml

SEARCH, ENCODE, ADMIN = "search", "encode", "admin"
SCOPES = frozenset((SEARCH, ENCODE, ADMIN))
PREFIX = "shoal_"
"""So that a token that leaked is known for one when found."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEYS = frozenset(("name", "sha256", "scopes", "expires"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What one token allows. `expires_s` is Unix time."""

    name: str
    digest: bytes
    scopes: frozenset[str]
    expires_s: float = float("inf")


def new_token() -> str:
    """A token that nobody can guess: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(token: str) -> bytes:
    """SHA-256 of the token's bytes; 32 bytes."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def find_grant(grants: Iterable[Grant], digest: bytes) -> Grant | None:
    """The grant of that digest. Compares with every one, so that time tells nothing of any."""
    found = None
    for grant in grants:
        if hmac.compare_digest(grant.digest, digest):
            found = grant
    return found


def read_tokens(path: Path) -> tuple[Grant, ...]:
    """The grants in a tokens file.

    Raises:
        ConfigError: naming the file, the entry and what is wrong with it.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise ConfigError(f"can't read the tokens file {path}: {failure.strerror}") from failure
    except ValueError as failure:
        raise ConfigError(f"the tokens file {path} is not valid YAML: {failure}") from failure
    entries = content.get("tokens") if isinstance(content, dict) else None
    if not isinstance(content, dict) or set(content) != {"tokens"} or not isinstance(entries, list):
        raise ConfigError(f"the tokens file {path} must hold one list, named tokens")
    grants = tuple(_grant(entry, f"{path}: tokens[{i}]") for i, entry in enumerate(entries))
    for what, values in (
        ("name", [grant.name for grant in grants]),
        ("sha256", [grant.digest.hex() for grant in grants]),
    ):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise ConfigError(f"{path}: the {what} {twice} is there twice")
    return grants


def entry_of(name: str, token: str, scopes: Iterable[str], expires: str | None) -> dict[str, Any]:
    """A new token's entry, as the file has it.

    Raises:
        ConfigError: a name, scope or date that the file can't have.
    """
    entry: dict[str, Any] = {
        "name": name,
        "sha256": digest_of(token).hex(),
        "scopes": sorted(set(scopes)),
    }
    if expires:
        entry["expires"] = expires
    _grant(entry, "the new token")
    return entry


def with_entry(text: str, entry: dict[str, Any]) -> str:
    """A valid tokens file's text (or "") with one entry more; comments stay where they can."""
    if not text.strip():
        return yaml.safe_dump({"tokens": [entry]}, sort_keys=False)
    wanted = {"tokens": [*yaml.safe_load(text)["tokens"], entry]}
    for indent in ("", "  "):
        lines = yaml.safe_dump([entry], sort_keys=False).splitlines()
        added = text.rstrip() + "\n" + "".join(f"{indent}{line}\n" for line in lines)
        with contextlib.suppress(yaml.YAMLError):
            if yaml.safe_load(added) == wanted:
                return added
    return yaml.safe_dump(wanted, sort_keys=False)


def _grant(entry: Any, where: str) -> Grant:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} must have a name, a sha256 and scopes")
    if unknown := sorted(map(str, set(entry) - _KEYS)):
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; known are name, sha256, "
                          "scopes and expires")  # fmt: skip
    name, digest, scopes = entry.get("name"), entry.get("sha256"), entry.get("scopes")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: the name must be 1 to 64 letters, digits, '.', '_', '@', '-'")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        # not shown: it may be the token itself, put there by mistake
        raise ConfigError(f"{where} ({name}): sha256 must be 64 lower-case hexadecimal digits")
    if not isinstance(scopes, list) or not scopes or not set(map(str, scopes)) <= SCOPES:
        raise ConfigError(f"{where} ({name}): scopes must be some of {', '.join(sorted(SCOPES))}")
    return Grant(
        name=name,
        digest=bytes.fromhex(digest),
        scopes=frozenset(map(str, scopes)),
        expires_s=_expires_s(entry.get("expires"), f"{where} ({name})"),
    )


def _expires_s(given: Any, where: str) -> float:
    if given is None:
        return float("inf")
    try:
        # YAML reads an unquoted date by itself
        moment = given if isinstance(given, datetime) else datetime.fromisoformat(str(given))
    except ValueError as failure:
        raise ConfigError(
            f"{where}: expires must be a date such as 2027-01-31 or 2027-01-31T12:00:00Z"
        ) from failure
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
