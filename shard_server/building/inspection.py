"""Describe an index: `shoal index inspect`.

Rule: JSON-ready values, nothing read whose checksum doesn't hold, nothing changed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shard_server.devices import list_sizes
from shard_server.faiss_files import read_familiar
from shoal.contract import EncoderContract
from shoal.errors import IndexFormatError
from shoal.formats.manifest import FileEntry, Manifest, Segment, Shard
from shoal.formats.versions import check_file, list_versions, load_manifest, read_current

_FILE_KINDS = ("index", "vectors", "passages", "ids")


def inspect_index(index_dir: Path, version: int | None = None) -> dict[str, Any]:
    """What one version is made of; None means the live version.

    Raises:
        IndexFormatError: a manifest or compressed index that can't be read or was altered.
    """
    manifest = load_manifest(index_dir, version)
    apart = {"shards", "trained", "encoder", "partition", "format", "min_reader", "float32"}
    return {
        **manifest.model_dump(mode="json", exclude=apart),
        "current": read_current(index_dir).version,
        "versions": list(list_versions(index_dir)),
        "n_shards": manifest.partition.n_shards,
        "n_bytes": sum(entry.n_bytes for entry in manifest.entries()),
        "n_float32_bytes": sum(e.n_bytes for part in manifest.float32 for e in part.entries()),
        "encoder": _describe_encoder(manifest.encoder),
        "shards": [
            {
                "shard": number,
                "n_rows": shard.n_rows,
                "n_live": shard.n_live,
                "n_segments": len(shard.segments),
                "n_bytes": _n_bytes(shard),
                "lists": _list_balance(index_dir, manifest, shard.segments),
            }
            for number, shard in enumerate(manifest.shards)
        ],
    }


def _describe_encoder(encoder: EncoderContract | None) -> dict[str, Any] | None:
    if encoder is None:
        return None
    probes = {"probe_texts", "probe_vectors"}
    return encoder.model_dump(mode="json", exclude={"question": probes, "passage": probes})


def _n_bytes(shard: Shard) -> dict[str, int]:
    """Bytes of each kind of file."""
    entries: list[tuple[str, FileEntry | None]] = [
        (kind, getattr(segment.files, kind)) for segment in shard.segments for kind in _FILE_KINDS
    ]
    return {
        kind: sum(entry.n_bytes for name, entry in entries if name == kind and entry is not None)
        for kind in _FILE_KINDS
    }


def _list_balance(
    index_dir: Path, manifest: Manifest, segments: Sequence[Segment]
) -> dict[str, float] | None:
    """Sizes of the inverted lists; None without lists.

    `imbalance` is 1 where all lists are equal, and grows as the time of a search does.
    """
    n_lists = manifest.n_lists
    if not n_lists:
        return None
    sizes = np.zeros(n_lists, dtype=np.int64)
    for segment in segments:
        if segment.files.index is not None:
            path = check_file(index_dir, segment.files.index)
            index = read_familiar(path, mapped=True, n_lists=n_lists, dim=manifest.dim)
            found = list_sizes(index)
            if len(found) != n_lists:
                raise IndexFormatError(f"{path}: {len(found)} lists, the manifest says {n_lists}")
            sizes += found
    n_rows = int(sizes.sum())
    imbalance = float(n_lists * (sizes**2).sum()) / n_rows**2 if n_rows else 1.0
    return {
        "n_lists": n_lists,
        "n_empty": int((sizes == 0).sum()),
        "largest": int(sizes.max()),
        "imbalance": round(imbalance, 3),
    }
