"""The command, each time in a process of its own, as a user runs it; what it imports is imported once for all of them.

The processes are forked from one that has imported the library and done nothing else.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

_SECONDS = 110.0
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["hybrid_memory"])


def run(*arguments: str, code: int = 0, **environment: str) -> str:
    return run_with(environment, *arguments, code=code)


def run_with(environment: Mapping[str, str], *arguments: str, code: int = 0) -> str:
    """What the command printed; both streams, since a terminal shows both."""
    surroundings = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **environment}
    with tempfile.NamedTemporaryFile("r") as output:
        process = _FORKS.Process(target=_command, args=(arguments, surroundings, Path.cwd(), output.name))
        process.start()
        process.join(_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        said = output.read()
    assert process.exitcode == code, said
    assert "Traceback" not in said
    return said


def _command(arguments: tuple[str, ...], environment: Mapping[str, str], directory: Path, output: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    with Path(output).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["hybrid-memory", *arguments]
    from hybrid_memory.cli import main

    main()
