"""One encoder service as the router sees it: a connection, its lane, its health, and its canary.

Knows nothing of queries; `encoding` decides who is asked.
"""

import time
from collections.abc import Sequence

from router.canary import Verdict
from router.cluster import Replica, Shared
from router.encoder_client import Encoded, EncoderClient
from router.lane import Lane
from router.standing import Cause
from shoal.contract import EncoderContract
from shoal.errors import FailedPreconditionError, ShoalError, UnavailableError
from shoal.rpc import metrics
from shoal.tracing.spans import Span
from shoal.v1 import priority_pb2

_CANARY_TIMEOUT_S = 5.0
_ANSWERED = metrics.ENCODER_REQUESTS.labels("OK")


class EncoderReplica(Replica[EncoderContract]):
    """One encoder service and the lane before it."""

    _component = "encoder"

    def __init__(self, address: str, shared: Shared) -> None:
        self._encoder_client = EncoderClient(address, shared.config.peer_credentials)
        self._probes = shared.probes
        self._verdict: Verdict | None = None
        super().__init__(self._encoder_client, shared)
        self.lane: Lane[tuple[str, int, Sequence[str]], Encoded] = Lane(
            self._encode,
            tasks=shared.tasks,
            max_cost=shared.config.max_batch_texts,
            on_batch=metrics.BATCH_SIZE.labels("router_encoder").observe,
            n_active=shared.n_active,
        )

    async def close(self) -> None:
        """As every replica; what waits in its lane ends too."""
        self.lane.close()
        await super().close()

    @property
    def load(self) -> int:
        """Texts queued or under way."""
        return self.lane.load

    @property
    def question_fingerprint(self) -> str:
        """The question tower's, as far as known."""
        return self.health.description.question.fingerprint if self.health.description else ""

    @property
    def disproof(self) -> str:
        """What the canary found wrong; empty where nothing."""
        return self._verdict.fault if self._verdict else ""

    async def _prove(self, description: EncoderContract) -> str:
        """The canary, where it is due: whether the vectors are those that the index was built by.

        Goes as BULK, behind everybody's questions and past the encoder's cache. An encoder that is
        full or late is not judged.
        """
        tower = description.question.fingerprint
        probes = self._probes.get(tower)
        now_s = time.monotonic()
        if probes is None:
            self._verdict = None
            return ""
        if self._verdict and self._verdict.stands(tower, now_s, self._config.canary_s):
            return self._verdict.fault
        try:
            encoded = await self._encoder_client.encode(
                tower, priority_pb2.PRIORITY_BULK, [probes.texts], _CANARY_TIMEOUT_S
            )
            fault = probes.fault(encoded[0].query_vectors)
        except FailedPreconditionError as failure:
            fault = failure.message
        except UnavailableError:
            self._verdict = None
            raise
        except ShoalError:
            return self.disproof
        fault = f"fails the canary: {fault}" if fault else ""
        self._verdict = Verdict(fingerprint=tower, at_s=now_s, fault=fault)
        return fault

    def eject(self, detail: str, cause: Cause = Cause.UNFIT) -> None:
        """As every replica; one that can't be reached may come back as another process."""
        if detail != self.disproof:
            self._verdict = None
        super().eject(detail, cause)

    async def _encode(
        self,
        jobs: Sequence[tuple[str, int, Sequence[str]]],
        timeout_s: float,
        spans: Sequence[Span],
    ) -> Sequence[Encoded]:
        fingerprint, priority, _ = jobs[0]
        try:
            encoded = await self._encoder_client.encode(
                fingerprint, priority, [texts for _, _, texts in jobs], timeout_s, spans
            )
        except ShoalError as failure:
            metrics.ENCODER_REQUESTS.labels(failure.code.name).inc()
            self.note(failure)
            raise
        self.heard()
        _ANSWERED.inc()
        return encoded
