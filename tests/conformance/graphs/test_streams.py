"""Streaming says the same whatever is behind it, and a stream can be left and taken up again."""

import operator
from typing import Annotated, Any, TypedDict

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState
from langgraph.types import Command, interrupt

from tests.conformance.graphs.desk import Desk, Graph, graph_of, on_every_saver, plain


class State(TypedDict):
    words: Annotated[list[str], operator.add]


def talking(desk: Desk) -> Graph:
    def say(_: State) -> dict[str, Any]:
        get_stream_writer()({"progress": 1})
        return {"words": ["said"]}

    builder = graph_of(State).add_node("say", say)
    builder.add_node("ask", lambda _: {"words": [interrupt("well?")]})
    return builder.add_edge(START, "say").add_edge("say", "ask").compile(checkpointer=desk.saver)


@on_every_saver()
async def test_every_mode(desk: Desk) -> None:
    graph = talking(desk)
    for mode in ("values", "updates", "custom", "checkpoints", "tasks", "debug"):
        chunks = await desk.stream(graph, {"words": []}, mode, stream_mode=mode)
        chunks += await desk.stream(graph, Command(resume="yes"), mode, stream_mode=mode)
        assert chunks
        desk.story += [f"{mode}: {plain(chunk)}" for chunk in chunks]
        assert (await desk.state(graph, mode)).values == {"words": ["said", "yes"]}


@on_every_saver()
async def test_several_modes_with_subgraphs(desk: Desk) -> None:
    builder = graph_of(State).add_node("child", talking(desk)).add_edge(START, "child")
    graph = builder.compile(checkpointer=desk.saver)
    given: tuple[Any, ...] = ({"words": []}, Command(resume="yes"))
    for one in given:
        chunks = await desk.stream(graph, one, stream_mode=["updates", "custom"], subgraphs=True)
        desk.story += [plain(chunk) for chunk in chunks]
    assert (await desk.state(graph)).values == {"words": ["said", "yes"]}


@on_every_saver()
async def test_tokens_of_a_chat(desk: Desk) -> None:
    model = GenericFakeChatModel(messages=iter([AIMessage("one two three", id="1"), AIMessage("four", id="2")]))

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    def answer_plainly(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    builder = graph_of(MessagesState).add_node("answer", answer_plainly if desk.calls == "sync" else answer)
    graph = builder.add_edge(START, "answer").compile(checkpointer=desk.saver)
    tokens = await desk.stream(graph, {"messages": [("user", "hi")]}, stream_mode="messages")
    assert [message.content for message, _ in tokens] == ["one", " ", "two", " ", "three"]
    await desk.invoke(graph, {"messages": [("user", "more")]})
    said = (await desk.state(graph)).values["messages"]
    assert [(message.type, message.content) for message in said] == [
        ("human", "hi"), ("ai", "one two three"), ("human", "more"), ("ai", "four"),
    ]  # fmt: skip


@on_every_saver()
async def test_a_stream_that_is_left_early_goes_on_later(desk: Desk) -> None:
    builder = graph_of(State)
    for number in range(6):
        builder.add_node(str(number), lambda _, number=number: {"words": [str(number)]})
        builder.add_edge(str(number - 1) if number else START, str(number))
    graph = builder.compile(checkpointer=desk.saver)
    seen = await desk.first_chunks(graph, {"words": []}, 3, stream_mode="updates", durability="sync")
    assert [next(iter(chunk)) for chunk in seen] == ["0", "1", "2"]
    assert (await desk.state(graph)).next in {("3",), ("2",)}
    assert (await desk.invoke(graph, None))["words"] == list("012345")
    desk.forget()
