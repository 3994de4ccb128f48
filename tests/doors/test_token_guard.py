"""The judge at the door: scopes, times, and files that change. Time is an argument."""

import time

import pytest
from fakes.tokens import OPERATOR, SEARCH, SEARCHER, bearer, write_tokens

from shoal.errors import ConfigError, PermissionDeniedError
from shoal.rpc import access
from shoal.rpc.access import AccessFiles, Guard
from shoal.rpc.tokens import entry_of, read_tokens


def method_of(scope):
    return {
        "search": SEARCH,
        "encode": "/shoal.v1.EncoderService/Encode",
        "admin": "/shoal.internal.v1.ShardService/SearchShard",
    }[scope]


@pytest.mark.parametrize("given", ["search", "encode", "admin"])
def test_each_scope_opens_its_own_service_alone(tmp_path, given):
    """No scope contains another: who administers a cluster need not read what is in it."""
    path = write_tokens(tmp_path / "t.yaml", entry_of("one", SEARCHER, [given], None))
    guard = Guard(AccessFiles(tokens=path))
    for wanted in ("search", "encode", "admin"):
        verdict = guard.judge(method_of(wanted), bearer(SEARCHER), time.time())
        assert verdict.caller == "one"
        assert (verdict.refusal is None) == (wanted == given)
        if wanted != given:
            assert isinstance(verdict.refusal, PermissionDeniedError)


def test_the_internal_token_opens_everything(tmp_path):
    """A router encodes, searches shards and loads versions with the one token of its cluster."""
    secret = tmp_path / "internal"
    secret.write_text(SEARCHER + "\n")
    guard = Guard(AccessFiles(internal_token=secret))
    for scope in ("search", "encode", "admin"):
        assert guard.judge(method_of(scope), bearer(SEARCHER), 0.0).caller == "internal"


def test_a_token_ends_at_its_time(tmp_path):
    """To the second, though the file is not read again and the token is known already."""
    path = write_tokens(
        tmp_path / "t.yaml", entry_of("one", SEARCHER, ["search"], "2030-01-01T00:00:00Z")
    )
    guard, end_s = Guard(AccessFiles(tokens=path)), 1_893_456_000
    assert guard.judge(SEARCH, bearer(SEARCHER), end_s - 1).refusal is None
    assert guard.judge(SEARCH, bearer(SEARCHER), end_s).refusal is not None


def test_a_changed_file_is_taken_and_a_broken_one_is_not(tmp_path, caplog):
    """A token that is taken out is refused a second later; a typing error closes no door."""
    path = write_tokens(tmp_path / "t.yaml", entry_of("one", SEARCHER, ["search"], None))
    guard = Guard(AccessFiles(tokens=path))
    assert guard.judge(SEARCH, bearer(SEARCHER), 10.0).refusal is None
    for now_s, broken in ((12.0, "tokens: ["), (14.0, "tokens: [{expires: 2027-02-30}]")):
        path.write_text(broken)
        caplog.clear()
        assert guard.judge(SEARCH, bearer(SEARCHER), now_s).refusal is None
        assert "the tokens stay as they were" in caplog.text
    write_tokens(path, entry_of("other", OPERATOR, ["search"], None))
    assert guard.judge(SEARCH, bearer(SEARCHER), 14.5).refusal is None, "looked at once a second"
    assert guard.judge(SEARCH, bearer(SEARCHER), 16.0).refusal is not None
    assert guard.judge(SEARCH, bearer(OPERATOR), 16.0).caller == "other"


def test_a_file_that_changes_during_its_first_read_is_read_again(tmp_path, monkeypatch):
    """A token taken out while a process starts would open its door until the next change."""
    path = write_tokens(tmp_path / "t.yaml", entry_of("one", SEARCHER, ["search"], None))

    def then_changed(path):
        grants = read_tokens(path)
        write_tokens(path, entry_of("other", OPERATOR, ["search"], None))
        return grants

    monkeypatch.setattr(access, "read_tokens", then_changed)
    guard = Guard(AccessFiles(tokens=path))
    assert guard.judge(SEARCH, bearer(SEARCHER), 10.0).refusal is not None


def test_a_file_that_is_not_there_is_told_at_the_start(tmp_path):
    """In one line that names it."""
    for field in ("tokens", "internal_token"):
        with pytest.raises(ConfigError, match=str(tmp_path / "none")):
            Guard(AccessFiles(**{field: tmp_path / "none"}))
