"""Random damage to files that nobody has open."""

import random
from collections.abc import Callable
from pathlib import Path

from hybrid_memory.sqlite.files import STATE

PAGE = STATE.page_bytes

Damage = Callable[[Path, random.Random], str]


def flipped_bits(path: Path, rng: random.Random) -> str:
    content = bytearray(path.read_bytes())
    places = [rng.randrange(len(content)) for _ in range(rng.choice([1, 1, 8, 200]))]
    for place in places:
        content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"{len(places)} bits flipped at {places[:3]}"


def flipped_in_a_value(path: Path, rng: random.Random) -> str:
    """Bits inside something that was stored, not in the checksum behind it: SQLite itself cannot notice these."""
    content = bytearray(path.read_bytes())
    marks = [place for place in range(len(content) - 8) if content[place : place + 6] == b"value-"]
    places = [rng.choice(marks) + len("value-") + rng.randrange(len("0000-")) for _ in range(rng.choice([1, 3, 30]))]
    for place in places:
        content[place] ^= 1 << rng.randrange(3)
    path.write_bytes(content)
    return f"{len(places)} values changed at {places[:3]}"


def truncated(path: Path, rng: random.Random) -> str:
    length = rng.choice([0, rng.randrange(200), rng.randrange(path.stat().st_size)])
    with path.open("r+b") as file:
        file.truncate(length)
    return f"truncated to {length}"


def zeroed_pages(path: Path, rng: random.Random) -> str:
    return _overwritten(path, rng, lambda: bytes(PAGE), "zeroed")


def garbage_pages(path: Path, rng: random.Random) -> str:
    return _overwritten(path, rng, lambda: rng.randbytes(PAGE), "garbage")


def garbage_header(path: Path, rng: random.Random) -> str:
    content = bytearray(path.read_bytes())
    content[:100] = rng.randbytes(100)
    path.write_bytes(content)
    return "garbage in the file header"


def swapped_pages(path: Path, rng: random.Random) -> str:
    content = bytearray(path.read_bytes())
    one, other = rng.sample(range(1, len(content) // PAGE), 2)
    first, second = (slice(page * PAGE, (page + 1) * PAGE) for page in (one, other))
    content[first], content[second] = content[second], content[first]
    path.write_bytes(content)
    return f"pages {one + 1} and {other + 1} swapped"


def not_a_database(path: Path, rng: random.Random) -> str:
    path.write_bytes(rng.randbytes(rng.randrange(1, 20_000)))
    return "another file"


def deleted(path: Path, _: random.Random) -> str:
    path.unlink()
    return "deleted"


def read_only(path: Path, _: random.Random) -> str:
    path.chmod(0o400)
    return "read-only"


def _overwritten(path: Path, rng: random.Random, page: Callable[[], bytes], what: str) -> str:
    content = bytearray(path.read_bytes())
    pages = [rng.randrange(len(content) // PAGE) for _ in range(rng.choice([1, 1, 2, 5]))]
    for number in pages:
        content[number * PAGE : (number + 1) * PAGE] = page()
    path.write_bytes(content)
    return f"pages {[number + 1 for number in pages]} {what}"


TO_A_CACHE: tuple[Damage, ...] = (
    flipped_bits,
    flipped_in_a_value,
    truncated,
    zeroed_pages,
    garbage_pages,
    garbage_header,
    swapped_pages,
    not_a_database,
    deleted,
    read_only,
)
# Each of these surely hits something that is in use.
TO_A_STATE: tuple[Damage, ...] = (
    flipped_in_a_value,
    truncated,
    zeroed_pages,
    garbage_pages,
    garbage_header,
    swapped_pages,
    not_a_database,
)
