"""Opening a file so that what comes out is good: made where it is missing, migrated, and healed where it is damaged."""

import stat
import time
from dataclasses import dataclass
from pathlib import Path

import apsw

from hybrid_memory.errors import SchemaMismatch, StateDamaged
from hybrid_memory.observability import Events
from hybrid_memory.sqlite import damage, failures, files, salvage, schema
from hybrid_memory.sqlite.connection import Connection, Patience, Statements, connect
from hybrid_memory.sqlite.files import Kind
from hybrid_memory.sqlite.presence import Presence

# For the structure and for the rows each: a large file is examined in part, the rest when it is read.
_EXAMINATION_SECONDS = 0.25
# A cache with one of these is emptied; a state file is left alone and the error shown.
_UNUSABLE = (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError, apsw.SQLError, SchemaMismatch)


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens one file for one database object, again and again where a cache is healed."""

    path: Path
    kind: Kind
    presence: Presence
    patience: Patience
    events: Events

    def first(self) -> Connection:
        """Come in and open the file; whoever is alone with it examines it.

        Raises:
            StateDamaged: it was damaged; intact rows were saved, and opening again goes on with them.
            SchemaMismatch: it was made by a newer version.
        """
        with self.presence.enter() as alone:
            connection = self._cache(alone=alone) if self.kind.disposable else self._state(alone=alone)
            if alone or not self.presence.was_made:
                self.presence.note_made()
        return connection

    def healed(self, error: BaseException) -> Connection:
        """Open a cache again that turned out to be damaged."""
        return self._rebuilt(str(error), alone=False)

    def _state(self, *, alone: bool) -> Connection:
        if alone:
            salvage.finish(self.path)
            self._rescue_what_sqlite_would_spoil()
        try:
            return self._checked(alone=alone)
        except (apsw.Error, UnicodeDecodeError) as error:
            if failures.is_damage(error, self.kind):
                if alone:
                    self._rescue(str(error))
                self.presence.note_damage()
            raise

    def _rescue_what_sqlite_would_spoil(self) -> None:
        """Look at what is known without opening the file: SQLite deletes the WAL of a database of no length."""
        if not self.presence.was_made or not any(files.existing(self.path)):
            return
        files.create(self.path)
        if files.size(self.path) == 0:
            self._rescue("its content is gone")
        if self.presence.met_damage:
            self._rescue("a process met damage in it")

    def _rescue(self, reason: str) -> None:
        """Save what is intact, and say so in an error: rows may be missing, which nobody may overlook."""
        start = time.perf_counter()
        done = salvage.rescue(self.path, self.kind, self.events)
        self.presence.note_made()
        self.events.error(
            "state_salvaged",
            file=self.kind.name,
            reason=reason,
            rows=done.total,
            tables=dict(done.rows),
            kept_in=str(done.kept_in),
            duration_ms=round((time.perf_counter() - start) * 1000, 3),
        )
        raise StateDamaged(
            f"{self.path} was damaged ({reason}). {done.total} intact rows were saved into a new file, the damaged one "
            f"is kept as {done.kept_in}. Start again to go on with what was saved."
        )

    def _cache(self, *, alone: bool) -> Connection:
        if self.presence.was_made and not self.path.exists():
            return self._rebuilt("it was deleted", alone=alone)
        try:
            if self.path.exists() and not self.path.stat().st_mode & stat.S_IWUSR:
                raise apsw.ReadOnlyError("it is read-only")
            return self._checked(alone=alone)
        except (apsw.Error, UnicodeDecodeError, *_UNUSABLE) as error:
            if not failures.is_damage(error, self.kind) and not isinstance(error, _UNUSABLE):
                raise
            return self._rebuilt(str(error), alone=alone)

    def _rebuilt(self, reason: str, *, alone: bool) -> Connection:
        start = time.perf_counter()
        try:
            connection = self._emptied()
        except (apsw.Error, UnicodeDecodeError):
            if not alone:
                raise
            files.remove(self.path)
            connection = self._checked(alone=False)
        self.events.warning(
            "cache_rebuilt",
            file=self.kind.name,
            reason=reason,
            duration_ms=round((time.perf_counter() - start) * 1000, 3),
        )
        return connection

    def _emptied(self) -> Connection:
        self._prepare_files()
        connection = connect(self.path, self.kind, self.patience, empty=True)
        try:
            schema.ensure(Statements(connection), self.kind, self.events)
        except BaseException:
            connection.close(force=True)
            raise
        return connection

    def _checked(self, *, alone: bool) -> Connection:
        was_there = self.path.exists()
        self._prepare_files()
        connection = connect(self.path, self.kind, self.patience)
        try:
            statements = Statements(connection)
            if alone:
                if was_there and self.presence.was_made:
                    damage.examine_presence(statements)
                damage.examine_structure(statements, _EXAMINATION_SECONDS)
            schema.ensure(statements, self.kind, self.events)
            if alone:
                damage.examine_rows(statements, _EXAMINATION_SECONDS)
        except BaseException:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # evidence is not to be overwritten
            connection.close(force=True)
            raise
        return connection

    def _prepare_files(self) -> None:
        files.create(self.path)
        files.secure_files(self.path)
