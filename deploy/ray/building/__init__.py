"""`shoal index build --on ray`: the stages of a build, run by a Ray cluster."""

import os

# Ray reads it as it is imported: what it tells of workers would go to stdout, among our results
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
