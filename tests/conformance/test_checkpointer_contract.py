"""LangGraph's own conformance suite: every capability is there and passes."""

from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from hybrid_memory import HybridCheckpointer
from hybrid_memory.settings import Settings
from tests.support.ciphers import XorCipher


@checkpointer_test(name="hybrid")
async def plain() -> AsyncIterator[HybridCheckpointer]:
    with TemporaryDirectory() as directory:
        async with HybridCheckpointer(directory, settings=Settings.without_environment()) as checkpointer:
            yield checkpointer


@checkpointer_test(name="hybrid, encrypted, without flushes")
async def encrypted() -> AsyncIterator[HybridCheckpointer]:
    with TemporaryDirectory() as directory:
        async with HybridCheckpointer(
            Path(directory),
            settings=Settings.without_environment(),
            serde=EncryptedSerializer(XorCipher()),
            durability="normal",
        ) as checkpointer:
            yield checkpointer


async def test_every_capability_is_there_and_passes() -> None:
    for registered in (plain, encrypted):
        report = await validate(registered)
        results = {name: (one.detected, one.tests_failed, one.failures) for name, one in report.results.items()}
        assert results == dict.fromkeys(results, (True, 0, []))
        assert len(results) == 8
        assert sum(one.tests_passed for one in report.results.values()) >= 81
