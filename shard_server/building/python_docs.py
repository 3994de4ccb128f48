"""The interpreter's own documentation as a corpus: real text that every machine has.

Language topics come from pydoc, the standard library's docstrings from its source by `ast`, and
those of types and functions in C from modules that the interpreter has loaded or built in.
Rule: nothing is imported that runs anything on import; the order is the same on every run.
"""

import ast
import importlib
import inspect
import os
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shard_server.building.chunk import cut
from shard_server.building.passage import Passage

MIN_WORDS = 6

# Tests, windows, editors, games, what is deprecated for removal, and machinery that few ask about.
_SKIPPED_NAMES = """
    __phello__ aifc asynchat asyncore bdb cgi cgitb chunk crypt ctypes distutils dom encodings
    ensurepip expat ftplib idlelib imaplib imghdr lib2to3 mailbox mailcap msilib nntplib ntpath
    opcode pdb pickletools pipes plistlib poplib proactor_events pydoc pydoc_data readers sax
    selector_events smtpd sndhdr sre_compile sre_constants sre_parse sslproto sunau symtable
    telnetlib test tests this tkinter turtle turtledemo unix_events uu windows_events
    windows_utils wsgiref xdrlib xmlrpc
"""
_SKIPPED = frozenset(_SKIPPED_NAMES.split())

# C modules with the name that the documentation gives to what is in them.
_C_MODULES = {
    "builtins": "", "_collections": "collections", "_functools": "functools", "_io": "io",
    "array": "array", "atexit": "atexit", "binascii": "binascii", "cmath": "cmath", "gc": "gc",
    "itertools": "itertools", "marshal": "marshal", "math": "math", "posix": "os",
    "select": "select", "sys": "sys", "time": "time", "unicodedata": "unicodedata", "zlib": "zlib",
}  # fmt: skip

_SIGNATURE = re.compile(r"([\w.]+\(.*\)(?:\s*-+>.*)?)\n\n+(?=\S)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One documented thing under its qualified name."""

    name: str
    kind: str
    module: str
    text: str
    signature: str = ""


def read_python_docs() -> Iterator[Passage]:
    """Passages of about 100 words; titles are qualified names (`itertools.chain`) or topics."""
    seen: set[str] = set()
    told: set[str] = set()
    for entry in _entries():
        if entry.name in seen or len(entry.text.split()) < MIN_WORDS:
            continue
        seen.add(entry.name)
        metadata = {"kind": entry.kind, "module": entry.module, "signature": entry.signature}
        for number, piece in enumerate(cut(entry.text), start=1):
            if entry.kind == "topic" and piece in told:
                continue
            told.add(piece)
            yield Passage(
                id=entry.name if number == 1 else f"{entry.name}#{number}",
                title=entry.name,
                text=piece,
                metadata={name: value for name, value in metadata.items() if value},
                where=f"python-docs:{entry.name}",
            )


def _entries() -> Iterator[_Entry]:
    yield from _topics()
    for module, public_name in sorted(_C_MODULES.items(), key=lambda item: item[1]):
        yield from _c_module(module, public_name)
    library = Path(sysconfig.get_path("stdlib"))
    for path in _sources(library):
        parts = path.relative_to(library).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        name = "os.path" if name == "posixpath" else name
        tree = ast.parse(path.read_bytes(), str(path))
        yield _Entry(name=name, kind="module", module=name, text=_docstring(tree))
        yield from _definitions(tree, name, module=name)


def _topics() -> Iterator[_Entry]:
    try:
        from pydoc_data.topics import topics  # noqa: PLC0415  # some distributions leave it out
    except ModuleNotFoundError:
        return
    bodies = {name: text.strip().partition("\n\n")[2] for name, text in topics.items()}
    told: set[str] = set()
    for name, text in sorted(topics.items()):
        # Long topics repeat short ones whole, and some have two names: each text comes once.
        for body in bodies.values():
            if body and len(body) < len(bodies[name]):
                text = text.replace(body, "\n\n")  # noqa: PLW2901  # what is left of it
        if bodies[name] not in told:
            told.add(bodies[name])
            yield _Entry(name=f"topic {name}", kind="topic", module="", text=text)


def _c_module(name: str, public_name: str) -> Iterator[_Entry]:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        return
    if public_name == name:
        yield _Entry(
            name=name, kind="module", module=name, text=inspect.cleandoc(module.__doc__ or "")
        )
    for attribute, value in sorted(vars(module).items()):
        is_alias = isinstance(value, type) and value.__name__ != attribute
        if attribute.startswith("_") or not callable(value) or is_alias:
            continue
        qualified = f"{public_name}.{attribute}" if public_name else attribute
        kind = "class" if isinstance(value, type) else "function"
        yield _c_entry(qualified, kind, public_name or name, value)
        if isinstance(value, type):
            for member, method in sorted(vars(value).items()):
                if not member.startswith("_"):
                    yield _c_entry(f"{qualified}.{member}", "method", public_name or name, method)


def _c_entry(name: str, kind: str, module: str, value: object) -> _Entry:
    text = inspect.cleandoc(value.__doc__ if isinstance(value.__doc__, str) else "")
    # A call's form above the prose draws its vector towards other calls, not towards questions.
    signature = _SIGNATURE.match(text)
    if signature is None:
        return _Entry(name=name, kind=kind, module=module, text=text)
    prose = text[signature.end() :]
    return _Entry(name=name, kind=kind, module=module, text=prose, signature=signature[1])


def _sources(library: Path) -> Iterator[Path]:
    """Public modules' files, in the order of their names."""
    found: list[Path] = []
    for where, folders, names in os.walk(library):
        folders[:] = [name for name in folders if _is_public(name)]
        found += [Path(where, name) for name in names if name.endswith(".py")]
    return iter(sorted(path for path in found if _is_public(path.stem)))


def _is_public(name: str) -> bool:
    return name == "__init__" or not (name in _SKIPPED or name.startswith("_") or "-" in name)


def _definitions(node: ast.AST, prefix: str, module: str) -> Iterator[_Entry]:
    """Public classes, functions and methods, also where an `if` or `try` guards them."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.ClassDef(name=name) if not name.startswith("_"):
                qualified = f"{prefix}.{name}"
                yield _Entry(name=qualified, kind="class", module=module, text=_docstring(child))
                yield from _definitions(child, qualified, module)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if (
                not name.startswith("_")
            ):
                kind = "method" if isinstance(node, ast.ClassDef) else "function"
                yield _Entry(
                    name=f"{prefix}.{name}",
                    kind=kind,
                    module=module,
                    text=_docstring(child),
                    signature=f"{name}({ast.unparse(child.args)})",
                )
            case ast.If() | ast.Try():
                yield from _definitions(child, prefix, module)


def _docstring(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> str:
    return ast.get_docstring(node) or ""
