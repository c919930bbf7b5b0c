"""A desk at which graphs run: one saver, one way of calling, and a record of everything that was seen."""

import asyncio
import difflib
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.graph.state import StateGraph
from langgraph.types import Interrupt, StateSnapshot

from tests.conformance.graphs.savers import IGNORED_WRITES, OTHERS, REFERENCE, Calls, Saver, opened_saver

# What `graph_of` builds; its own type is lost there.
Graph = Any
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{32}\b")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(?:\+00:00|Z)")


def graph_of(state: type) -> Any:
    """A builder of graphs; its type wants the parameter of every node to be named `state`, so it has none here."""
    return StateGraph(state)


class Desk:
    """Calls graphs in one of the two ways, and keeps what they answered."""

    def __init__(self, saver: Saver, calls: Calls) -> None:
        self.saver = saver
        self.story: list[str] = []
        self.calls = calls
        self._threads: dict[str, None] = {}

    async def invoke(self, graph: Graph, given: Any, where: str | RunnableConfig = "t", **options: Any) -> Any:
        config = self._at(where)
        if self.calls == "sync":
            answer = await asyncio.to_thread(lambda: graph.invoke(given, config, **options))
        else:
            answer = await graph.ainvoke(given, config, **options)
        return self._seen("answer", answer)

    async def fails(self, graph: Graph, given: Any, where: str | RunnableConfig = "t", **options: Any) -> str:
        """Run a graph that raises; what it said."""
        with pytest.raises(Exception) as raised:  # noqa: PT011 - the caller looks at what it said
            await self.invoke(graph, given, where, **options)
        return str(self._seen("failure", str(raised.value)))

    async def stream(self, graph: Graph, given: Any, where: str | RunnableConfig = "t", **options: Any) -> list[Any]:
        """Everything a stream gives; not part of the story, for the order of tasks that run at once is theirs."""
        config = self._at(where)
        if self.calls == "sync":
            return await asyncio.to_thread(lambda: list(graph.stream(given, config, **options)))
        return [chunk async for chunk in graph.astream(given, config, **options)]

    async def first_chunks(self, graph: Graph, given: Any, count: int, where: str = "t", **options: Any) -> list[Any]:
        """Take some chunks of a stream and leave it."""
        config, seen = self._at(where), []
        if self.calls == "sync":
            return await asyncio.to_thread(lambda: list(islice(graph.stream(given, config, **options), count)))
        async with aclosing(graph.astream(given, config, **options)) as chunks:
            async for chunk in chunks:
                seen.append(chunk)
                if len(seen) == count:
                    break
        return seen

    async def state(self, graph: Graph, where: str | RunnableConfig = "t", *, subgraphs: bool = False) -> StateSnapshot:
        config = self._at(where)
        snapshot: StateSnapshot
        if self.calls == "sync":
            snapshot = await asyncio.to_thread(graph.get_state, config, subgraphs=subgraphs)
        else:
            snapshot = await graph.aget_state(config, subgraphs=subgraphs)
        self._seen("state", _described(snapshot))
        return snapshot

    async def history(self, graph: Graph, where: str | RunnableConfig = "t", **options: Any) -> list[StateSnapshot]:
        config = self._at(where)
        if self.calls == "sync":
            found = await asyncio.to_thread(lambda: list(graph.get_state_history(config, **options)))
        else:
            found = [snapshot async for snapshot in graph.aget_state_history(config, **options)]
        self._seen("history", [_described(snapshot) for snapshot in found])
        return found

    async def update(
        self, graph: Graph, values: Any, where: str | RunnableConfig = "t", *, as_node: str | None = None
    ) -> RunnableConfig:
        config = self._at(where)
        if self.calls == "sync":
            updated: RunnableConfig = await asyncio.to_thread(graph.update_state, config, values, as_node)
        else:
            updated = await graph.aupdate_state(config, values, as_node)
        return updated

    async def bulk_update(self, graph: Graph, updates: Sequence[Any], where: str = "t") -> None:
        config = self._at(where)
        if self.calls == "sync":
            await asyncio.to_thread(graph.bulk_update_state, config, updates)
        else:
            await graph.abulk_update_state(config, updates)

    async def checkpoints(self, thread: str) -> list[CheckpointTuple]:
        """What the saver holds of a thread, in all namespaces."""
        config = self._at(thread)
        if self.calls == "sync":
            return await asyncio.to_thread(lambda: list(self.saver.list(config)))
        return [found async for found in self.saver.alist(config)]

    async def delete(self, thread: str) -> None:
        if self.calls == "sync":
            await asyncio.to_thread(self.saver.delete_thread, thread)
        else:
            await self.saver.adelete_thread(thread)

    def forget(self) -> None:
        """Tell no story of what was seen so far, where that is a matter of luck."""
        self.story.clear()
        self._threads.clear()

    async def whole_story(self, ignored: Collection[str]) -> list[str]:
        """Everything seen, and everything that is stored, without ids, times and the values of `ignored` channels."""
        stored = [stored_story(await self.checkpoints(thread), ignored) for thread in tuple(self._threads)]
        return [*self.story, *(line for lines in stored for line in lines)]

    def _at(self, where: str | RunnableConfig) -> RunnableConfig:
        config: RunnableConfig = {"configurable": {"thread_id": where}} if isinstance(where, str) else where
        self._threads[config["configurable"]["thread_id"]] = None
        return config

    def _seen(self, what: str, value: Any) -> Any:
        self.story.append(f"{what}: {plain(value)}")
        return value


Scenario = Callable[[Desk], Awaitable[None]]


def on_every_saver(*types: type) -> Callable[[Scenario], Callable[..., Awaitable[None]]]:
    """A scenario as a test: it holds under the reference and under the others, and its story is always the same.

    Args:
        types: what the states of its graphs hold and no saver knows by itself.
    """

    def as_test(scenario: Scenario) -> Callable[..., Awaitable[None]]:
        references: dict[Calls, Desk] = {}

        @pytest.mark.parametrize(("saver", "calls"), OTHERS)
        async def test(saver: str, calls: Calls, tmp_path: Path) -> None:
            if calls not in references:
                async with opened_saver(REFERENCE, calls, tmp_path, types) as opened:
                    reference = Desk(opened, calls)
                    await scenario(reference)
                    references[calls] = reference
            expected = await references[calls].whole_story(IGNORED_WRITES[saver])
            async with opened_saver(saver, calls, tmp_path, types) as opened:
                desk = Desk(opened, calls)
                await scenario(desk)
                story = await desk.whole_story(IGNORED_WRITES[saver])
            assert story == expected, difference(expected, story)

        test.__doc__ = scenario.__doc__
        return test

    return as_test


def difference(one: Sequence[str], other: Sequence[str]) -> str:
    """Where two stories part."""
    first, second = ("\n".join(story).splitlines() for story in (one, other))
    return "\n".join(difflib.unified_diff(first, second, REFERENCE, "compared", lineterm="", n=0))


def plain(value: Any) -> str:
    """A value as text that is the same whenever it is equal, without ids and moments."""
    if isinstance(value, Mapping):
        inside = (f"{_masked(str(key))}: {plain(value[key])}" for key in sorted(value, key=str))
        return f"{{{', '.join(inside)}}}"
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__} {sorted(plain(one) for one in value)}"
    if type(value) in (list, tuple):
        if all(isinstance(one, Interrupt) for one in value):
            # Tasks that run at once ask in whatever order they come to it.
            value = sorted(value, key=repr)
        return f"[{', '.join(plain(one) for one in value)}]"
    return _masked(repr(value))


def _masked(text: str) -> str:
    return _MOMENT.sub("MOMENT", _ID.sub("ID", text))


def _described(snapshot: StateSnapshot) -> dict[str, Any]:
    tasks = [
        {
            "name": task.name,
            "path": task.path,
            "error": repr(task.error),
            "interrupts": task.interrupts,
            "result": task.result,
            "state": _described(task.state) if isinstance(task.state, StateSnapshot) else task.state,
        }
        for task in snapshot.tasks
    ]
    return {"values": snapshot.values, "next": snapshot.next, "metadata": snapshot.metadata, "tasks": tasks}


def stored_story(found: Iterable[CheckpointTuple], ignored: Collection[str]) -> list[str]:
    """Each namespace as its checkpoints in their order, with their parents and writes by their places in it."""

    def place(one: CheckpointTuple) -> tuple[str, str]:
        return one.config["configurable"]["checkpoint_ns"], one.config["configurable"]["checkpoint_id"]

    spaces = []
    for space, checkpoints in groupby(sorted(found, key=place), key=lambda one: place(one)[0]):
        lines, places = [_masked(space)], {"": -1}
        for number, one in enumerate(checkpoints):
            places[one.checkpoint["id"]] = number
            parent = (one.parent_config or {}).get("configurable", {}).get("checkpoint_id", "")
            tasks = list(dict.fromkeys(task for task, _, _ in one.pending_writes or ()))
            writes = [
                (tasks.index(task), channel, "ignored" if channel in ignored else value)
                for task, channel, value in one.pending_writes or ()
            ]
            # A saver may show a snapshot of a delta channel again as long as nothing was written to the channel.
            values = {
                name: value
                for name, value in one.checkpoint["channel_values"].items()
                if not isinstance(value, _DeltaSnapshot)
            }
            told = {"after": places[parent], "values": values, "writes": writes, "metadata": one.metadata}
            lines.append(f"{number}: {plain(told)}")
        spaces.append("\n".join(lines))
    # Namespaces of tasks that ran at once have an order that is theirs.
    return sorted(spaces)
