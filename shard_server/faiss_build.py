"""`python -m shard_server.faiss_build`: which faiss is loaded, and what it can do, as JSON.

A program, so that a faiss that can't run here ends a child and not who asked.
"""

import json
import sys
from typing import Any


def describe_faiss() -> dict[str, Any]:
    """Version, compile options, GPUs seen, the SIMD level in use and those that could be.

    `level` is "" and `levels` empty in a faiss older than its run-time choice of them (1.14).

    Raises:
        ImportError: it is not installed, or its libraries don't load.
    """
    import faiss  # noqa: PLC0415 -- what is asked is whether this works

    module: Any = faiss
    config = getattr(module, "SIMDConfig", None)
    prefix = "SIMDLevel_"
    numbers = {
        name.removeprefix(prefix): getattr(module, name)
        for name in dir(module)
        if name.startswith(prefix) and name != prefix + "COUNT"
    }
    levels = [
        n for n, number in numbers.items() if config and config.is_simd_level_available(number)
    ]
    return {
        "version": str(module.__version__),
        "options": str(module.get_compile_options()).split(),
        "level": str(config.get_level_name()) if config else "",
        "levels": sorted(levels),
        "n_gpus": int(module.get_num_gpus()),
    }


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(describe_faiss()) + "\n")
    except ImportError as failure:
        sys.stdout.write(json.dumps({"fault": str(failure)}) + "\n")
