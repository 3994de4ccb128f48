"""`python -m bench.retrieve_server`: the server that RL and RAG stacks put before faiss, small.

Its shape is theirs: one FastAPI process under uvicorn; `POST /retrieve {"queries", "topk",
"return_scores"}` as a plain `def`, so that the framework's thread pool runs it; in the process the
encoder (transformers' AutoModel in eager torch, mean pooling, normalized) and one faiss index read
from one file; the corpus as a list of documents; answers {"result": [[{"document": {"id",
"contents"}, "score"}]]}. Nothing is coalesced: each request is encoded and searched by itself.

By default every thread setting is the libraries' own: torch and OpenMP take all cores for each
request, and the pool runs 40 requests at once. `--threads` and `--at-once` set them. It writes its
port to stdout once it can answer. Must not know Shoal: it stands for programs that don't.
"""

import argparse
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
import faiss
import numpy as np
import numpy.typing as npt
import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from transformers import AutoModel, AutoTokenizer

MAX_TOKENS = 256
"""What such servers cut questions to, and all-MiniLM-L6-v2's own limit."""


class QueryRequest(BaseModel):
    """The body of a request."""

    queries: list[str]
    topk: int | None = None
    return_scores: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where its files are; `threads` and `at_once` are 0 where the libraries choose.

    Attributes:
        index: one faiss index, whose ids are the documents' places.
        corpus: JSONL of {"id", "contents"}.
        model: the folder of a transformers model.
        n_probe: lists searched; 0 for an index without lists.
        k_factor: how many times topk are rescored; 0 for an index that rescores nothing.
        threads: torch's and faiss's, for one request.
        at_once: requests that are worked on at a time; the rest waits in line.
        topk: documents a query where the request names no number.
    """

    index: Path
    corpus: Path
    model: Path
    n_probe: int = 0
    k_factor: float = 0.0
    threads: int = 0
    at_once: int = 0
    topk: int = 10


class Encoder:
    """Questions to vectors, float32 (n, dim)."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def encode(self, queries: list[str]) -> npt.NDArray[np.float32]:
        """Mean pooling over the tokens that aren't padding, of length 1."""
        inputs = self._tokenizer(
            queries, max_length=MAX_TOKENS, padding=True, truncation=True, return_tensors="pt"
        )
        hidden = self._model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        vectors: npt.NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
        return np.ascontiguousarray(vectors, dtype=np.float32)


class Retriever:
    """The encoder, the index and the corpus."""

    def __init__(self, settings: Settings) -> None:
        if settings.threads:
            torch.set_num_threads(settings.threads)
            faiss.omp_set_num_threads(settings.threads)
        self._threads = settings.threads
        self._index = faiss.read_index(str(settings.index))
        base = faiss.downcast_index(self._index)
        if settings.k_factor:
            base.k_factor = settings.k_factor
            base = faiss.downcast_index(base.base_index)
        if settings.n_probe:
            base.nprobe = settings.n_probe
        with settings.corpus.open(encoding="utf-8") as lines:
            self._corpus = [json.loads(line) for line in lines]
        self._encoder = Encoder(settings.model)
        self._topk = settings.topk
        self.retrieve(QueryRequest(queries=["warm up"]))

    def retrieve(self, request: QueryRequest) -> dict[str, Any]:
        """The answer to one request, encoded and searched at once."""
        if not request.queries:
            return {"result": []}
        if self._threads:  # OpenMP's number is the calling thread's own
            faiss.omp_set_num_threads(self._threads)
        vectors = self._encoder.encode(request.queries)
        scores, rows = self._index.search(vectors, request.topk or self._topk)
        result: list[list[Any]] = []
        for of_query, its_rows in zip(scores.tolist(), rows.tolist(), strict=True):
            documents = [self._corpus[row] for row in its_rows if row >= 0]
            if request.return_scores:
                result.append([
                    {"document": document, "score": score}
                    for document, score in zip(documents, of_query, strict=False)
                ])  # fmt: skip
            else:
                result.append(documents)
        return {"result": result}


def make_app(retriever: Retriever, at_once: int = 0) -> FastAPI:
    """The web application; `at_once` requests at a time, 0 for the framework's 40."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if at_once:
            anyio.to_thread.current_default_thread_limiter().total_tokens = at_once
        yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/retrieve")
    def retrieve(request: QueryRequest) -> JSONResponse:
        # a plain dict would be walked through on the event loop, or wait for the pool once more
        return JSONResponse(retriever.retrieve(request))

    return app


def main() -> None:
    """Serves until it is told to end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--n-probe", type=int, default=0)
    parser.add_argument("--k-factor", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=0)
    parser.add_argument("--port", type=int, default=8000)
    given = vars(parser.parse_args())
    port = given.pop("port")
    settings = Settings(**given)
    app = make_app(Retriever(settings), settings.at_once)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning")
    listening = config.bind_socket()
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
