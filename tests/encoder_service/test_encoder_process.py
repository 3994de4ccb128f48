"""`python -m encoder_service` as an operator meets it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shoal.v1 import encoder_pb2 as pb
from shoal.v1 import encoder_pb2_grpc

ROOT = Path(__file__).parents[2]


def start(*flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "encoder_service", *flags],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "default"},
    )


@pytest.mark.end_to_end
def test_starts_serves_and_stops(tmp_path, sentence_model):
    """Announces its address, turns SERVING, encodes, and leaves with 0 on SIGTERM."""
    address_file = tmp_path / "address.json"
    process = start(
        "--model", str(sentence_model), "--address-file", str(address_file),
        "--log-level", "warning", "--parent-pid", str(os.getpid()),
    )  # fmt: skip
    try:
        deadline_s = time.monotonic() + 90
        while not address_file.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        with grpc.insecure_channel(json.loads(address_file.read_text())["address"]) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            asked = health_pb2.HealthCheckRequest(service="shoal.v1.EncoderService")
            while health.Check(asked).status != health_pb2.HealthCheckResponse.SERVING:
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            stub = encoder_pb2_grpc.EncoderServiceStub(channel)
            answer = stub.Encode(pb.EncodeRequest(texts=["hello", "world"]))
        assert (answer.vectors.n_rows, answer.vectors.dim) == (2, 24)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=30)
        assert (process.returncode, stderr) == (0, "")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.end_to_end
def test_a_wrong_model_is_one_line(tmp_path):
    """No traceback: what was wrong, and exit code 78."""
    process = start("--model", str(tmp_path), "--log-level", "warning")
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 78
    assert stderr.count("\n") == 1
    assert "is not a model" in stderr
