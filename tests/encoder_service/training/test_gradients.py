"""Chunks and processes change the memory and the time, never the gradient."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from encoder_service.source import find_model
from encoder_service.training.gradients import add_gradients
from encoder_service.training.loss import contrastive_loss, make_batch
from encoder_service.training.pairs import PassageText
from encoder_service.training.trainable import load_trainable
from encoder_service.training.world import World

TEMPERATURE = 0.1


def load(folder, *, shared=True, **options):
    return load_trainable(
        find_model(str(folder)),
        device=torch.device("cpu"),
        shared=shared,
        **options,
    )


def batch_of(language):
    pairs = language(11, seed=3)
    easy = [PassageText("", "1 2 3"), PassageText("", "9 9 9 9 9 9 9 9")]
    return make_batch(
        [replace(p, hard_negatives=tuple(easy[: i % 3])) for i, p in enumerate(pairs)],
        n_hard_negatives=2,
    )


def gradients(towers, batch, chunk_size):
    for _, parameter in towers.named_parameters():
        parameter.grad = None
    told = add_gradients(
        batch, towers.encode_questions, towers.encode_passages, World(),
        temperature=TEMPERATURE, chunk_size=chunk_size,
    )  # fmt: skip
    return told, {n: p.grad.clone() for n, p in towers.named_parameters() if p.grad is not None}


def plain_gradients(towers, batch):
    for _, parameter in towers.named_parameters():
        parameter.grad = None
    loss = contrastive_loss(
        towers.encode_questions([pair.question for pair in batch.pairs]),
        towers.encode_passages(batch.passages),
        batch,
        temperature=TEMPERATURE,
    ).loss
    loss.backward()
    return float(loss.detach()), {
        n: p.grad.clone() for n, p in towers.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("chunk_size", [1, 4, 64])
@pytest.mark.parametrize("shared", [True, False])
def test_cached_gradients_are_the_plain_ones(bert_like, language, chunk_size, shared):
    """GradCache is exact: one backward through everything gives the same, within 1e-5."""
    towers, batch = load(bert_like, shared=shared), batch_of(language)
    towers.evaluate()
    loss, expected = plain_gradients(towers, batch)
    told, found = gradients(towers, batch, chunk_size)
    assert told.loss == pytest.approx(loss, abs=1e-5)
    assert found.keys() == expected.keys()
    scale = max(float(g.abs().max()) for g in expected.values())
    assert scale > 0.01
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * scale, rtol=1e-5, msg=name)


def test_dropout_falls_the_same_way_when_a_chunk_is_computed_again(bert_like, language):
    """Else the cached gradient would be that of another network than the one that was judged."""
    towers, batch = load(bert_like), batch_of(language)
    towers.train()
    seen: dict[tuple, list[torch.Tensor]] = {}

    def encode_passages(passages):
        vectors = towers.encode_passages(passages)
        seen.setdefault(tuple(passages), []).append(vectors.detach().clone())
        return vectors

    torch.manual_seed(1)
    add_gradients(
        batch, towers.encode_questions, encode_passages, World(),
        temperature=TEMPERATURE, chunk_size=4,
    )  # fmt: skip
    after = torch.rand(1)
    repeated = [vectors for vectors in seen.values() if len(vectors) == 2]
    assert len(repeated) >= 4
    for first, second in repeated:
        assert torch.equal(first, second)
    torch.manual_seed(1)
    towers.encode_questions(["x"])
    assert not torch.equal(after, torch.rand(1))


def test_texts_in_passes_of_their_length_have_the_vectors_of_one_pass(bert_like):
    """A CPU sorts a chunk by length and cuts it; who stands where must not change."""
    towers = load(bert_like)
    towers.evaluate()
    texts = ["a b c d e f g h i j " * (1 + i % 6) for i in range(40)]
    passages = [PassageText("", text) for text in texts]
    alone = torch.cat([towers.encode_passages([passage]) for passage in passages])
    torch.testing.assert_close(towers.encode_passages(passages), alone, atol=1e-5, rtol=1e-5)


def test_dropout_is_the_model_s_own_or_what_is_asked_for(bert_like):
    """Without it a network in training gives the vectors that it will serve."""
    with_own, without = load(bert_like), load(bert_like, dropout=0.0)
    served = load(bert_like)
    served.evaluate()
    expected = served.encode_questions(["a b c"])
    for towers in (with_own, without):
        towers.train()
    assert torch.equal(without.encode_questions(["a b c"]), expected)
    assert not torch.allclose(with_own.encode_questions(["a b c"]), expected, atol=1e-3)


def test_bfloat16_rounds_the_activations_and_keeps_float32_weights(bert_like, language):
    """Half the memory; the gradient stays near that of float32."""
    batch = batch_of(language)
    found = {}
    for precision in ("float32", "bfloat16"):
        towers = load(bert_like, precision=precision, dropout=0.0)
        towers.train()
        assert all(p.dtype == torch.float32 for _, p in towers.named_parameters())
        found[precision] = gradients(towers, batch, chunk_size=64)[1]
    flat = {name: torch.cat([g.flatten() for g in found[name].values()]) for name in found}
    assert not torch.equal(flat["float32"], flat["bfloat16"])
    cosine = torch.nn.functional.cosine_similarity(flat["float32"], flat["bfloat16"], dim=0)
    assert float(cosine) > 0.99


def test_activations_computed_again_give_the_same_gradient(bert_like, language):
    """Gradient checkpointing trades time for memory and nothing else."""
    batch = batch_of(language)
    plain, thrifty = load(bert_like), load(bert_like, gradient_checkpointing=True)
    for towers in (plain, thrifty):
        towers.evaluate()
    thrifty.train()
    for network in thrifty.networks().values():
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    _, expected = plain_gradients(plain, batch)
    _, found = gradients(thrifty, batch, 64)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told(World):
    """One of several processes, told what the others would tell it: by how many rows, the rows."""

    whole: dict[int, torch.Tensor]

    def gather_rows(self, own, n_rows):
        start = sum(n_rows[: self.rank])
        expected = self.whole[sum(n_rows)]
        torch.testing.assert_close(own, expected[start : start + n_rows[self.rank]])
        return expected


def test_a_process_without_passages_takes_part(bert_like, language):
    """Six questions of two passages, three processes: one of them has questions alone, and the
    sum of all shares is still the gradient of the batch.
    """
    first, second, *_ = language(6, seed=3)
    pairs = [replace(p, question=f"{p.question} {i}") for i in range(3) for p in (first, second)]
    batch = make_batch(pairs, n_hard_negatives=0)
    assert (len(batch.pairs), len(batch.passages)) == (6, 2)
    towers = load(bert_like)
    towers.evaluate()
    _, expected = plain_gradients(towers, batch)
    with torch.no_grad():
        whole = {
            6: towers.encode_questions([pair.question for pair in batch.pairs]),
            2: towers.encode_passages(batch.passages),
        }
    for _, parameter in towers.named_parameters():
        parameter.grad = None
    for rank in range(3):
        add_gradients(
            batch, towers.encode_questions, towers.encode_passages,
            Told(rank=rank, size=3, whole=whole), temperature=TEMPERATURE, chunk_size=64,
        )  # fmt: skip
    scale = max(float(g.abs().max()) for g in expected.values())
    found = dict(towers.named_parameters())
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name].grad, gradient, atol=1e-5 * scale, rtol=1e-4, msg=name
        )


_PROCESS = """
import json, sys
import torch
sys.path[:0] = json.loads(sys.argv[3])
from encoder_service.training.world import join_world
from test_gradients import TEMPERATURE, load
from encoder_service.training.gradients import add_gradients
from encoder_service.training.loss import make_batch
world = join_world("cpu")
assert world.size == 2
batch = torch.load(sys.argv[2], weights_only=False)
towers = load(sys.argv[1], shared=False)
towers.evaluate()
add_gradients(batch, towers.encode_questions, towers.encode_passages, world,
              temperature=TEMPERATURE, chunk_size=3)
parameters = dict(towers.named_parameters())
world.sum_gradients(parameters.values())
if world.leads:
    torch.save({name: p.grad for name, p in parameters.items()}, sys.argv[2] + ".found")
world.wait()
torch.distributed.destroy_process_group()
"""


def test_two_processes_learn_what_one_does(bert_like, language, tmp_path):
    """Negatives of the other process count in full: the summed gradients are the whole batch's."""
    towers, batch = load(bert_like, shared=False), batch_of(language)
    towers.evaluate()
    _, expected = plain_gradients(towers, batch)
    path = tmp_path / "batch.pt"
    torch.save(batch, path)
    script = tmp_path / "process.py"
    script.write_text(_PROCESS)
    paths = json.dumps([str(Path(__file__).parent), str(Path(__file__).parents[3])])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    launched = subprocess.run(
        [*launcher, str(script), str(bert_like), str(path), paths],
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert launched.returncode == 0, launched.stderr
    found = torch.load(f"{path}.found", weights_only=True)
    for name, gradient in found.items():  # what takes no part in the loss has a gradient of 0
        whole = expected.get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, whole, atol=1e-5, rtol=1e-4, msg=name)
    assert expected.keys() <= found.keys()
