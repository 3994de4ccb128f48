"""The contract doesn't lean on Python: clients that have no stub of ours."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
from facts import FACTS
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).resolve().parents[2]


def test_a_generic_client_learns_the_contract_from_the_server(cluster):
    """As grpcurl does: reflection alone is enough to list, build, call and read."""
    with grpc.insecure_channel(cluster.target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "shoal.v1.SearchService" in database.get_services()
        service: Any = DescriptorPool(database).FindServiceByName("shoal.v1.SearchService")
        method = service.methods_by_name["Search"]
        request_class, response_class = map(
            GetMessageClass, (method.input_type, method.output_type)
        )
        call = channel.unary_unary(
            "/shoal.v1.SearchService/Search",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response_class.FromString,
        )
        request = request_class(k=1)
        request.queries.add(text="what is the largest animal")
        response = call(request, timeout=30)
    assert response.results[0].hits[0].passage.text == FACTS["whale"][1]
    assert response.coverage == 1.0


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory):
    """gRPC for Node from the npm registry, or a skip that says why."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js is not installed")
    folder = tmp_path_factory.mktemp("node")
    try:
        done = subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--prefix", folder,
             "@grpc/grpc-js@1", "@grpc/proto-loader@0"],
            capture_output=True, text=True, timeout=100,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.skip("the npm registry was too slow")
    if done.returncode != 0:
        pytest.skip(f"npm can't install @grpc/grpc-js: {done.stderr[-200:]}")
    return folder


def test_a_node_client_searches_and_streams(cluster, node_modules):
    """JavaScript reads the same .proto files: a unary call, a stream, and a refusal by field."""
    import google.rpc

    googleapis = Path(next(iter(google.rpc.__path__))).parents[1]
    script = node_modules / "client.js"
    script.write_text((Path(__file__).parent / "node_client.js").read_text())
    done = subprocess.run(
        ["node", script, cluster.target, ROOT / "protos", googleapis],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["first"] == FACTS["paris"][1]
    assert seen["coverage"] == 1.0
    assert seen["streamed"] == {"a": "whale", "b": "violin"}
    assert seen["refused"] == {"code": 3, "message": "k is 0; it must be 1 to 1000"}
