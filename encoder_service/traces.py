"""What a traced call leaves in the encoder: its waits, and the passes that its texts were in."""

import time
from collections.abc import Sequence

from encoder_service.calls import Call, Item
from shoal.tracing.shared import shared_span
from shoal.tracing.spans import Trace


def tell_waits(trace: Trace, call: Call) -> None:
    """A call's way to its first pass, as it was timed: tokenizing, and waiting before and after
    it, which is shown as one; one that no pass took waits to the end.
    """
    tokenized_s = call.begun_s + call.tokenize_s
    root = trace.root
    root.add("tokenize", call.begun_s, tokenized_s)
    if call.forward_s:
        root.add("wait", tokenized_s, tokenized_s + call.queue_s)
    else:
        root.open("wait", tokenized_s)
    root.say(n_texts=len(call.texts), role=str(call.role), is_bulk=bool(call.priority))


def tell_pass(batch: Sequence[Item], seconds: float) -> None:
    """A forward pass that has just ended: one span, linked to each traced call with texts in it."""
    traced = {id(trace): trace.root for item in batch if (trace := item.call.trace) is not None}
    if not traced:
        return
    roots = list(traced.values())
    end_s = time.monotonic()
    span = shared_span("forward pass", roots, end_s - seconds)
    span.end_s = end_s
    n_tokens = sum(item.n_tokens for item in batch)
    span.say(batch_size=len(batch), batch_sampled=len(roots), batch_tokens=n_tokens)
    span.trace.emit([span])
