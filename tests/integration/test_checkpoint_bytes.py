"""What a growing conversation costs the disk, against the stock saver.

Counted is what a process hands to `write` and its like (`wchar` of /proc/self/io), logs, headers and all, from before
the file is opened until it is closed. That does not depend on the file system or on when it flushes; `write_bytes`,
which does, is shown beside it. What SQLite maps into memory is its index of the log, alike on both sides.
"""

from pathlib import Path

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from hybrid_memory import HybridCheckpointer
from hybrid_memory.observability import Events
from tests.support.chats import chatting
from tests.support.children import Child

STEPS = 200
CONFIG = {"configurable": {"thread_id": "t"}, "recursion_limit": STEPS + 10}
GIVEN = {"messages": [("user", "hi")], "left": STEPS}


def written() -> dict[str, int]:
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(number) for name, number in (line.split(": ") for line in lines)}


async def chat_in_ours(_: Events, directory: str) -> dict[str, int]:
    before = written()
    async with HybridCheckpointer(directory) as saver:
        answer = await chatting(saver).ainvoke(GIVEN, CONFIG, durability="sync")
    assert len(answer["messages"]) == STEPS + 1
    return {name: number - before[name] for name, number in written().items()}


async def chat_in_stock(_: Events, directory: str) -> dict[str, int]:
    before = written()
    async with AsyncSqliteSaver.from_conn_string(str(Path(directory, "stock.db"))) as saver:
        answer = await chatting(saver).ainvoke(GIVEN, CONFIG, durability="sync")
    assert len(answer["messages"]) == STEPS + 1
    return {name: number - before[name] for name, number in written().items()}


def test_a_chat_of_200_steps_writes_at_most_a_quarter(tmp_path: Path) -> None:
    counts = []
    for function in (chat_in_stock, chat_in_ours):
        with Child(function, {"directory": str(tmp_path)}) as child:
            counts.append(child.result())
    stock, ours = counts
    sizes = [(tmp_path / name).stat().st_size for name in ("stock.db", "state.db")]
    for name in ("wchar", "write_bytes"):
        print(f"{name}: stock {stock[name]:,}, ours {ours[name]:,}, {ours[name] / max(stock[name], 1):.3f} of it")
    print(f"file: stock {sizes[0]:,}, ours {sizes[1]:,}")
    assert ours["wchar"] <= stock["wchar"] / 4
    assert sizes[1] <= sizes[0] / 4
