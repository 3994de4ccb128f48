#!/usr/bin/env bash
# Generates the stubs from protos/ into the folder given (default: the repository), with the oldest
# grpcio-tools that we support: new stubs never run on an older protobuf. Also writes the contract
# as one descriptor image, which buf lints and compares.
# usage: tools/stubs.sh PYTHON [OUT [IMAGE]]; PYTHON has grpcio-tools and mypy-protobuf.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 out=${2:-.} image=${3:-.build/contract.binpb}
mkdir -p "$out" "$(dirname "$image")"
bin=$(cd "$(dirname "$python")" && pwd)
google=$("$python" -c 'import pathlib, google.rpc; print(pathlib.Path(list(google.rpc.__path__)[0]).parents[1])')
mapfile -t protos < <(cd protos && find shoal -name '*.proto' | sort)
protoc() { PATH=$bin:$PATH "$python" -m grpc_tools.protoc -Iprotos -I"$google" "$@"; }
mapfile -t services < <(cd protos && grep -lE '^service ' "${protos[@]}")
protoc --python_out="$out" --mypy_out="quiet:$out" "${protos[@]}"
protoc --grpc_python_out="$out" --mypy_grpc_out="quiet:$out" "${services[@]}"
protoc --include_imports --include_source_info --descriptor_set_out="$image" "${protos[@]}"
