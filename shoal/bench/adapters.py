"""Who implements a target: the adapters by name, and anybody's own.

To aim at a system of your own, write a module with `open_target(plan)`, an async context manager
that yields a `Target`, and name it: `shoal bench --adapter mine:open_target --target ...`.
"""

import importlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from shoal.bench.plan import LoadPlan
from shoal.bench.target import Target
from shoal.errors import InvalidArgumentError

OpenTarget: TypeAlias = Callable[[LoadPlan], AbstractAsyncContextManager[Target]]

_ADAPTERS = {
    "grpc": "shoal.bench.grpc_target:open_target",
    "http": "shoal.bench.http_target:open_target",
}


def open_target(plan: LoadPlan) -> AbstractAsyncContextManager[Target]:
    """The target of a plan, by its adapter.

    Raises:
        InvalidArgumentError: the adapter can't be imported.
    """
    module, _, function = _ADAPTERS.get(plan.adapter, plan.adapter).partition(":")
    try:
        opened: OpenTarget = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as failure:
        if isinstance(failure, ModuleNotFoundError) and plan.adapter in _ADAPTERS:
            raise  # the command says what to install
        raise InvalidArgumentError(
            f"the target's adapter {plan.adapter!r} can't be used: {failure}", field="target"
        ) from failure
    return opened(plan)
