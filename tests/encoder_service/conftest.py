"""Tiny random models, made here: no network, and every architecture in a second."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    DPRConfig,
    DPRContextEncoder,
    DPRQuestionEncoder,
    PreTrainedTokenizerFast,
)

TEXTS = [
    "who wrote the iliad?",
    "a",
    "Water boils at 100 degrees.",
    "the quick brown fox jumps over the lazy dog " * 3,
    "x-ray, 42; naïve",
    "many words " * 40,
]


@pytest.fixture(scope="session", autouse=True)
def _graph_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def write_tokenizer(folder: Path, max_tokens: int = 64) -> None:
    """A WordPiece tokenizer that knows letters and digits, like BERT's in all else."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789?.,;-"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    vocabulary = {word: i for i, word in enumerate(words)}
    rust = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    rust.normalizer = normalizers.BertNormalizer(lowercase=True)
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rust.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=rust,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=max_tokens,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)


def _sizes(**changes: int) -> dict[str, int]:
    return {
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    } | changes


def write_plain(folder: Path, *, seed: int = 0, **changes: int) -> Path:
    """A plain transformers model: BERT, two layers."""
    torch.manual_seed(seed)
    BertModel(BertConfig(**_sizes(**changes)), add_pooling_layer=False).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_sentence_transformer(
    folder: Path,
    *,
    pooling: str = "mean",
    prompts: dict[str, str] | None = None,
    **changes: int,
) -> Path:
    """A sentence-transformers model with all the modules that we serve."""
    plain = write_plain(folder.with_name(folder.name + "-plain"), **changes)
    torch.manual_seed(1)
    transformer = Transformer(str(plain), max_seq_length=48)
    modules = [
        transformer,
        Pooling(32, pooling_mode=pooling),
        Dense(32, 24, activation_function=torch.nn.GELU()),
        Normalize(),
    ]
    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save_pretrained(
        str(folder), create_model_card=False
    )
    return folder


def write_dpr(folder: Path, *, question: bool, projection_dim: int = 16) -> Path:
    """One DPR encoder."""
    torch.manual_seed(2 if question else 3)
    model_class = DPRQuestionEncoder if question else DPRContextEncoder
    # one layer: exporting a second one takes as long again, and says nothing of towers
    sizes = _sizes(projection_dim=projection_dim, num_hidden_layers=1)
    model_class(DPRConfig(**sizes)).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def edit_json(path: Path, **changes: object) -> None:
    """Sets keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="session")
def model_maker() -> dict[str, object]:
    """The writers above, for tests that need a model of their own."""
    return {
        "plain": write_plain,
        "sentence": write_sentence_transformer,
        "dpr": write_dpr,
        "edit_json": edit_json,
        "tokenizer": write_tokenizer,
    }


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Short, long, odd ones."""
    return TEXTS


@pytest.fixture(scope="session")
def sentence_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mean pooling, Dense, Normalize, and prompts on both sides."""
    return write_sentence_transformer(
        tmp_path_factory.mktemp("models") / "sentence",
        prompts={"query": "query: ", "document": "passage: "},
    )


@pytest.fixture(scope="session")
def plain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with no word of sentence-transformers in it."""
    return write_plain(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="session")
def dpr_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A question and a passage encoder."""
    root = tmp_path_factory.mktemp("models")
    return write_dpr(root / "question", question=True), write_dpr(root / "passage", question=False)
