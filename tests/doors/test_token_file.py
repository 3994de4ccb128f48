"""The tokens file as text, and log lines: what is kept, and what is shown."""

import io
import json
import logging

import pytest
import yaml

from shoal.errors import ConfigError
from shoal.rpc.logs import JsonFormatter, TextFormatter
from shoal.rpc.request_id import adopt_request_id
from shoal.rpc.tokens import digest_of, entry_of, find_grant, new_token, read_tokens, with_entry

ONE, TWO = (entry_of(name, new_token(), ["search"], None) for name in ("one", "two"))


@pytest.mark.parametrize(
    "before",
    [
        "",
        "tokens: []\n",
        yaml.safe_dump({"tokens": [ONE]}),
        json.dumps({"tokens": [ONE]}),
        f"# ours\ntokens:\n  - {json.dumps(ONE)}  # the website\n",
    ],
)
def test_an_entry_is_added_and_nothing_is_lost(tmp_path, before):
    """Whatever style the file is in; comments stay where lines can be added at its end."""
    (tmp_path / "t.yaml").write_text(with_entry(before, TWO))
    names = [grant.name for grant in read_tokens(tmp_path / "t.yaml")]
    assert names == (["one", "two"] if "one" in before else ["two"])
    if "#" in before:
        assert "# the website" in (tmp_path / "t.yaml").read_text()


def test_a_grant_is_found_among_many_by_its_own_token_alone(tmp_path):
    """Each token finds its own entry, and no other text does."""
    tokens = {f"n{i}": new_token() for i in range(20)}
    entries = [entry_of(name, token, ["search"], None) for name, token in tokens.items()]
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"tokens": entries}))
    grants = read_tokens(tmp_path / "t.yaml")
    for name, token in tokens.items():
        assert find_grant(grants, digest_of(token)).name == name
        assert find_grant(grants, digest_of(token + " ")) is None


@pytest.mark.parametrize("formatter", [JsonFormatter("router"), TextFormatter("router")])
async def test_a_line_carries_the_id_of_its_call(formatter):
    """The id that the caller's error carries is how its lines are found."""
    stream = io.StringIO()
    logger = logging.getLogger(f"shoal.some.{type(formatter).__name__}")
    logger.propagate = False
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    logger.warning("before %s", "any")
    adopt_request_id("call-7")
    failure = ValueError("two\nlines")
    logger.error("failed", exc_info=failure, extra={"who": "website"})
    first, second = stream.getvalue().split("\n", 1)
    assert "call-7" not in first
    assert "call-7" in second
    if isinstance(formatter, JsonFormatter):
        assert json.loads(first)["message"] == "before any"
        told = json.loads(second)
        assert (told["request_id"], told["who"]) == ("call-7", "website")
        assert told["traceback"].endswith("two\nlines")


SECRET = new_token()
GOOD = entry_of("one", SECRET, ["search"], None)
UNQUOTED = yaml.safe_dump({"tokens": [GOOD]}) + "  expires: {}\n"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "one list, named tokens"),
        ("tokens: 3", "one list, named tokens"),
        (json.dumps({"tokens": [], "more": 1}), "one list, named tokens"),
        ("tokens: [", "not valid YAML"),
        ("tokens: [{expires: 2026-13-01}]", "not valid YAML: month"),
        ("tokens: !!int ''", "not valid YAML"),
        ("[" * 1_000, "nested too deeply"),
        (json.dumps({"tokens": ["x"]}), r"tokens\[0\] must have"),
        (json.dumps({"tokens": [{**GOOD, "scope": "search"}]}), "unknown scope"),
        (json.dumps({"tokens": [{**GOOD, "sha256": SECRET}]}), "64 lower-case"),
        (json.dumps({"tokens": [{**GOOD, "scopes": ["root"]}]}), "scopes must be some of"),
        (json.dumps({"tokens": [{**GOOD, "scopes": "search"}]}), "scopes must be some of"),
        (json.dumps({"tokens": [{**GOOD, "name": "a b"}]}), "the name must be"),
        (json.dumps({"tokens": [{**GOOD, "expires": "soon"}]}), "expires must be a date"),
        (UNQUOTED.format("2027-02-30"), "day is out of range"),
        (UNQUOTED.format("2027-01-01 25:00:00"), "hour must be in"),
        (UNQUOTED.format("2027-01-01 00:00:00 +24:00"), "strictly between"),
        (json.dumps({"tokens": [GOOD, {**GOOD, "name": "two"}]}), "is there twice"),
        (json.dumps({"tokens": [GOOD, GOOD]}), "the name one is there twice"),
    ],
)
def test_a_broken_tokens_file_is_refused_naming_the_fault(tmp_path, content, why):
    """And never shows a secret that somebody put where its hash belongs."""
    path = tmp_path / "tokens.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=why) as told:
        read_tokens(path)
    assert str(path) in told.value.message
    assert SECRET not in told.value.message
