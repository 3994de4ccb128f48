"""How `shoal index inspect` shows an index to people. Must not know how it was read."""

from typing import Any

from deploy.cli.output import write, write_table

_KINDS = ("index", "vectors", "passages", "ids")


def show_index(report: dict[str, Any]) -> None:
    """Writes what `inspect_index` found: a table of settings, one of shards, one of the encoder."""
    write_table(("index", report["name"]), _settings(report))
    write()
    write_table(
        ("shard", "segments", "live", "rows", *(f"{kind} MB" for kind in _KINDS),
         "lists", "empty", "largest", "imbalance"),
        [_shard_row(shard) for shard in report["shards"]],
    )  # fmt: skip
    points = report["operating_points"]
    if points:
        write()
        write_table(
            ("k", "recall", "n_probe", "oversample"),
            [(p["k"], round(p["recall"], 4), p["n_probe"], p["oversample"]) for p in points],
        )
    write()
    encoder = report["encoder"]
    if encoder is None:
        write("encoder: none; an index of bare vectors")
        return
    write_table(
        ("encoder", "model", "dim", "tokens", "pooling", "normalized", "fingerprint"),
        [
            (side, encoder["model"], tower["dim"], tower["max_tokens"], tower["pooling"],
             "yes" if tower["normalized"] else "no", tower["fingerprint"][:16])
            for side in ("question", "passage")
            for tower in (encoder[side],)
        ],
    )  # fmt: skip


def _settings(report: dict[str, Any]) -> list[tuple[str, str]]:
    calibration = report["calibration"]
    calibrated = "no"
    if calibration is not None:
        calibrated = (
            f"on {calibration['n_queries']:,} queries ({calibration['queries']}), "
            f"for recall {calibration['target_recall']:g}"
        )
    versions = ", ".join(map(str, report["versions"]))
    defaults = f"n_probe {report['default_n_probe']}, oversample {report['default_oversample']:g}"
    return [
        ("version", f"{report['version']} (of {versions}), made {report['created_at']}"),
        ("recipe", f"{report['recipe']}, {report['metric']}, {report['dim']} dimensions"),
        ("passages", f"{report['n_live']:,} live of {report['n_rows']:,} rows"),
        ("shards", str(report["n_shards"])),
        ("size", f"{report['n_bytes'] / 1e6:,.1f} MB"),
        ("devices", ", ".join(report["devices"])),
        ("defaults", defaults),
        ("calibrated", calibrated),
        ("release", report["release"]),
    ]


def _shard_row(shard: dict[str, Any]) -> tuple[object, ...]:
    lists = shard["lists"]
    balance: tuple[object, ...] = ("-",) * 4
    if lists is not None:
        balance = (lists["n_lists"], lists["n_empty"], lists["largest"], lists["imbalance"])
    return (
        shard["shard"], shard["n_segments"], shard["n_live"], shard["n_rows"],
        *(round(shard["n_bytes"][kind] / 1e6, 1) for kind in _KINDS), *balance,
    )  # fmt: skip
