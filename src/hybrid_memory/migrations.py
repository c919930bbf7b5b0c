"""Numbered SQL migrations of both dialects: what there is, what was applied, what is pending.

Applying them is the business of each database's side; the rules are the same for both. A migration is never edited
once released. New columns come nullable or with a default and are used one release later, old ones go one release
after their last use, so that the previous release keeps working while processes are replaced one by one. A file whose
first line is `-- transactional: no` runs outside a transaction, statement by statement, and must be safe to run
twice: it begins by dropping what an interrupted run may have left.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybrid_memory.errors import SchemaMismatch
from hybrid_memory.queries import Dialect, sql_root

_FILE = re.compile(r"(\d{4})_(\w+)\.sql")
_OUTSIDE = "-- transactional: no"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `sql/postgres/migrations` or `sql/sqlite/migrations/<database>`."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """Recorded beside the number, so that a change to an applied migration is noticed."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def transactional(self) -> bool:
        """Whether it runs in one transaction with its record."""
        return not self.text.startswith(_OUTSIDE)

    @property
    def statements(self) -> list[str]:
        """The single statements of a migration that runs outside a transaction."""
        body = "\n".join(line for line in self.text.splitlines() if not line.startswith("--"))
        return [statement.strip(" \n;") for statement in body.split(";\n") if statement.strip(" \n;")]


@dataclass(frozen=True, slots=True)
class Applied:
    """One row of `schema_migrations`."""

    number: int
    name: str
    checksum: str


def load(dialect: Dialect, database: str = "") -> list[Migration]:
    """All migrations of a dialect, in order; of one of its databases where each has a chain of its own."""
    found = []
    for file in (sql_root() / dialect / "migrations" / database).iterdir():
        match = _FILE.fullmatch(file.name)
        if match is None:
            raise ValueError(f"{file.name}: a migration is named 0001_what_it_does.sql")
        text = file.read_text(encoding="utf-8").replace("\r\n", "\n")
        found.append(Migration(int(match[1]), match[2], text))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"the {dialect} {database} migrations are not numbered 1, 2, 3, ... without a gap")
    return found


def pending(shipped: Sequence[Migration], applied: Sequence[Applied], where: str) -> list[Migration]:
    """The migrations still to be applied, after checking that those applied are ours.

    Raises:
        SchemaMismatch: the database is ahead of this version, or an applied migration was changed.
    """
    known: Mapping[int, Migration] = {migration.number: migration for migration in shipped}
    for row in sorted(applied, key=lambda one: one.number):
        migration = known.get(row.number)
        if migration is None:
            raise SchemaMismatch(
                f"{where} is at migration {max(one.number for one in applied)}, this version of hybrid-memory knows "
                f"{len(shipped)}: install the version that made it, or a newer one."
            )
        if migration.checksum != row.checksum:
            raise SchemaMismatch(
                f"{where}: migration {row.number:04}_{row.name} is not the one this version ships "
                f"(recorded {row.checksum[:12]}, shipped {migration.checksum[:12]}): "
                "install the version that made it, or restore the file."
            )
    done = {row.number for row in applied}
    return [migration for migration in shipped if migration.number not in done]
