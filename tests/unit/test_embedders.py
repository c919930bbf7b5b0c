"""Who makes vectors: chosen as it is said, asked in batches, checked in every answer, and never waited for too long."""

import asyncio
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from hybrid_memory import Settings
from hybrid_memory.embeddings.adapted import AdaptedEmbedder
from hybrid_memory.embeddings.choosing import chosen
from hybrid_memory.embeddings.local import LocalEmbedder
from hybrid_memory.embeddings.openai import OpenAIEmbedder
from hybrid_memory.embeddings.threads import OwnThreads
from hybrid_memory.errors import ConfigurationError, EmbeddingError
from tests.support.embedders import Service, Words, embedding_service, vector_of
from tests.support.waiting import Deadline


@pytest.fixture
def service() -> Iterator[Service]:
    with embedding_service() as started:
        yield started


def openai(service: Service, name: str = "text-embedding-3-small", **keywords: object) -> OpenAIEmbedder:
    wanted = {"key": "right-key", "timeout": 10.0, "base_url": service.url} | keywords
    return OpenAIEmbedder(name, **wanted)  # type: ignore[arg-type]


class TestOpenAI:
    async def test_many_texts_go_in_batches_and_come_back_in_order(self, service: Service) -> None:
        embedder = openai(service)
        texts = [f"text {number}" for number in range(600)]
        vectors = await embedder.documents(texts)
        await embedder.close()
        assert [len(batch) for batch in service.asked] == [256, 256, 88]
        assert len(vectors) == 600
        assert all(
            list(vector[:3]) == pytest.approx(vector_of(text, 1536)[:3], rel=1e-5)
            for text, vector in zip(texts, vectors, strict=True)
        )
        assert (embedder.model, embedder.dimensions) == ("openai:text-embedding-3-small", 1536)

    async def test_long_texts_share_a_request_only_as_far_as_it_takes_them(self, service: Service) -> None:
        embedder = openai(service)
        await embedder.documents(["x" * 150_000] * 3)
        assert [len(batch) for batch in service.asked] == [2, 1]
        await embedder.close()

    async def test_a_rate_limit_is_waited_for_as_the_server_asks(self, service: Service) -> None:
        service.answers = [(429, "rate_limit_exceeded", {"retry-after-ms": "20"})] * 2
        embedder = openai(service)
        assert (await embedder.query("hello", timeout=5)).size == 1536
        assert len(service.asked) == 3
        await embedder.close()

    async def test_a_wrong_key_is_said_clearly_and_does_not_show(self, service: Service) -> None:
        embedder = openai(service, key="wrong-key")
        with pytest.raises(EmbeddingError, match=r"text-embedding-3-small answered 401 \(invalid_api_key\)") as raised:
            await embedder.query("a secret text", timeout=5)
        assert "wrong-key" not in str(raised.value)
        assert "secret" not in str(raised.value)
        assert not raised.value.texts_at_fault
        await embedder.close()

    async def test_a_refused_text_is_told_from_a_failing_service(self, service: Service) -> None:
        service.refused_text = "bad"
        embedder = openai(service)
        with pytest.raises(EmbeddingError) as raised:
            await embedder.documents(["good", "bad"])
        assert raised.value.texts_at_fault
        await embedder.close()

    async def test_wrong_dimensions_are_an_error(self, service: Service) -> None:
        service.dimensions = 8
        embedder = openai(service)
        with pytest.raises(EmbeddingError, match="8 dimensions instead of 1536"):
            await embedder.query("hello", timeout=5)
        await embedder.close()

    @pytest.mark.parametrize("page", [b"<html>log in</html>", b'{"data": []}', b'{"data": null}', b"{what?"])
    async def test_an_answer_of_somebody_else_is_an_error(self, service: Service, page: bytes) -> None:
        service.page = page
        embedder = openai(service)
        with pytest.raises(EmbeddingError, match="answered with something else"):
            await embedder.query("hello", timeout=5)
        await embedder.close()

    async def test_one_that_was_closed_can_be_used_again(self, service: Service) -> None:
        embedder = openai(service)
        for _ in range(2):
            assert (await embedder.query("hello", timeout=5)).size == 1536
            await embedder.close()

    async def test_an_answer_that_does_not_come_costs_its_deadline(self, service: Service) -> None:
        service.delay = threading.Event()
        embedder = openai(service)
        with Deadline(0.3), pytest.raises(EmbeddingError, match=r"within 0\.3 s"):
            await embedder.query("hello", timeout=0.3)
        service.delay.set()
        await embedder.close()

    async def test_a_server_that_is_not_there(self, service: Service) -> None:
        embedder = openai(service, base_url="http://127.0.0.1:9/v1")
        with Deadline(2), pytest.raises(EmbeddingError):
            await embedder.query("hello", timeout=2)
        await embedder.close()


class TestAdapted:
    async def test_a_langchain_embeddings(self) -> None:
        source = DeterministicFakeEmbedding(size=12)
        embedder = AdaptedEmbedder(source, 5)
        (vector,) = await embedder.documents(["hello"])
        assert list(vector) == pytest.approx(source.embed_query("hello"), rel=1e-5)
        assert (embedder.model, embedder.dimensions) == ("DeterministicFakeEmbedding", 12)

    async def test_a_function_sync_or_async(self) -> None:
        async def later(texts: Sequence[str]) -> list[list[float]]:
            await asyncio.sleep(0)
            return [vector_of(text) for text in texts]

        for source in (Words(), later):
            embedder = AdaptedEmbedder(source, 5)
            assert list(await embedder.query("hello", timeout=5)) == pytest.approx(vector_of("hello"), rel=1e-5)
        assert embedder.model.endswith("later")

    @pytest.mark.parametrize(
        ("answer", "complaint"),
        [
            ([[1.0, 2.0]], "1 vectors for 2 texts"),
            ([[1.0, 2.0], [1.0]], "1 dimensions instead of 2"),
            ([[1.0], [float("nan")]], "a number that is none"),
            ([["a"], ["b"]], "something else than lists of numbers"),
            ([[], []], "shape"),
            (None, "something else than lists of numbers"),
        ],
    )
    async def test_what_cannot_be_compared_is_refused(self, answer: object, complaint: str) -> None:
        embedder = AdaptedEmbedder(lambda _: answer, 5)  # type: ignore[arg-type]
        with pytest.raises(EmbeddingError, match=complaint):
            await embedder.documents(["one", "two"])

    async def test_what_it_raises_and_how_long_it_takes(self) -> None:
        words = Words()
        words.failing = ValueError("a secret text")
        with pytest.raises(EmbeddingError, match="ValueError") as raised:
            await AdaptedEmbedder(words, 5).documents(["one"])
        assert "secret" not in str(raised.value)
        words.going_on.clear()
        with Deadline(0.2), pytest.raises(EmbeddingError, match=r"within 0\.2 s"):
            await AdaptedEmbedder(words, 0.2).documents(["one"])
        words.going_on.set()

    @pytest.mark.parametrize("kind", ["function", "embeddings"])
    async def test_one_that_never_answers_leaves_the_threads_of_others_alone(self, kind: str) -> None:
        words, shared = Words(), ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(shared)
        words.going_on.clear()
        embedder = AdaptedEmbedder(words if kind == "function" else Patient(words), 0.1)
        for _ in range(3):
            with pytest.raises(EmbeddingError, match="did not answer"):
                await embedder.documents(["one"])
            with pytest.raises(EmbeddingError, match="did not answer"):
                await embedder.query("one", timeout=0.1)
        with Deadline(1):
            assert await asyncio.to_thread(str, 7) == "7"
        words.going_on.set()
        assert (await embedder.query("one", timeout=5)).size == words.dimensions
        await embedder.close()

    async def test_closing_cancels_nobody_who_waits_for_a_thread(self) -> None:
        begun, going_on = threading.Event(), threading.Event()

        def held_up() -> bool:
            begun.set()
            return going_on.wait(20)

        threads = OwnThreads(1)
        first = asyncio.create_task(threads.run(held_up))
        second = asyncio.create_task(threads.run(str, 7))
        assert await asyncio.to_thread(begun.wait, 10)
        threads.close()
        going_on.set()
        assert (await second, await first) == ("7", True)


class Patient(Embeddings):
    """What LangChain calls embeddings, without a word about how to wait for them."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._words(texts)

    def embed_query(self, text: str) -> list[float]:
        return self._words([text])[0]


class TestChoosing:
    def test_a_key_alone_chooses_nothing(self) -> None:
        assert chosen(None, Settings(openai_api_key="key")) is None

    def test_auto_is_openai_when_there_is_a_key(self) -> None:
        assert chosen(None, Settings(embedder="auto")) is None
        found = chosen(None, Settings(embedder="auto", openai_api_key="key"))
        assert found is not None
        assert found.model == "openai:text-embedding-3-small"

    def test_the_keyword_beats_the_setting(self) -> None:
        found = chosen("openai:text-embedding-3-large", Settings(embedder="none", openai_api_key="key"))
        assert found is not None
        assert (found.model, found.dimensions) == ("openai:text-embedding-3-large", 3072)

    def test_what_langgraph_calls_index(self) -> None:
        found = chosen({"embed": Words(), "dims": 16, "fields": ["text"]}, Settings())
        assert found is not None
        assert found.dimensions == 16

    def test_what_cannot_be(self) -> None:
        for given, complaint in (
            ("openai:text-embedding-3-small", "OPENAI_API_KEY"),
            ("local:all-MiniLM-L6-v2", r"\[local\]"),
            ("nobody:model", "langchain"),
            ("words", "provider:model"),
            (7, "embedder= takes"),
            ({"dims": 3}, "embedder= takes"),
        ):
            with pytest.raises(ConfigurationError, match=complaint):
                chosen(given, Settings())  # type: ignore[arg-type]

    async def test_a_model_of_sentence_transformers(self, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
        """The package itself is far too large for a test: what stands in for it has the two calls that are made."""
        module = f"{tmp_path}/sentence_transformers.py"
        with open(module, "w") as file:  # noqa: ASYNC230, PTH123 - a test's own file
            file.write(
                "import numpy\n"
                "class SentenceTransformer:\n"
                "    def __init__(self, name): self.name = name\n"
                "    def encode(self, texts, **_): return numpy.ones((len(texts), len(self.name)))\n"
            )
        monkeypatch.syspath_prepend(str(tmp_path))
        embedder = chosen("local:mini", Settings())
        assert isinstance(embedder, LocalEmbedder)
        assert [one.size for one in await embedder.documents(["text"] * 70)] == [4] * 70
        assert embedder.dimensions == 4

    async def test_a_model_that_takes_long_to_load_is_loaded_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loaded, going_on = [], threading.Event()

        class SentenceTransformer:
            def __init__(self, name: str) -> None:
                loaded.append(name)
                going_on.wait(20)

            def encode(self, texts: list[str], **_: object) -> list[list[float]]:
                return [vector_of(text) for text in texts]

        package = ModuleType("sentence_transformers")
        package.__spec__ = ModuleSpec(package.__name__, None)
        monkeypatch.setattr(package, "SentenceTransformer", SentenceTransformer, raising=False)
        monkeypatch.setitem(sys.modules, package.__name__, package)
        embedder = LocalEmbedder("mini", 5)
        for _ in range(2):
            with pytest.raises(EmbeddingError, match="took longer"):
                await embedder.query("hello", timeout=0.1)
        going_on.set()
        assert (await embedder.query("hello", timeout=5)).size == 16
        assert loaded == ["mini"]
        await embedder.close()
