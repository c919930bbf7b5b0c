"""A process that uses a checkpointer as hard as it can and looks at everything it gets.

python -m tests.support.checkpoint_child DIRECTORY NAME SECONDS SEED        prints one JSON object
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from langchain_core.messages import HumanMessage

from hybrid_memory import HybridCheckpointer, Retention
from hybrid_memory.settings import Settings
from tests.support.checkpoints import Thread, config_of

KEPT = 20


def use(directory: Path, name: str, seconds: float, seed: int) -> dict[str, int]:
    """Grow, prune, copy and delete threads of one's own, and write to one that all share."""
    rng, end, done = random.Random(seed), time.monotonic() + seconds, dict[str, int]()
    with HybridCheckpointer(directory, settings=Settings.without_environment()) as checkpointer:
        own: dict[str, Thread] = {}
        shared = Thread(checkpointer, "shared")
        while time.monotonic() < end:
            what = rng.choices(["put", "share", "prune", "copy", "delete", "sweep", "list"], [30, 10, 1, 1, 1, 1, 2])[0]
            done[what] = done.get(what, 0) + 1
            thread = own.setdefault(thread_id := f"{name} {rng.randrange(4)}", Thread(checkpointer, thread_id))
            if what == "put":
                grow(thread, rng)
                assert thread.state() == thread.values
            elif what == "share":
                grow(shared, rng)
                found = checkpointer.get_tuple(config_of("shared", shared.newest))
                assert found is None or found.checkpoint["channel_values"] == shared.values
            elif what == "prune" and thread.newest:
                checkpointer.prune([thread.thread_id])
                assert thread.state() == thread.values
            elif what == "copy" and thread.newest:
                copy = f"{thread.thread_id} copied"
                checkpointer.copy_thread(thread.thread_id, copy)
                # Others sweep meanwhile, either thread; what they keep has to be the same in both.
                copied = [one.checkpoint for one in checkpointer.list(config_of(copy), limit=KEPT)]
                assert copied == [one.checkpoint for one in thread.all()][:KEPT]
                checkpointer.delete_thread(copy)
            elif what == "delete":
                checkpointer.delete_thread(thread.thread_id)
                assert thread.all() == []
                del own[thread.thread_id]
            elif what == "sweep":
                checkpointer.sweep(Retention(keep_last=KEPT))
            else:
                list(checkpointer.list(config_of("shared"), limit=20))
        for thread in own.values():
            assert thread.newest is None or thread.state() == thread.values
    return done


def grow(thread: Thread, rng: random.Random) -> None:
    messages = thread.values.get("messages", [])
    if len(messages) > 60:
        messages = messages[-3:]
    values: dict[str, Any] = {"messages": [*messages, HumanMessage(f"{rng.random()}" * rng.choice([1, 50]))]}
    if rng.random() < 0.1:
        values["document"] = rng.choice("abc") * rng.choice([10, 50_000])
    thread.put(values)
    thread.write([("messages", values["messages"][-1]), ("branch", None)], f"{rng.random()}")


if __name__ == "__main__":
    place, own_name, duration, number = sys.argv[1:]
    print(json.dumps(use(Path(place), own_name, float(duration), int(number))))
