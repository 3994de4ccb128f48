"""The console's files, read once from the package, and the headers that every answer has.

Rule: the page runs its own files and nothing else: no inline script or style, no other site. What
the page shows comes from passages that anybody may have written.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "shoal",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
ROOT = "index.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One file; `tag` changes with its content."""

    content: bytes
    content_type: str
    tag: str


def read_pages() -> dict[str, Page]:
    """The files by URL path; `/` is the page itself."""
    pages = {}
    for file in sorted(resources.files("router.http").joinpath("console").iterdir(), key=str):
        suffix = file.name.rpartition(".")[2]
        if suffix in _TYPES:
            content = file.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            path = "/" if file.name == ROOT else f"/console/{file.name}"
            pages[path] = Page(content=content, content_type=_TYPES[suffix], tag=tag)
    return pages
