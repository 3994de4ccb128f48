"""EncoderService over a real gRPC connection, with a real tiny model."""

import grpc
import numpy as np
import pytest
from prometheus_client import REGISTRY

import shoal
from encoder_service.config import EncoderConfig
from encoder_service.roles import Role
from encoder_service.service import EncoderService
from shoal import contract, errors, vectors
from shoal.rpc.channel import open_channel
from shoal.rpc.interceptor import ShoalInterceptor
from shoal.rpc.limits import server_options
from shoal.rpc.status import error_of
from shoal.v1 import encoder_pb2 as pb
from shoal.v1 import encoder_pb2_grpc, priority_pb2


@pytest.fixture
async def service(sentence_model):
    service = EncoderService(EncoderConfig(model=str(sentence_model), device="cpu"))
    await service.load()
    yield service
    await service.close()


@pytest.fixture
async def stub(service):
    async for stub in serving(service):
        yield stub


async def serving(service):
    server = grpc.aio.server(interceptors=(ShoalInterceptor(),), options=server_options())
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        yield encoder_pb2_grpc.EncoderServiceStub(channel)
    await server.stop(0)


def n_looked_up(result):
    return REGISTRY.get_sample_value("shoal_encoder_cache_lookups_total", {"result": result})


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_of(caught.value)


async def test_rows_are_the_encoders(stub, service, texts):
    """Row i is text i, by the tower of the role, with one flag each and the tower's fingerprint."""
    encoder = service._encoder
    for role, name in ((Role.QUERY, pb.ENCODE_ROLE_QUERY), (Role.PASSAGE, pb.ENCODE_ROLE_PASSAGE)):
        answer = await stub.Encode(pb.EncodeRequest(texts=texts, role=name))
        got = vectors.from_proto(answer.vectors, "vectors")
        np.testing.assert_allclose(got, encoder.encode(texts, role), atol=1e-5)
        assert list(answer.truncated) == [t.truncated for t in encoder.tokenize(texts, role)]
        assert answer.fingerprint == encoder.tower(role).fingerprint
        assert answer.timings.forward_ms > 0
        assert answer.request_id


async def test_titles_go_before_their_texts(stub, texts):
    """A title and its text give the vector of "title text"."""
    passage = pb.ENCODE_ROLE_PASSAGE
    titled = await stub.Encode(pb.EncodeRequest(texts=["b c", "d"], titles=["a", ""], role=passage))
    joined = await stub.Encode(pb.EncodeRequest(texts=["a b c", "d"], role=passage))
    np.testing.assert_allclose(
        vectors.from_proto(titled.vectors, "v"), vectors.from_proto(joined.vectors, "v"), atol=1e-5
    )


async def test_the_description_is_the_contract(stub, service, sentence_model):
    """GetEncoder carries both towers with probes, limits, where it runs, and the release."""
    answer = await stub.GetEncoder(pb.GetEncoderRequest())
    read = contract.from_proto(answer.contract, answer.model)
    assert read.question.fingerprint == service._encoder.contract.question.fingerprint
    probes = np.array(read.passage.probe_vectors, dtype=np.float32)
    assert contract.lowest_cosine(service._encoder.contract.passage, probes) > 0.9999
    assert answer.model == str(sentence_model)
    assert (answer.max_texts, answer.max_text_bytes) == (1024, 65536)
    assert (answer.device, answer.backend, answer.dtype) == ("cpu", "onnxruntime", "float32")
    assert answer.release == shoal.__version__


async def test_known_questions_come_from_the_cache(stub, service):
    """A question that comes again costs no pass, alone or among new ones, and changes no row."""
    before = n_looked_up("hit"), n_looked_up("miss")
    first = await stub.Encode(pb.EncodeRequest(texts=["one", "two words"]))
    again = await stub.Encode(pb.EncodeRequest(texts=["two words", "one"]))
    assert again.timings.forward_ms == 0
    mixed = await stub.Encode(pb.EncodeRequest(texts=["three", "one", "word " * 80]))
    assert mixed.timings.forward_ms > 0
    assert (n_looked_up("hit"), n_looked_up("miss")) == (before[0] + 3, before[1] + 4)
    rows = [vectors.from_proto(answer.vectors, "v") for answer in (first, again, mixed)]
    np.testing.assert_array_equal(rows[0], rows[1][::-1])
    np.testing.assert_array_equal(rows[0][0], rows[2][1])
    assert list(mixed.truncated) == [False, False, True]
    np.testing.assert_allclose(
        rows[2], service._encoder.encode(["three", "one", "word " * 80], Role.QUERY), atol=1e-5
    )


async def test_bulk_questions_pass_the_cache_by(stub):
    """A canary must be computed now, and bulk work must not wash out what people ask."""
    bulk = pb.EncodeRequest(texts=["only once"], priority=priority_pb2.PRIORITY_BULK)
    for _ in range(2):
        assert (await stub.Encode(bulk)).timings.forward_ms > 0
    asked = await stub.Encode(pb.EncodeRequest(texts=["only once"]))
    assert asked.timings.forward_ms > 0
    assert (await stub.Encode(pb.EncodeRequest(texts=["only once"]))).timings.forward_ms == 0
    assert (await stub.Encode(bulk)).timings.forward_ms > 0


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.EncodeRequest(), "texts"),
        (pb.EncodeRequest(texts=["a"] * 1025), "texts"),
        (pb.EncodeRequest(texts=["a", "", "b"]), "texts[1]"),
        (pb.EncodeRequest(texts=["a", "b", " \t\n"]), "texts[2]"),
        (pb.EncodeRequest(texts=["a", "é" * 40_000]), "texts[1]"),
        (pb.EncodeRequest(texts=["a", "b"], titles=["t"]), "titles"),
        (pb.EncodeRequest(texts=["a"], titles=["t" * 70_000]), "titles[0]"),
        (pb.EncodeRequest(texts=["a"], role=9), "role"),
        (pb.EncodeRequest(texts=["a"], priority=9), "priority"),
    ],
)
async def test_a_wrong_request_is_refused_by_field(stub, request_, field):
    """INVALID_ARGUMENT names the field."""
    error = await refusal(stub.Encode(request_))
    assert isinstance(error, errors.InvalidArgumentError)
    assert error.field == field


async def test_another_encoder_is_a_failed_precondition(stub, service):
    """Both fingerprints are named, since somebody has to compare them; the right one passes."""
    served = service._encoder.contract.question.fingerprint
    await stub.Encode(pb.EncodeRequest(texts=["a"], expected_fingerprint=served))
    error = await refusal(stub.Encode(pb.EncodeRequest(texts=["a"], expected_fingerprint="f00")))
    assert isinstance(error, errors.FailedPreconditionError)
    assert served in error.message
    assert "f00" in error.message


async def test_the_deadline_is_kept(stub):
    """A call that can't be done in its time ends as DEADLINE_EXCEEDED."""
    call = pb.EncodeRequest(texts=["word " * 40] * 1024, priority=priority_pb2.PRIORITY_BULK)
    error = await refusal(stub.Encode(call, timeout=0.02))
    assert isinstance(error, errors.DeadlineExceededError)


async def test_before_the_model_is_there_calls_may_come_back(sentence_model):
    """While it loads, the service is UNAVAILABLE, which clients retry."""
    unloaded = EncoderService(EncoderConfig(model=str(sentence_model)))
    async for stub in serving(unloaded):
        error = await refusal(stub.Encode(pb.EncodeRequest(texts=["a"])))
        assert isinstance(error, errors.UnavailableError)
