"""How many replicas each deployment has, as the entries of a Serve config say it. Pure.

Rule: an encoder's and a router's number is always a pair of bounds, alike where it is fixed. Serve
has replicas tell their load only where they were started with bounds, so `shoal scale encoder=1..4`
would otherwise be blind to those that run already.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from deploy.ray.scaling import RULES, Bounds
from shoal.errors import InvalidArgumentError

_MOST = 10_000
_COUNT = re.compile(r"([0-9]{1,9})(?:\.\.([0-9]{1,9}))?")
_SHARD = re.compile(r"shard-[0-9]+")
_ROLES = ("encoder", "router", "shard")
_METRICS_S, _LOOK_BACK_S = 1.0, 10.0


def parse_counts(texts: Sequence[str]) -> dict[str, Bounds]:
    """What `encoder=4 shard=2 router=2..6` asks for, by role.

    Raises:
        InvalidArgumentError: naming the argument, and how it should be.
    """
    wanted: dict[str, Bounds] = {}
    for text in texts:
        role, equals, count = text.partition("=")
        if not equals or role not in _ROLES:
            raise InvalidArgumentError(
                f"{text!r} names no role; give encoder=N, router=N or shard=N"
            )
        if role in wanted:
            raise InvalidArgumentError(f"{role} is there twice")
        wanted[role] = _bounds(role, count)
    if not wanted:
        raise InvalidArgumentError("what is to be scaled? For example: shoal scale encoder=4")
    return wanted


def _bounds(role: str, text: str) -> Bounds:
    found = _COUNT.fullmatch(text)
    if found is None:
        raise InvalidArgumentError(
            f"{role}={text}: not a number of replicas; give {role}=4"
            + ("" if role == "shard" else f", or bounds between which it follows load: {role}=1..4")
        )
    least, most = int(found[1]), int(found[2] or found[1])
    if least < 1:
        raise InvalidArgumentError(
            f"{role}={text}: a cluster needs one of each at least; 'shoal down' ends it"
        )
    if most < least or most > _MOST:
        raise InvalidArgumentError(f"{role}={text}: give {least} to {_MOST:,}, the least first")
    if role == "shard" and found[2]:
        raise InvalidArgumentError(
            f"shard={text}: shards don't follow load, since each replica holds its part of the "
            f"index in memory; give one number: shard={most}"
        )
    return Bounds(least=least, most=most)


def deployments_of(role: str, names: Sequence[str]) -> list[str]:
    """The deployments of a role, among these."""
    return [name for name in names if (_SHARD.fullmatch(name) if role == "shard" else name == role)]


def entry(name: str, bounds: Bounds, **rules: float) -> dict[str, Any]:
    """A deployment's entry; `rules` replace constants of its autoscaling policy."""
    if name not in RULES:
        return {"name": name, "num_replicas": bounds.most}
    return {
        "name": name,
        "autoscaling_config": {
            "min_replicas": bounds.least,
            "max_replicas": bounds.most,
            # a report a second, in place of one in ten, though Ray 2.60 calls the field deprecated:
            # the variable that is to replace it is read by nothing yet
            "metrics_interval_s": _METRICS_S,
            "look_back_period_s": _LOOK_BACK_S,
            # the policy is alone in deciding when
            "upscale_delay_s": 0,
            "downscale_delay_s": 0,
            "policy": {
                "policy_function": "deploy.ray.scaling:ScalingPolicy",
                "policy_kwargs": {"role": name, **rules},
            },
        },
    }


def rescaled(config: Mapping[str, Any], wanted: Mapping[str, Bounds]) -> dict[str, Any]:
    """An application's entry with other numbers for these deployments; all else stays as it is.

    An operator's own rules of a policy are kept.
    """
    told = {str(known["name"]): dict(known) for known in config.get("deployments", ())}
    for name, bounds in wanted.items():
        known = told.get(name, {})
        kept = {k: v for k, v in known.items() if k not in {"num_replicas", "autoscaling_config"}}
        told[name] = {**kept, **entry(name, bounds, **_rules(known))}
    return {**config, "deployments": [told[name] for name in sorted(told)]}


def _rules(known: Mapping[str, Any]) -> dict[str, float]:
    policy = (known.get("autoscaling_config") or {}).get("policy") or {}
    kwargs = policy.get("policy_kwargs") or {}
    return {key: value for key, value in kwargs.items() if key != "role"}


_FIELDS = {"shard": "replicas", "encoder": "encoders", "router": "routers"}
"""Where `RayOptions` has a role's number."""


def kept(
    config: Mapping[str, Any], before: Mapping[str, Any], given: Collection[str]
) -> dict[str, Any]:
    """The entry with `before`'s numbers where this one's were not asked for.

    Whoever gives `shoal up` again to roll a program doesn't mean to undo `shoal scale`.

    Args:
        config: to be applied.
        before: what was applied last.
        given: fields of `RayOptions` that were.
    """
    names = [str(known["name"]) for known in config["deployments"]]
    asked = {
        name for role, field in _FIELDS.items() if field in given
        for name in deployments_of(role, names)
    }  # fmt: skip
    known = {told["name"]: told for told in before.get("deployments", ()) if told["name"] in names}
    entries = [
        new if new["name"] in asked else known.get(new["name"], new)
        for new in config["deployments"]
    ]
    return {**config, "deployments": entries}


def bounds_of(config: Mapping[str, Any], name: str) -> Bounds | None:
    """What an application's entry says of a deployment; None where it leaves it to the program."""
    for known in config.get("deployments", ()):
        if known["name"] == name:
            scaling = known.get("autoscaling_config")
            if isinstance(scaling, Mapping):
                return Bounds(least=scaling["min_replicas"], most=scaling["max_replicas"])
            if isinstance(known.get("num_replicas"), int):
                return Bounds(least=known["num_replicas"], most=known["num_replicas"])
    return None
