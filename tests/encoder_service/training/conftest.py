"""A language small enough to learn in seconds: words that mean each other."""

import random

import pytest
import torch
from transformers import BertConfig, BertModel

from encoder_service.training.pairs import PassageText, TrainingPair, make_pair

N_TOPICS = 8


@pytest.fixture(autouse=True)
def _one_thread():
    """A model this small is faster on one core than two cores are at sharing it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


_LETTERS = "abcdefghij"


@pytest.fixture(scope="session")
def bert_like(model_maker, tmp_path_factory):
    """A small BERT with random weights and dropout, as a plain transformers folder."""
    folder = tmp_path_factory.mktemp("start") / "bert"
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=100,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
        hidden_dropout_prob=0.1,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    model_maker["tokenizer"](folder)
    return folder


@pytest.fixture(scope="session")
def language():
    """Makes (n_pairs, seed) into pairs: a question names two letters, its passage their partners.

    Only reading tells which passage answers: every letter's partner is another letter.
    """

    def pairs(n_pairs: int, seed: int = 0) -> list[TrainingPair]:
        rng = random.Random(seed)
        made = []
        for number in range(n_pairs):
            letters = rng.sample(_LETTERS, 3)
            partners = [_LETTERS[(_LETTERS.index(letter) + 5) % 10].upper() for letter in letters]
            filler = " ".join(str(rng.randrange(10)) for _ in range(4))
            passage = PassageText(f"t{number % N_TOPICS}", f"{' '.join(partners)} {filler}")
            made.append(make_pair(" ".join(letters), passage))
        return made

    return pairs
