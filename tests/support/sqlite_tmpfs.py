"""A file system of a few megabytes, to be filled up."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def tmpfs(directory: Path, megabytes: int) -> Iterator[Path]:
    """Mounted on `directory`; the test is skipped where that is not permitted."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(directory)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        command = ["umount", str(directory)]
        subprocess.run(command, check=True)


def fill(directory: Path, most: int | None = None) -> Path:
    """Take `most` bytes, or all the space that is left."""
    file = directory / f"ballast {most}"
    with file.open("wb", buffering=0) as ballast:
        for size in (1 << 16, 1 << 12, 1):
            while most is None or ballast.tell() < most:
                try:
                    ballast.write(bytes(size))
                except OSError:
                    break
    return file
