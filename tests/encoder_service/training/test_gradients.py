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
from encoder_service.training.run import TrainingPlan, train
from encoder_service.training.settings import TrainingSettings
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


def assert_alike(found, expected):
    """Within 1e-5 of the largest: what cancels to 0, as a shift of all passages, is rounding alone.

    What takes no part in the loss has no gradient: of zeros, weight decay would make a change.
    """
    assert found.keys() == expected.keys()
    scale = max(float(g.abs().max()) for g in expected.values())
    assert scale > 0.01
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * scale, rtol=1e-5, msg=name)


@pytest.mark.parametrize("chunk_size", [1, 4, 64])
@pytest.mark.parametrize("shared", [True, False])
def test_cached_gradients_are_the_plain_ones(bert_like, language, chunk_size, shared):
    """GradCache is exact: one backward through everything gives the same, within 1e-5."""
    towers, batch = load(bert_like, shared=shared), batch_of(language)
    towers.evaluate()
    loss, expected = plain_gradients(towers, batch)
    told, found = gradients(towers, batch, chunk_size)
    assert told.loss == pytest.approx(loss, abs=1e-5)
    assert_alike(found, expected)


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
    # what comes next draws as if nothing had been computed again
    torch.manual_seed(1)
    questions = [pair.question for pair in batch.pairs]
    with torch.no_grad():
        for encode, texts in (
            (towers.encode_questions, questions),
            (towers.encode_passages, batch.passages),
        ):
            for start in range(0, len(texts), 4):
                encode(texts[start : start + 4])
    assert torch.equal(after, torch.rand(1))


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
    assert_alike(found, expected)


def test_chunks_dropout_and_checkpointing_draw_alike(bert_like, language):
    """All three compute again: with the random numbers of the first time, or of another network."""
    batch, found = batch_of(language), []
    for thrifty in (False, True):
        towers = load(bert_like, gradient_checkpointing=thrifty)
        towers.train()
        torch.manual_seed(1)
        found.append(gradients(towers, batch, 4)[1])
    plain, thrifty = found
    assert_alike(thrifty, plain)


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
    found = {name: p.grad for name, p in towers.named_parameters() if p.grad is not None}
    assert_alike(found, expected)


@dataclass(slots=True)
class Held:
    """Bytes of activations that wait for the way back: now, and the most that there were."""

    now: int = 0
    most: int = 0

    def pack(self, tensor):
        return Kept(self, tensor)

    def unpack(self, kept):
        return kept.tensor

    def counting(self, encode):
        """`encode`, with what its graph keeps counted."""

        def counted(texts):
            with torch.autograd.graph.saved_tensors_hooks(self.pack, self.unpack):
                return encode(texts)

        return counted


class Kept:
    """One tensor that a graph keeps; counted until the graph lets it go."""

    def __init__(self, held, tensor):
        # detached: what a node keeps of its own output would hold the node, and that the output
        self.held, self.tensor = held, tensor.detach()
        self.n_bytes = tensor.numel() * tensor.element_size()
        held.now += self.n_bytes
        held.most = max(held.most, held.now)

    def __del__(self):
        self.held.now -= self.n_bytes


def most_held(towers, pairs, chunk_size) -> int:
    held = Held()
    add_gradients(
        make_batch(pairs, n_hard_negatives=0), held.counting(towers.encode_questions),
        held.counting(towers.encode_passages), World(), temperature=TEMPERATURE,
        chunk_size=chunk_size,
    )  # fmt: skip
    return held.most


def test_a_batch_of_512_trains_in_the_memory_of_16(bert_like, language):
    """What waits for the way back is a chunk's, however large the batch."""
    towers, pairs = load(bert_like), language(512)
    towers.evaluate()
    of_16 = max(most_held(towers, pairs[i : i + 16], 16) for i in range(0, 512, 16))
    assert most_held(towers, pairs, 16) <= of_16
    assert most_held(towers, pairs, 512) > 10 * of_16


_PROCESS = """
import json, sys
from pathlib import Path
sys.path[:0] = json.loads(sys.argv[3])
from shoal.garbage import collect_seldom
collect_seldom()  # as the command does
import torch
from encoder_service.training.world import join_world
from test_gradients import TEMPERATURE, load, train_alike
from encoder_service.training.gradients import add_gradients
from shoal.errors import ConfigError
world = join_world("auto")
assert world.size == 2
world.require_same("settings", "alike")
try:
    world.require_same("settings", str(world.rank))
except ConfigError as failure:
    assert "2 processes have different settings" in failure.message
else:
    raise AssertionError("processes of different settings went on")
folder = Path(sys.argv[2])
batch, pairs = torch.load(folder / "given.pt", weights_only=False)
towers = load(sys.argv[1], shared=False)
towers.evaluate()
add_gradients(batch, towers.encode_questions, towers.encode_passages, world,
              temperature=TEMPERATURE, chunk_size=3)
parameters = dict(towers.named_parameters())
world.sum_gradients(parameters.values())
found = {name: p.grad for name, p in parameters.items() if p.grad is not None}
if world.leads:
    torch.save(found, folder / "found.pt")
outcome = train_alike(sys.argv[1], folder / "two", pairs)
assert (outcome is not None) == world.leads
world.wait()
torch.distributed.destroy_process_group()
"""

ALIKE = TrainingSettings(
    n_steps=6, batch_size=9, chunk_size=4, learning_rate=1e-3, validate_every=3,
    checkpoint_every=2, grouping="random", dropout=0.0,
)  # fmt: skip
"""Nine pairs don't halve; and every process draws a dropout of its own, so there is none."""


def train_alike(model, out, pairs):
    """The outcome in the process that leads."""
    plan = TrainingPlan(
        model=str(model), out=out, pairs=pairs, data=["letters"], device="cpu",
        held_out_share=0.2, settings=ALIKE,
    )  # fmt: skip
    return train(plan, lambda _: None, lambda _: None)


@pytest.fixture(scope="module")
def two_processes(bert_like, language, tmp_path_factory) -> Path:
    """What two processes made of a batch (found.pt) and of a whole training (two)."""
    folder = tmp_path_factory.mktemp("two_processes")
    torch.save((batch_of(language), language(60)), folder / "given.pt")
    script = folder / "process.py"
    script.write_text(_PROCESS)
    paths = json.dumps([str(Path(__file__).parent), str(Path(__file__).parents[3])])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with subprocess.Popen(
        [*launcher, str(script), str(bert_like), str(folder), paths],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as launched:
        try:
            _, told = launched.communicate(timeout=240)
        finally:
            launched.terminate()  # of a kill its processes would learn nothing, and stay
    assert launched.returncode == 0, told
    return folder


@pytest.mark.timeout(300)  # two processes import torch
def test_two_processes_learn_what_one_does(bert_like, language, two_processes):
    """Negatives of the other process count in full: the summed gradients are the whole batch's."""
    towers, batch = load(bert_like, shared=False), batch_of(language)
    towers.evaluate()
    _, expected = plain_gradients(towers, batch)
    found = torch.load(two_processes / "found.pt", weights_only=True)
    assert_alike(found, expected)


@pytest.mark.timeout(300)
def test_a_training_of_two_processes_is_that_of_one(bert_like, language, two_processes, tmp_path):
    """From the split to the models: the same batches, losses and validations, the same vectors.

    AdamW makes a whole step of a gradient that is rounding alone, as keys' biases have, so weights
    may differ where no vector does.
    """
    one = train_alike(bert_like, tmp_path / "one", language(60))
    assert one is not None
    told = json.loads((two_processes / "two" / "training.json").read_text())
    assert told["losses"] == pytest.approx(one.history.losses, rel=1e-3)
    assert len(set(told["losses"])) == ALIKE.n_steps
    for found, expected in zip(told["validations"], one.history.validations, strict=True):
        assert found == pytest.approx(expected, abs=0.1)
    vectors = [
        load(model).encode_questions(["a b c", "d e f g"]).detach()
        for model in (one.model, two_processes / "two" / "model")
    ]
    torch.testing.assert_close(vectors[0], vectors[1], atol=1e-2, rtol=1e-2)
    assert not torch.allclose(vectors[0], load(bert_like).encode_questions(["a b c", "d e f g"]))
