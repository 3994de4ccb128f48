# Every program of Shoal in one image: `shoal`, `python -m router` and so on, and Ray to launch them.
#
#   docker build -t shoal:cpu .
#   docker build -t shoal:gpu --build-arg DEVICE=gpu .    # torch and faiss with CUDA; the host has the driver
#   docker run --rm shoal:cpu shoal --help
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS wheel
WORKDIR /source
RUN pip install --no-cache-dir build==1.6.1
COPY pyproject.toml README.md LICENSE ./
COPY shoal shoal
COPY encoder_service encoder_service
COPY shard_server shard_server
COPY router router
COPY deploy deploy
RUN python -m build --wheel --outdir /wheels

FROM python:${PYTHON}-slim-bookworm
ARG DEVICE=cpu
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# rsync: `ray up` with a docker section copies its files into the container with it
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends rsync \
    && rm -rf /var/lib/apt/lists/*

COPY constraints.txt /tmp/constraints.txt
COPY --from=wheel /wheels /tmp/wheels
# torch first: asked for by another package, pip would take the build for CUDA on a CPU too
RUN case "$DEVICE" in \
      cpu) shard=shard; index=(--extra-index-url https://download.pytorch.org/whl/cpu) ;; \
      gpu) shard="shard-gpu"; index=() ;; \
      *) echo "DEVICE is cpu or gpu, not $DEVICE" >&2; exit 64 ;; \
    esac \
    && wheels=(/tmp/wheels/shoal-*.whl) \
    && pip install --no-cache-dir "${index[@]}" -c /tmp/constraints.txt torch \
    && pip install --no-cache-dir "${index[@]}" -c /tmp/constraints.txt \
         "${wheels[0]}[http,tracing,ray,router,encoder,$shard,remote]" \
    && rm -r /tmp/wheels /tmp/constraints.txt

RUN useradd --uid 1000 --create-home --shell /bin/bash shoal
USER 1000
WORKDIR /home/shoal
ENV PYTHONUNBUFFERED=1 RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

# None here: one image is many programs, and each has a port and certificates of its own. Ask the one
# that runs, over gRPC: `python -m deploy.probe --target HOST:PORT`.
HEALTHCHECK NONE
CMD ["shoal", "--help"]
