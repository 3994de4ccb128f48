"""The dashboard and the alert rules: importable as they are, and of metrics that there are."""

import importlib.util
import json
import re

import pytest
import yaml
from deploy_files.metric_table import ROOT, closed_sets, listed, samples_of

promql = pytest.importorskip("promql_parser", reason="PromQL needs promql-parser")

from deploy_files.promql_faults import faults, names, selectors  # noqa: E402 -- it needs the parser

FOLDER = ROOT / "deploy" / "grafana"
INTERVAL = "$__rate_interval"
SEVERITIES = {"critical", "warning", "info"}


def panels():
    """The dashboard's, rows left out."""
    dashboard = json.loads((FOLDER / "shoal.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def rules():
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions():
    """By where they stand, with a duration in the place of Grafana's variable."""
    shown = {
        f"{panel['title']}: {target['legendFormat']}": target["expr"].replace(INTERVAL, "5m")
        for panel in panels()
        for target in panel["targets"]
    }
    return shown | {rule["alert"]: rule["expr"] for rule in rules()}


def faults_of(expression):
    return faults(expression, samples_of(listed().values()), closed_sets())


def test_every_expression_reads_what_processes_tell():
    """A panel or an alert on a name that nobody tells is silent for ever."""
    assert len(expressions()) > 70
    found = {where: faults_of(expression) for where, expression in expressions().items()}
    assert not {where: wrong for where, wrong in found.items() if wrong}


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("shoal_nothing", "no process tells shoal_nothing"),
        ("rate(shoal_requests[5m])", "no process tells shoal_requests"),
        ("shoal_in_flight_bucket", "no process tells shoal_in_flight_bucket"),
        ('shoal_coverage_ratio{shard="1"}', "shoal_coverage_ratio has no label shard"),
        ('shoal_refused_total{component="shards"}', "is never 'shards'"),
        ('shoal_requests_total{code=~"OK|FINE"}', "is never 'FINE'"),
        ("sum by (shrad) (shoal_shard_requests_total)", "a label shrad"),
        ("shoal_shards - on (idx) shoal_shards_live", "a label idx"),
        ("up * on (job) group_left (prog) shoal_build_info", "a label prog"),
    ],
)
def test_wrong_expressions_are_found(expression, told):
    """What checks the files must itself be able to fail."""
    assert any(told in fault for fault in faults_of(expression))
    with pytest.raises(ValueError, match=r"parenthesis|unexpected|invalid"):
        faults_of(expression + ")")


def test_every_metric_has_a_place():
    """What nobody looks at and no alert reads need not be counted."""
    read = {name for expression in expressions().values() for name in names(expression)}
    assert not [
        metric.name for metric in listed().values() if not read.intersection(metric.samples)
    ]


def test_the_dashboard_is_made_of_its_panels():
    """One is written and the other made: `python tools/dashboard.py` after a change."""
    spec = importlib.util.spec_from_file_location("dashboard", ROOT / "tools" / "dashboard.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    text = made.text_of((FOLDER / "panels.yaml").read_text())
    assert (FOLDER / "shoal.json").read_text() == text


def test_the_dashboard_imports_anywhere():
    """Its Prometheus is a variable, its variables are there, and no panel lies on another."""
    text = (FOLDER / "shoal.json").read_text()
    dashboard = json.loads(text)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]+)\b", text)) == variables
    assert {json.dumps(panel["datasource"]) for panel in panels()} == {
        json.dumps({"type": "prometheus", "uid": "${datasource}"})
    }
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken = set()
    for place in (panel["gridPos"] for panel in dashboard["panels"]):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for row in ("Traffic", "Latency", "Coverage", "Shards", "Encoder", "GPU", "recall"):
        assert any(row in p["title"] for p in dashboard["panels"] if p["type"] == "row")


def test_every_rule_says_what_is_wrong_and_what_to_do():
    """As Prometheus reads a rule file, and as whoever is woken by it wants to."""
    document = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
    assert document.keys() == {"groups"}
    assert all(group.keys() == {"name", "rules"} for group in document["groups"])
    assert len({group["name"] for group in document["groups"]}) == len(document["groups"])
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert re.fullmatch(r"Shoal[A-Z]\w+", rule["alert"])
        assert promql.parse_duration(rule.get("for", "1m"))
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in SEVERITIES
        assert rule["annotations"].keys() == {"summary", "action"}
        assert all(rule["annotations"].values())


def test_bulk_that_is_refused_wakes_nobody():
    """To be refused first is how bulk, and live recall's exact searches with it, give way."""
    read = {
        tuple(
            (matcher.name, str(matcher.op), matcher.value) for matcher in selector.matchers.matchers
        )
        for rule in rules()
        for selector in selectors(promql.parse(rule["expr"]))
        if selector.name == "shoal_refused_total"
    }
    assert read == {(("priority", str(promql.MatchOp.Equal), "interactive"),)}


def test_alerts_name_labels_that_their_expression_keeps():
    """`{{ $labels.shard }}` of a sum without it is an empty string in somebody's night."""
    for rule in rules():
        text = " ".join(rule["annotations"].values())
        for label in re.findall(r"\$labels\.(\w+)", text):
            outer = promql.parse(rule["expr"])
            while isinstance(outer, promql.BinaryExpr):
                outer = outer.lhs
            grouped = getattr(getattr(outer, "modifier", None), "labels", None)
            inside = re.search(r"histogram_quantile\([\d.]+,\s*sum by \(([\w, ]+)\)", rule["expr"])
            if inside:
                grouped = inside[1].replace(",", " ").split()
            known = {"job", "instance"}.union(*samples_of(listed().values()).values())
            assert label in (known if grouped is None else grouped), rule["alert"]
