"""The command, each time in a process of its own, as a user runs it; what it imports is imported for all of them."""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybrid_memory.observability import Events
from tests.support.children import Child

_SECONDS = 110.0


def run(*arguments: str, code: int = 0, **environment: str) -> str:
    return run_with(environment, *arguments, code=code)


def run_with(environment: Mapping[str, str], *arguments: str, code: int = 0) -> str:
    """What the command printed; both streams, since a terminal shows both."""
    surroundings = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **environment}
    with tempfile.NamedTemporaryFile("r") as output:
        told = {"arguments": arguments, "environment": surroundings, "output": output.name}
        with Child(_command, told) as child:
            ended = child.result(_SECONDS)
        said = output.read()
    assert ended == code, said
    assert "Traceback" not in said
    return said


def _command(events: Events, arguments: Sequence[str], environment: Mapping[str, str], output: str) -> int | str | None:
    del events
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["hybrid-memory", *arguments]
    answers = os.dup(1)
    with Path(output).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        from hybrid_memory.cli import main  # what it prints with looks at the environment once

        main()
    except SystemExit as end:
        return end.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(answers, 1)
    return 0
