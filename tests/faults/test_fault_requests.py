"""Requests that are too large, impossible, garbled, late or withdrawn: refused, and nothing else."""

import asyncio
import time

import grpc
import numpy as np
import pytest
from faults import stub
from faults.load import METHOD, asking, requests_of, until
from faults.mini import Mini
from faults.proxy import Proxy
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from shoal import vectors
from shoal.bench.drive import OK
from shoal.v1 import search_pb2 as pb

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]
