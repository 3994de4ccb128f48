"""Questions to a cluster of fakes, and what a partial answer must be."""

import grpc
import numpy as np
import pytest
from fakes.cluster import hits_of, vector_request

from shoal.v1 import search_pb2 as pb

VECTOR = np.array([[1, 2, -3, 4, 0, -1, 2, 3]], dtype=np.float32)


def request(**parameters: object) -> pb.SearchRequest:
    return vector_request(VECTOR, k=parameters.pop("k", 5), **parameters)


async def refusal(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def check_partial(cluster, answer, outcome, dead=1):
    """The answer is the oracle's for the shards that are left, and says so."""
    left = [s for s in range(len(cluster.shards)) if s != dead]
    assert answer.coverage == cluster.corpus.coverage(*left)
    assert answer.shards[dead].outcome == outcome, answer.shards[dead]
    assert answer.shards[dead].detail
    assert hits_of(answer.results[0]) == cluster.corpus.search(VECTOR[0], 5, shards=left)
