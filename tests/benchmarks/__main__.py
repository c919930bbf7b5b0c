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

from tests.benchmarks import checkpointer, manager, postgres, sqlite_writes, writers
from tests.benchmarks.runner import Benchmark

BENCHMARKS: dict[str, Callable[[Benchmark], Awaitable[None]]] = {
    "postgres": postgres.run,
    "sqlite_writes": sqlite_writes.run,
    "manager": manager.run,
    "writers": writers.run,
    "checkpointer": checkpointer.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--rounds", type=int, default=30, help="how often each contender runs (30)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32), help="order of the rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    if unknown := set(options.names) - BENCHMARKS.keys():
        parser.error(f"no benchmark is named {', '.join(sorted(unknown))}")
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}, {options.rounds} rounds, --seed {options.seed}\n")
    benchmark = Benchmark(rounds=options.rounds, seed=options.seed)
    for name in options.names or BENCHMARKS:
        asyncio.run(_run(BENCHMARKS[name], benchmark))
    if options.json:
        results = [dataclasses.asdict(result) for result in benchmark.results]
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2))


async def _run(run: Callable[[Benchmark], Awaitable[None]], benchmark: Benchmark) -> None:
    await run(benchmark)


if __name__ == "__main__":
    main()
