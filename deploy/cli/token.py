"""`shoal token new`: a secret for one caller, and its hash for the servers."""

import fcntl
import os
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli import flags
from deploy.cli.output import note, write, write_json
from shoal.errors import StorageError

app = typer.Typer(
    help="Tokens: who may call a cluster.",
    rich_markup_mode=None,
    callback=flags.help_without_command,
    invoke_without_command=True,
)


@app.command()
def new(
    *,
    scopes: Annotated[
        str, typer.Option("--scopes", help="search, encode, admin; several with commas.")
    ],
    file: Annotated[Path, typer.Option("--file", help="The tokens file; made where it is not.")],
    name: Annotated[str, typer.Option("--name", help="Whom it is for; logs name calls by it.")],
    expires: Annotated[
        str | None, typer.Option("--expires", help="Last moment, such as 2027-01-31T12:00:00Z.")
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Make a token: shown once here, kept only as its hash in the tokens file."""
    from shoal.rpc.tokens import entry_of, new_token

    token = new_token()
    entry = entry_of(name, token, [scope.strip() for scope in scopes.split(",")], expires)
    _append(file, entry)
    if as_json:
        write_json({"name": name, "token": token, "scopes": entry["scopes"], "expires": expires})
    else:
        write(token)
        note(f"added {name!r} to {file}; the token is shown this once")


def _append(path: Path, entry: dict[str, object]) -> None:
    from shoal.rpc.tokens import read_tokens, with_entry

    path = Path(os.path.realpath(path))  # a link stays one, and what it names is replaced
    partial = path.with_name(f".{path.name}.new")
    try:
        # held while the file is read and replaced: two at once must both be in it
        with path.with_name(f".{path.name}.lock").open("a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            text, old = "", None
            if path.exists():
                read_tokens(path)
                text, old = path.read_text(encoding="utf-8"), path.stat()
            try:
                partial.write_text(with_entry(text, entry), encoding="utf-8")
                if old is not None:
                    # the servers that read it may be other users'
                    os.chown(partial, old.st_uid, old.st_gid)
                partial.chmod(old.st_mode & 0o777 if old else 0o600)
                read_tokens(partial)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as failure:
        raise StorageError(f"can't write {path}: {failure.strerror}") from failure
