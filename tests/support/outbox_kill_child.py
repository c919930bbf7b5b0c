"""One of the processes of the outbox's kill campaign: queues operations and drains the queues until it is killed.

    python -m tests.support.outbox_kill_child DIRECTORY LOG NAME [PLANT]

Sending is a line in the log: `sent TIME USER RUN NUMBER`. `drained FROM TO` is one round, by the clock that all
processes of the machine share. A plant is a mistake: `done-before-sent`, `no-lease`.
"""

import asyncio
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from hybrid_memory.observability import Events
from hybrid_memory.sqlite import outbox as sqlite_outbox
from hybrid_memory.sqlite.database import Database
from hybrid_memory.sqlite.files import STATE
from hybrid_memory.sqlite.leases import Leases
from hybrid_memory.sqlite.outbox import LEASE, Outbox
from tests.support.outboxes import operation
from tests.support.sqlite_kill_child import Log

USERS = 6
LEASE_SECONDS = 600.0
PAUSE = 0.005
LONG_PAUSE = 60.0


def main() -> None:
    directory, log_path, name, *plants = sys.argv[1:]
    log = Log(log_path)
    start = time.perf_counter()
    state = Database(STATE, Path(directory), Events(), timeout=30)
    state.open()
    log.note("ready", time.perf_counter() - start)
    outbox = Outbox(state, Events(), most_operations=1_000_000, most_bytes=1_000_000_000)
    if "no-lease" in plants:
        sqlite_outbox.holds = lambda *_: True  # type: ignore[attr-defined] # a bug is planted
    asyncio.run(work(outbox, Leases(state), log, name, plants))


async def work(outbox: Outbox, leases: Leases, log: Log, name: str, plants: list[str]) -> None:
    async def queue_on(user_id: str) -> None:
        number = 0
        while True:
            number += 1
            log.note("intent", f"{user_id} {name} {number}")
            await outbox.put([operation(user_id, number, run=name)])
            log.note("ack", f"{user_id} {name} {number}")

    await asyncio.gather(drain_on(outbox, leases, log, name, plants), *(queue_on(f"u{n}") for n in range(USERS)))


async def drain_on(outbox: Outbox, leases: Leases, log: Log, name: str, plants: list[str]) -> None:
    while True:
        if not await leases.take(LEASE, name, LEASE_SECONDS, datetime.now(UTC)) and "no-lease" not in plants:
            await asyncio.sleep(PAUSE)
            continue
        begin = time.monotonic_ns()
        batches = await outbox.next_batches(name, most_users=4, most_operations=8, now=datetime.now(UTC))
        for batch in batches:
            user_id, sent = batch[0].user_id, {one.instance_id: one.n for one in batch}
            if "done-before-sent" in plants:
                await outbox.done(user_id, sent)
                log.note("forgotten", user_id)
                await asyncio.sleep(LONG_PAUSE)
            for one in batch:
                log.note("sent", f"{time.monotonic_ns()} {user_id} {one.instance_id} {one.n}")
            await outbox.done(user_id, sent)
        log.note("drained", f"{begin} {time.monotonic_ns()}")


if __name__ == "__main__":
    main()
