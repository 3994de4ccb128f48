"""AnnounceRequest to values: what can be told wrong from the request alone is refused here."""

from router.leases import MAX_SHARDS
from router.roles import Announcement, EncoderRole, Role, ShardRole
from shoal.credentials import Credentials, check_credentials
from shoal.errors import InvalidArgumentError
from shoal.index_name import refuse_unlawful
from shoal.internal.v1 import admin_pb2 as pb
from shoal.target import target_fault

DEFAULT_LEASE_MS = 3_000
MIN_LEASE_MS, MAX_LEASE_MS = 100, 60_000
MAX_RENEW_MS = 1_000

_MAX_ADDRESS = 512
_MAX_FINGERPRINT = 128


def checked_address(address: str, credentials: Credentials) -> str:
    """The address as it is, once it may be asked with these credentials.

    Raises:
        InvalidArgumentError: it is no address of one process, or this router's token would go there
            in plaintext.
    """
    if fault := target_fault(address):
        raise InvalidArgumentError(f"address {fault}"[:_MAX_ADDRESS], field="address")
    if len(address) > _MAX_ADDRESS or "," in address:
        raise InvalidArgumentError(
            f"address must name one process in at most {_MAX_ADDRESS} characters", field="address"
        )
    try:
        check_credentials(address, credentials)
    except InvalidArgumentError as failure:
        raise InvalidArgumentError(failure.message, field="address") from failure
    return address


def announcement_of(request: pb.AnnounceRequest, address: str) -> Announcement:
    """What `address` says of itself. Raises InvalidArgumentError, which names the field."""
    kind = request.WhichOneof("role")
    if kind is None:
        raise InvalidArgumentError("a role is needed: shard or encoder", field="role")
    role: Role = _shard(request.shard) if kind == "shard" else _encoder(request.encoder)
    return Announcement(address=address, role=role, lease_s=_lease_ms(request) / 1e3)


def renew_ms(request: pb.AnnounceRequest) -> int:
    """When to say it again: often enough that two may be lost."""
    return min(MAX_RENEW_MS, _lease_ms(request) // 3)


def _lease_ms(request: pb.AnnounceRequest) -> int:
    lease_ms = request.lease_ms if request.HasField("lease_ms") else DEFAULT_LEASE_MS
    if not MIN_LEASE_MS <= lease_ms <= MAX_LEASE_MS:
        raise InvalidArgumentError(
            f"lease_ms is {lease_ms}; it must be {MIN_LEASE_MS} to {MAX_LEASE_MS}", field="lease_ms"
        )
    return lease_ms


def _shard(role: pb.ShardRole) -> ShardRole:
    if not role.index:
        raise InvalidArgumentError("the index's name is missing", field="shard.index")
    refuse_unlawful(role.index)
    if not 1 <= role.n_shards <= MAX_SHARDS:
        raise InvalidArgumentError(
            f"n_shards is {role.n_shards}; it must be 1 to {MAX_SHARDS}", field="shard.n_shards"
        )
    if role.shard >= role.n_shards:
        raise InvalidArgumentError(
            f"shard {role.shard} of {role.n_shards}: shards are numbered from 0",
            field="shard.shard",
        )
    if not role.version:
        raise InvalidArgumentError("version must be 1 or more", field="shard.version")
    return ShardRole(
        index=role.index, shard=role.shard, n_shards=role.n_shards, version=role.version
    )


def _encoder(role: pb.EncoderRole) -> EncoderRole:
    if len(role.question_fingerprint) > _MAX_FINGERPRINT:
        raise InvalidArgumentError(
            f"question_fingerprint must have at most {_MAX_FINGERPRINT} characters",
            field="encoder.question_fingerprint",
        )
    return EncoderRole(question_fingerprint=role.question_fingerprint)
