"""The running encoders against what the index recorded. Pure."""

from collections.abc import Iterator

from deploy.doctor.facts.record import Facts
from deploy.doctor.findings import Finding, fault, note, ok, warning


def encoder_contract(facts: Facts) -> Iterator[Finding]:
    """An encoder whose vectors mean something else than the index's."""
    name = "encoder-contract"
    for encoder in facts.encoders:
        who = f"the encoder at {encoder.address}"
        if encoder.fault:
            yield fault(
                name,
                f"{who} is not the index's: {encoder.fault}",
                f"serve the encoder that built the index, {encoder.model}: 'shoal down', then "
                "'shoal up' without --model",
            )
        elif encoder.why:
            yield warning(
                name,
                f"{who} can't be asked for its contract: {encoder.why}",
                "see its log, and that the token given has the scope encode",
            )
        elif encoder.n_probes:
            yield ok(
                name,
                f"{who} is the index's, {encoder.model}: its fingerprint, and {encoder.n_probes} "
                f"probe texts encoded now, to a cosine of {encoder.lowest_cosine:.5f}",
            )
        else:
            yield ok(name, f"{who} has the index's fingerprint")
    cluster = facts.cluster
    known = cluster and any(replica.part == "encoder" for replica in cluster.replicas)
    if known and not facts.encoders and facts.index is None:
        yield note(
            name,
            "there are encoders, and no index to compare them with",
            "give --index DIR or URL",
        )
