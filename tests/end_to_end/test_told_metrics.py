"""What real processes tell on their Prometheus pages is what docs/metrics.md says of each."""

import json
import urllib.request
from collections import defaultdict

import pytest
from deploy_files.metric_table import PROGRAMS, closed_sets, listed
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.end_to_end


def samples_of(page: str):
    with urllib.request.urlopen(f"http://{page}/metrics", timeout=30) as reply:
        text = reply.read().decode()
    return [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("shoal_")
    ]


@pytest.fixture
def pages(cluster):
    """By program, the samples of its processes, after a question was answered."""
    cluster.shoal("search", "which animal roars?", "--target", cluster.target)
    status = json.loads(cluster.shoal("status", "--name", cluster.name, "--json").stdout)
    told = defaultdict(list)
    for process in status["processes"]:
        samples = samples_of(process["metrics"])
        told[program_of(samples)] += samples
    return dict(told)


def program_of(samples):
    (program,) = {s.labels["program"] for s in samples if s.name == "shoal_build_info"}
    return program


def test_each_program_tells_what_the_page_says_of_it(pages):
    """Dashboard and alerts are held to that page: so they are to what processes really tell."""
    assert pages.keys() == set(PROGRAMS.values())
    for program, samples in pages.items():
        wanted = {
            name
            for metric in listed().values()
            if program in metric.programs and not metric.is_rare
            for name in metric.samples
        }
        assert wanted <= {sample.name for sample in samples}
        possible = {
            name: labels
            for metric in listed().values()
            if program in metric.programs or not metric.labels
            for name, labels in metric.samples.items()
        }
        for sample in samples:
            assert set(sample.labels) == possible[sample.name], sample


def test_every_label_value_is_of_its_closed_set(pages):
    """Or it is a number or name of what is served; none is what the caller wrote."""
    closed = closed_sets()
    for sample in (sample for samples in pages.values() for sample in samples):
        for label, value in sample.labels.items():
            if label in closed:
                assert value in closed[label], sample
            assert "roars" not in value


def test_a_question_is_seen_where_it_was_answered(pages):
    """The figures, and not the names alone: a router's answer, an encoder's text, each shard's."""

    def value(program, name, **labels):
        return sum(
            sample.value
            for sample in pages[program]
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    assert value("router", "shoal_answers_total", coverage="full") >= 1
    assert value("router", "shoal_requests_total", rpc="Search", code="OK") >= 1
    assert value("router", "shoal_stage_duration_seconds_count", stage="door") >= 1
    assert value("router", "shoal_shards") == value("router", "shoal_shards_live") == 2
    assert value("router", "shoal_shard_replicas", state="healthy") == 2
    assert value("encoder_service", "shoal_queries_total") >= 1
    assert value("encoder_service", "shoal_encoder_cache_lookups_total") >= 1
    assert value("shard_server", "shoal_stage_duration_seconds_count", stage="shard_search") >= 2
    assert value("shard_server", "shoal_open_versions") == 2
    assert value("shard_server", "shoal_index_version") == 2 * value(
        "router", "shoal_index_version"
    )
