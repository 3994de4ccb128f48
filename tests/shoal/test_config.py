"""Settings: file < environment < flags, and every fault is named."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from shoal.config import ProcessConfig, load_config, refuse_exposed
from shoal.errors import ConfigError, InvalidArgumentError


class Settings(ProcessConfig):
    """Of a program for these tests."""

    folder: Path = Field(description="needed; 100 % of it")
    mode: Literal["a", "b"] = "a"


def load(*argv: str) -> Settings:
    return load_config(Settings, "prog", argv)


def test_defaults_are_safe():
    """Loopback, a free port, plaintext only there."""
    config = load("--folder", "/x")
    assert (config.host, config.port, config.insecure) == ("127.0.0.1", 0, False)
    assert config.folder == Path("/x")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "port: 1\ngrace_s: 1.5\nfolder: /f\nmode: b\n"),
        ("c.toml", 'port = 1\ngrace_s = 1.5\nfolder = "/f"\nmode = "b"\n'),
    ],
)
def test_file_below_environment_below_flags(tmp_path, monkeypatch, name, text):
    """Each level overrides the one before, field by field."""
    (tmp_path / name).write_text(text)
    monkeypatch.setenv("SHOAL_PROG__PORT", "2")
    monkeypatch.setenv("SHOAL_PROG__GRACE_S", "2.5")
    monkeypatch.setenv("SHOAL_OTHER__PORT", "9")
    config = load("--config", str(tmp_path / name), "--port", "3")
    assert (config.port, config.grace_s, config.mode) == (3, 2.5, "b")
    assert config.folder == Path("/f")


def test_booleans_are_flags(monkeypatch):
    """--insecure and --no-insecure; true and 1 in the environment."""
    assert load("--folder", "/x", "--insecure").insecure
    monkeypatch.setenv("SHOAL_PROG__INSECURE", "true")
    assert load("--folder", "/x").insecure
    assert not load("--folder", "/x", "--no-insecure").insecure


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "folder"),
        (["--folder", "/x", "--port", "70000"], "port"),
        (["--folder", "/x", "--port", "x"], "port"),
        (["--folder", "/x", "--grace-s", "-1"], "grace_s"),
        (["--folder", "/x", "--mode", "c"], "mode"),
        (["--folder", "/x", "--config", "/nowhere/c.yaml"], "/nowhere/c.yaml"),
    ],
)
def test_wrong_settings_are_named(argv, named):
    """One line that says which, and what was given."""
    with pytest.raises(ConfigError) as caught:
        load(*argv)
    assert named in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("c.yaml", "prot: 1", "prot"),
        ("c.toml", "prot = 1", "prot"),
        ("c.yaml", "- 1", "list"),
        ("c.yaml", "port: [", "not valid"),
        ("c.yaml", "port: 2027-02-30", "not valid"),
        ("c.yaml", "port: 1\n  x: 2", "not valid"),
        ("c.toml", "port = ", "not valid"),
        ("c.yaml", "port: yes please", "port"),
        ("c.yaml", "1: 2", "1"),
        ("c.yaml", "!!python/object/apply:os.system [true]", "not valid"),
        ("c.yaml", "[" * 1_000, "nested too deeply"),
        ("c.yaml", "mode: 2026-13-01", "month"),
        ("c.yaml", "insecure: !!bool perhaps", "perhaps"),
        ("c.yaml", "mode: !!timestamp now", "not valid"),
        ("c.yaml", "port: 0x" + "f" * 5_000, "256 bits"),
        ("c.toml", "port = 0x" + "f" * 5_000, "too long"),
        ("c.toml", "port = " + "[" * 5_000, "not valid"),
        ("c.yaml", "mode: &a [&b [&c [x]]]\nport: " + "{a: " * 20 + "*a" + "}" * 20, "..."),
    ],
)
def test_wrong_files_are_named(tmp_path, name, text, named):
    """Unknown settings, wrong forms, and nothing that runs code."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load("--folder", "/x", "--config", str(path))
    assert named in caught.value.message
    assert "\n" not in caught.value.message


def test_an_empty_file_changes_nothing(tmp_path):
    """A file of comments is a file without settings; bytes that are no text are refused."""
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert load("--folder", "/x", "--config", str(tmp_path / "c.yaml")).port == 0
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"b\.yaml"):
        load("--config", str(tmp_path / "b.yaml"))


def test_unknown_environment_is_refused(monkeypatch):
    """A typing error in a variable is told, not ignored."""
    monkeypatch.setenv("SHOAL_PROG__PROT", "1")
    with pytest.raises(ConfigError, match=r"SHOAL_PROG__.*prot"):
        load("--folder", "/x")


@pytest.mark.parametrize("flags", [("--prot", "1"), ("--por", "1"), ("--port",)])
def test_wrong_flags_are_wrong_usage(flags):
    """As for every command: exit code 64, and which flag; flags can't be abbreviated."""
    with pytest.raises(InvalidArgumentError, match=flags[0]) as refused:
        load("--folder", "/x", *flags)
    assert refused.value.exit_code == 64


def test_help_names_every_setting(capsys):
    """--help is derived from the fields."""
    with pytest.raises(SystemExit):
        load("--help")
    told = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in told
    assert "100 % of it" in told


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_is_served(host):
    """Addresses that no other machine reaches."""
    refuse_exposed(ProcessConfig(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_other_addresses_need_insecure(host):
    """Whatever others reach is refused, unless the operator says so."""
    with pytest.raises(ConfigError, match="insecure"):
        refuse_exposed(ProcessConfig(host=host))
    refuse_exposed(ProcessConfig(host=host, insecure=True))


def test_a_config_is_frozen():
    """Nothing changes a setting once it is loaded."""
    with pytest.raises(ValueError, match="frozen"):
        ProcessConfig().port = 3
