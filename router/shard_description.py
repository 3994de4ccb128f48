"""What a shard tells of a version that it has open, as a value. The wire ends here."""

from router.topology import IndexVersion, OperatingPoint
from shoal.internal.v1 import shard_pb2 as pb


def index_version(index: str, message: pb.ShardVersion) -> IndexVersion:
    """The version of this index as a value."""
    point_fields = [
        OperatingPoint(n_probe=p.n_probe, oversample=p.oversample, recall=p.recall, k=p.k)
        for p in message.operating_points
    ]
    return IndexVersion(
        name=index,
        version=message.version,
        dim=message.dim,
        recipe=message.recipe,
        score_kind=message.score_kind,
        n_lists=message.n_lists,
        default_n_probe=message.default_n_probe,
        default_oversample=message.default_oversample,
        n_live_by_shard=tuple(message.n_live_by_shard),
        question_fingerprint=message.contract.question.fingerprint,
        encoder_model=message.encoder_model,
        operating_points=tuple(point_fields),
        created_at_ns=message.create_time.ToNanoseconds(),
        next_ordinal=message.next_ordinal,
    )
