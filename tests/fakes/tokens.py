"""Tokens that tests show at a door, and the file that the door knows them by."""

from pathlib import Path
from typing import Any

import yaml

from shoal.credentials import Credentials
from shoal.rpc.tokens import new_token

SEARCH = "/shoal.v1.SearchService/Search"
SEARCHER, OPERATOR, FORMER = new_token(), new_token(), new_token()


def write_tokens(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"tokens": list(entries)}))
    return path


def bearer(token: str) -> Any:
    """The metadata of a call that shows it."""
    return Credentials(token=token).metadata
