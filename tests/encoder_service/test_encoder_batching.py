"""The batching policy, as claims about every queue that hypothesis can think of."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from encoder_service.batching import BatchCost, Priority, next_batch, plan_batches, spread

NOW_S = 100.0


@dataclass(frozen=True)
class Text:
    n_tokens: int
    priority: Priority = Priority.INTERACTIVE
    lane: int = 0
    deadline_s: float = NOW_S + 1
    cancelled: bool = False

    @property
    def is_live(self):
        return not self.cancelled and self.deadline_s > NOW_S


queues = st.lists(
    st.builds(
        Text,
        n_tokens=st.integers(1, 600),
        priority=st.sampled_from(Priority),
        lane=st.integers(0, 1),
        deadline_s=st.sampled_from([NOW_S - 1, NOW_S, NOW_S + 1]),
        cancelled=st.booleans(),
    ),
    max_size=60,
)
costs = st.builds(
    BatchCost, max_tokens=st.sampled_from([1, 64, 512, 4096]), pass_tokens=st.sampled_from([0, 64])
)


def padded(lengths):
    return max(lengths) * len(lengths)


@given(queues, costs)
def test_a_batch_is_sound(queue, cost):
    """Live texts of one class and lane, within the budget, padding cheaper than another pass."""
    choice = next_batch(queue, now_s=NOW_S, cost=cost)
    batch = [queue[i] for i in choice.batch]
    assert len(set(choice.batch)) == len(batch)
    assert all(text.is_live for text in batch)
    assert len({(text.priority, text.lane) for text in batch}) <= 1
    lengths = [text.n_tokens for text in batch]
    assert lengths == sorted(lengths)
    if len(batch) > 1:
        assert padded(lengths) <= cost.max_tokens
        assert padded(lengths) - sum(lengths) <= cost.pass_tokens


@given(queues, costs)
def test_the_oldest_of_the_most_urgent_rides(queue, cost):
    """Nobody is overtaken for ever: who waits longest in the most urgent class is in the batch."""
    live = [i for i, text in enumerate(queue) if text.is_live]
    choice = next_batch(queue, now_s=NOW_S, cost=cost)
    if live:
        assert min(live, key=lambda i: (queue[i].priority, i)) in choice.batch
    else:
        assert choice.batch == ()


@given(queues, costs)
def test_who_left_is_dropped(queue, cost):
    """Exactly the cancelled and the expired are dropped."""
    choice = next_batch(queue, now_s=NOW_S, cost=cost)
    assert choice.dropped == tuple(i for i, text in enumerate(queue) if not text.is_live)


@given(queues, costs)
def test_a_queue_drains(queue, cost):
    """Batch after batch, every text is encoded or dropped once."""
    waiting = list(enumerate(queue))
    done = []
    while waiting:
        choice = next_batch([text for _, text in waiting], now_s=NOW_S, cost=cost)
        gone = {*choice.batch, *choice.dropped}
        assert gone
        done += [waiting[i][0] for i in gone]
        waiting = [entry for i, entry in enumerate(waiting) if i not in gone]
    assert sorted(done) == list(range(len(queue)))


def test_equal_texts_fill_the_budget():
    """64 questions of 16 tokens and a budget of 1,024 are one batch, not 64."""
    queue = [Text(16)] * 64
    cost = BatchCost(max_tokens=1024, pass_tokens=64)
    assert len(next_batch(queue, now_s=NOW_S, cost=cost).batch) == 64


def test_a_long_text_rides_alone():
    """One passage among questions would pad them all to its length: it goes by itself."""
    cost = BatchCost(max_tokens=4096, pass_tokens=64)
    queue = [Text(250), *[Text(16)] * 15]
    assert next_batch(queue, now_s=NOW_S, cost=cost).batch == (0,)
    queue = [Text(16), Text(250), *[Text(16)] * 14]
    assert 1 not in next_batch(queue, now_s=NOW_S, cost=cost).batch


def test_a_text_above_the_budget_still_goes():
    """A budget below one text can't starve it."""
    cost = BatchCost(max_tokens=10, pass_tokens=64)
    assert next_batch([Text(500)], now_s=NOW_S, cost=cost).batch == (0,)


@given(st.lists(st.integers(1, 600), max_size=200), costs)
def test_a_plan_covers_all_once(lengths, cost):
    """Every position in one batch; batches obey the budget; the longest come first."""
    batches = plan_batches(lengths, cost)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or padded([lengths[i] for i in batch]) <= cost.max_tokens
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


@given(st.lists(st.integers(1, 60), min_size=8, max_size=40), st.integers(1, 8))
def test_work_spreads_over_idle_cores(lengths, n_idle):
    """With their shares as budgets, idle cores take up nearly all that waits, none far more."""
    cost = BatchCost(max_tokens=512, pass_tokens=32)
    share = spread(sum(lengths), n_idle=n_idle, cost=cost)
    assert share.max_tokens <= cost.max_tokens
    assert share.max_tokens == 512 or share.max_tokens * n_idle >= sum(lengths)
    assert spread(10**6, n_idle=n_idle, cost=cost) == cost
