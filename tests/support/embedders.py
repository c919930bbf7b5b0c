"""Embedders for the tests: words become directions, so that texts with words in common are alike."""

import base64
import hashlib
import json
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from langchain_core.embeddings import Embeddings

if TYPE_CHECKING:
    import asyncio

ALIKE = {
    "dog": "animal",
    "puppy": "animal",
    "cat": "animal",
    "car": "vehicle",
    "lorry": "vehicle",
    "bicycle": "vehicle",
}


def vector_of(text: str, dimensions: int = 16) -> list[float]:
    """The sum of its words' directions; words that mean alike share one."""
    total = np.full(dimensions, 1e-3)
    for word in text.casefold().replace(".", " ").replace("?", " ").split():
        total += _direction_of(ALIKE.get(word, word), dimensions)
    return [float(number) for number in total]


@lru_cache(1000)
def _direction_of(word: str, dimensions: int) -> npt.NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(size=dimensions)


class Words:
    """A function of texts that remembers what it was asked, and fails on command."""

    def __init__(self, dimensions: int = 16) -> None:
        self.dimensions = dimensions
        self.asked: list[str] = []
        self.failing: Exception | None = None
        self.going_on = threading.Event()
        self.going_on.set()

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        self.going_on.wait(20)
        self.asked += texts
        if self.failing is not None:
            raise self.failing
        return [vector_of(text, self.dimensions) for text in texts]


class AtOnce(Embeddings):
    """Embeddings that have their answer without waiting, unless they are told to wait or to fail."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.failing: BaseException | None = None
        self.waits_for: asyncio.Event | None = None
        self.computes_seconds = 0.0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [vector_of(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return vector_of(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        if self.waits_for is not None:
            await self.waits_for.wait()
        self.asked += texts
        if self.failing is not None:
            raise self.failing
        end = time.thread_time() + self.computes_seconds
        while time.thread_time() < end:
            pass
        return self.embed_documents(texts)


@dataclass
class Service:
    """A local server that speaks the embeddings API of OpenAI, and how it behaves from now on."""

    url: str = ""
    key: str = "right-key"
    dimensions: int = 1536
    answers: list[tuple[int, str, dict[str, str]]] = field(default_factory=list)
    """Errors to answer with first: status, code, headers."""
    down: bool = False
    page: bytes | None = None
    """What somebody in between answers with instead, as if all were well."""
    refused_text: str | None = None
    asked: list[list[str]] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    delay: threading.Event | None = None

    def answer(self, key: str, body: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, body and headers."""
        texts = body["input"]
        self.asked.append(texts)
        self.models.append(body["model"])
        if self.delay is not None:
            self.delay.wait(20)
        if self.answers:
            status, code, headers = self.answers.pop(0)
            return status, _error(code), headers
        if self.down:
            return 503, _error("overloaded"), {}
        if key != f"Bearer {self.key}":
            return 401, _error("invalid_api_key"), {}
        if self.refused_text is not None and any(self.refused_text in text for text in texts):
            return 400, _error("invalid_request_error"), {}
        data = [
            {"object": "embedding", "index": place, "embedding": _shown(vector_of(text, self.dimensions), body)}
            for place, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        # The order of an answer is not that of the question: the index counts.
        return 200, {"object": "list", "model": body["model"], "data": data[::-1], "usage": usage}, {}


def _shown(vector: list[float], body: dict[str, Any]) -> Any:
    if body.get("encoding_format") != "base64":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _error(code: str) -> dict[str, Any]:
    return {"error": {"message": "no", "type": code, "code": code, "param": None}}


@contextmanager
def embedding_service() -> Iterator[Service]:
    """The server on a free port, until the end of the block."""
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer, headers = service.answer(self.headers.get("Authorization", ""), body)
            content = json.dumps(answer).encode() if service.page is None else service.page
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "text/html" if content.startswith(b"<") else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    service.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield service
    finally:
        if service.delay is not None:
            service.delay.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
