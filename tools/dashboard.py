"""Makes the Grafana dashboard: `python tools/dashboard.py` writes deploy/grafana/shoal.json.

Its panels are in panels.yaml beside it: two thousand lines of JSON are nobody's to review. A test
holds the one to the other. Knows nothing of the metrics.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parents[1] / "deploy" / "grafana"
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT, _PANEL_WIDTH = 24, 8, 8
_VARIABLES = {
    "cluster": "label_values(shoal_build_info, cluster)",
    "index": 'label_values(shoal_coverage_ratio{cluster=~"$cluster"}, index)',
}
_FORMATS = {"table": "table", "heatmap": "heatmap"}
_OPTIONS: Mapping[str, Any] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"]},
        "colorMode": "value",
        "graphMode": "area",
    },
    "heatmap": {"calculate": False, "yAxis": {"unit": "s"}, "color": {"scheme": "Spectral"}},
    "table": {"showHeader": True},
}


def dashboard(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The whole, as Grafana imports it; it asks for its Prometheus by a variable. Pure.

    Args:
        rows: what panels.yaml holds.
    """
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource",
              "query": "prometheus", "refresh": 1}  # fmt: skip
    variables = [_variable(label, query) for label, query in _VARIABLES.items()]
    return {
        "uid": "shoal",
        "title": "Shoal",
        "description": "A Shoal cluster: traffic, latency, coverage, shards, encoders, recall.",
        "tags": ["shoal"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source, *variables]},
        "annotations": {"list": []},
        "panels": _placed(rows),
    }


def _variable(label: str, query: str) -> dict[str, Any]:
    return {
        "name": label, "label": label, "type": "query", "datasource": _SOURCE, "refresh": 2,
        "query": {"query": query, "refId": "variable"}, "definition": query, "sort": 1,
        # .* matches what has no such label, too
        "includeAll": True, "multi": True, "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


def _placed(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows under each other, panels beside each other as long as they fit."""
    placed: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        place = {"x": 0, "y": y, "w": _WIDTH, "h": 1}
        placed.append({"id": len(placed) + 1, "type": "row", "title": row["row"],
                       "gridPos": place, "collapsed": False, "panels": []})  # fmt: skip
        x, y = 0, y + 1
        for panel in row["panels"]:
            width = panel.get("width", _PANEL_WIDTH)
            if x + width > _WIDTH:
                x, y = 0, y + _HEIGHT
            place = {"x": x, "y": y, "w": width, "h": _HEIGHT}
            placed.append({"id": len(placed) + 1, "gridPos": place, **_drawn(panel)})
            x += width
        y += _HEIGHT
    return placed


def _drawn(panel: Mapping[str, Any]) -> dict[str, Any]:
    kind = panel.get("kind", "timeseries")
    defaults: dict[str, Any] = {"unit": panel.get("unit", "short"), "min": 0}
    if kind == "timeseries":
        stacked = {"stacking": {"mode": "normal"}} if panel.get("stacked") else {}
        defaults["custom"] = {"fillOpacity": 10, "showPoints": "never", **stacked}
    if "max" in panel:
        defaults["max"] = panel["max"]
    return {
        "type": kind,
        "title": panel["title"],
        "description": panel["about"],
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _OPTIONS[kind],
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": expression,
             "legendFormat": legend, "format": _FORMATS.get(kind, "time_series"),
             "instant": kind == "table", "range": kind != "table"}
            for number, (legend, expression) in enumerate(panel["queries"].items())
        ],
    }  # fmt: skip


def text_of(panels: str) -> str:
    """shoal.json, of the text of panels.yaml. Pure."""
    return json.dumps(dashboard(yaml.safe_load(panels)), indent=1) + "\n"


if __name__ == "__main__":
    panels = (FOLDER / "panels.yaml").read_text(encoding="utf-8")
    (FOLDER / "shoal.json").write_text(text_of(panels), encoding="utf-8")
