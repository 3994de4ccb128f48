# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-cluster test-faults test-ray test-soak soak fuzz test-simulation \
	check stubs bench bench-parts bench-quality bench-index bench-building bench-overload bench-scale \
	bench-scaling bench-against bench-ray bench-training bench-observability screenshots gpu-check clean
SHELL := bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
STUB_TOOLS := .build/stub-tools/.ready

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

setup: $(READY) ## make .venv with everything that development needs

# torch first and pinned: asked for by another package, pip would take a build for CUDA
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY) ## build an index of Python's documentation, serve it, ask it questions
	PATH="$(CURDIR)/$(BIN):$$PATH" tools/demo.sh

test: $(READY) ## the tests
	$(BIN)/python -m pytest $(PYTEST)

test-faults: $(READY) ## every fault under load, on real processes, and docs/reliability.md (an hour)
	rm -f .build/faults/results.jsonl
	$(BIN)/python -m pytest tests/faults -m "not soak" --judge-times $(PYTEST); \
	code=$$?; $(BIN)/python tests/faults/report.py && exit $$code

test-ray: $(READY) ## a cluster on a real Ray cluster of this machine, with its faults under load
	$(BIN)/python -m pytest tests/ray -m "ray or not ray" $(PYTEST)

test-cluster: $(READY) ## `ray up` on two hosts made of namespaces, as root, and its transcript in docs/ray.md
	$(BIN)/python -m pytest tests/deploy_files -m cluster $(PYTEST)
	$(BIN)/python tests/deploy_files/report.py

test-soak: soak fuzz ## both of the following

soak: $(READY) ## ten minutes of random killing; PYTEST="--soak-s 3600 --soak-seed 7"
	$(BIN)/python -m pytest tests/faults -m soak -s --judge-times $(PYTEST)

# the last -m and the last of each option are the ones that hold
fuzz: $(READY) ## 10,000 requests an RPC, twice, and a minute a parser; PYTEST="--fuzz-seed 7"
	$(BIN)/python -m pytest tests/fuzz -m "soak or not soak" -s \
		--fuzz-examples 10000 --fuzz-seed $$RANDOM $(PYTEST)

test-simulation: $(READY) ## 10,000 seeded schedules of trouble in simulated time; PYTEST="--sim-seed 7" replays one
	$(BIN)/python -m pytest tests/simulation --sim-schedules 10000 $(PYTEST)

check: $(READY) $(STUB_TOOLS) ## lint, types, layers, stubs, the wire contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	rm -rf .build/stubs && tools/stubs.sh .build/stub-tools/bin/python .build/stubs
	cd .build/stubs && find . -type f | sort | xargs -I{} diff -u {} ../../{}
	$(BIN)/buf lint .build/contract.binpb --config buf.yaml
	$(BIN)/buf breaking .build/contract.binpb --against protos/released.binpb --config buf.yaml

stubs: $(STUB_TOOLS) ## generate the stubs from protos/
	tools/stubs.sh .build/stub-tools/bin/python

# the oldest grpcio-tools that we support, apart from everything else: stubs run on what made them and later
$(STUB_TOOLS): tools/stub-requirements.txt
	$(PYTHON) -m venv .build/stub-tools
	.build/stub-tools/bin/pip install --quiet --disable-pip-version-check -r tools/stub-requirements.txt
	touch $@

bench: $(READY) ## Shoal beside faiss in process and a /retrieve server: table and report (10 minutes)
	$(BIN)/python -m bench.serving $(BENCH)

bench-parts: $(READY) ## the served cluster beside its own parts, as ratios
	$(BIN)/python -m bench.parts $(BENCH)

bench-building: $(READY) ## memory and time to build 100 thousand, 500 thousand and 2 million vectors
	$(BIN)/python -m bench.building $(BENCH)

bench-quality: $(READY) ## Success@k through the cluster beside exact search and BM25
	$(BIN)/python -m bench.quality $(BENCH)

bench-overload: $(READY) ## goodput, waits and refusals at one to three times the sustainable load
	$(BIN)/python -m bench.overload $(BENCH)

bench-scale: $(READY) ## a fan-out to 16, 64 and 256 shards, by simulation (docs/scale.md)
	$(BIN)/python -m bench.scale $(BENCH)

bench-scaling: $(READY) ## encoders follow a load step on a real Ray cluster (docs/ray-scaling.png; 4 minutes)
	$(BIN)/python -m bench.scaling --png docs/ray-scaling.png $(BENCH)

bench-training: $(READY) ## what a step of training costs, and what each setting saves of it (docs/training.md)
	$(BIN)/python -m bench.training $(BENCH)

bench-index: $(READY) ## every recipe: bytes, recall, time; what a shard adds to faiss (docs/index.md)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m bench.index $(BENCH)

bench-against: $(READY) ## this checkout beside another one (OTHER=PATH), in interleaved pairs
	$(BIN)/python -m bench.against $(OTHER) $(BENCH)

bench-ray: $(READY) ## a cluster on Ray beside the same one without, in interleaved pairs
	$(BIN)/python -m bench.on_ray $(BENCH)

bench-observability: $(READY) ## what metrics and traces cost, in interleaved pairs (5 minutes)
	$(BIN)/python -m bench.observability $(BENCH)

screenshots: $(READY) ## the console's pictures in docs/, by headless Chromium (INDEX=DIR; without, the demo's)
	$(BIN)/python -m bench.screenshots $(if $(INDEX),--index $(INDEX)) $(BENCH)

gpu-check: $(READY) ## what needs a GPU: its tests, then queries a second beside the CPU's
	$(BIN)/python -m pytest -m gpu -rs tests
	$(BIN)/python -m bench.gpu $(BENCH)

clean: ## remove what make made
	rm -rf .venv .build dist
