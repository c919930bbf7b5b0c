"""The command line of the benchmarks."""

import argparse
import asyncio
import dataclasses
import json
import os
import platform
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.benchmarks import (
    checkpointer,
    locomo,
    manager,
    notifications,
    postgres,
    recalling,
    sqlite_writes,
    store,
    writers,
)
from tests.benchmarks.recall import speed
from tests.benchmarks.runner import Benchmark

BENCHMARKS: dict[str, Callable[[Benchmark], Awaitable[None]]] = {
    "postgres": postgres.run,
    "sqlite_writes": sqlite_writes.run,
    "manager": manager.run,
    "writers": writers.run,
    "notifications": notifications.run,
    "checkpointer": checkpointer.run,
    "store": store.run,
    "recall_speed": speed.run,
    "recalling": recalling.run,
}
# These are about a file, and run when they are named.
OF_FILES = {"locomo": locomo.run, "locomo_held_out": locomo.run_held_out}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="name",
        help=f"of {', '.join(BENCHMARKS)}; all by default; or {', '.join(OF_FILES)}, and FILE",
    )
    parser.add_argument("--rounds", type=int, default=30, help="how often each contender runs (30)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32), help="order of the rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    files = [Path(name) for name in options.names if Path(name).is_file()]
    names = [name for name in options.names if not Path(name).is_file()]
    if unknown := set(names) - BENCHMARKS.keys() - OF_FILES.keys():
        parser.error(f"no benchmark or file is named {', '.join(sorted(unknown))}")
    if OF_FILES.keys() & set(names) and not files:
        parser.error(f"{', '.join(names)}: of which file?")
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}, {options.rounds} rounds, --seed {options.seed}\n")
    benchmark = Benchmark(rounds=options.rounds, seed=options.seed, files=files)
    for name in names or BENCHMARKS:
        asyncio.run(_run((BENCHMARKS | OF_FILES)[name], benchmark))
    if options.json:
        results = [dataclasses.asdict(result) for result in benchmark.results]
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2))


async def _run(run: Callable[[Benchmark], Awaitable[None]], benchmark: Benchmark) -> None:
    await run(benchmark)


if __name__ == "__main__":
    main()
