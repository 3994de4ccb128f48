"""`python tests/deploy_files/report.py`: the transcript of `make test-cluster` into docs/ray.md.

Replaces what stands between the two marks; knows nothing of what was run.
"""

import re
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TRANSCRIPT = ROOT / ".build" / "cluster" / "transcript.txt"
PAGE = ROOT / "docs" / "ray.md"
_MARKED = re.compile(r"(<!-- begin: make test-cluster -->\n).*?(<!-- end -->\n)", re.DOTALL)


def with_transcript(page: str, transcript: str, date: str) -> str:
    """The page with this transcript, and the date of its run, in the place of the last one."""
    shown = f"Last run: {date}.\n\n```\n{transcript.rstrip()}\n```\n"
    return _MARKED.sub(lambda match: match[1] + shown + match[2], page)


def main() -> int:
    """Writes the page."""
    if not TRANSCRIPT.exists():
        sys.stderr.write(f"no transcript at {TRANSCRIPT}; run make test-cluster\n")
        return 1
    date = datetime.fromtimestamp(TRANSCRIPT.stat().st_mtime, UTC).date().isoformat()
    PAGE.write_text(with_transcript(PAGE.read_text(), TRANSCRIPT.read_text(), date))
    return 0


if __name__ == "__main__":
    sys.exit(main())
