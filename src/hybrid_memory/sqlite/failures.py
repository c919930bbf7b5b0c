"""What a failed call to SQLite means, decided in one place, and the error a caller sees."""

import apsw

from hybrid_memory.errors import HybridMemoryError, SchemaMismatch, StateDamaged, StorageRejected, StorageUnavailable
from hybrid_memory.sqlite.files import Kind

# A text that is not UTF-8 any more shows as a UnicodeDecodeError while the row is read.
_DAMAGE = (apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError)
_REFUSED_DATA = (apsw.ConstraintError, apsw.MismatchError, apsw.TooBigError, apsw.RangeError, OverflowError)
_ADVICE = {
    apsw.FullError: "the disk is full; nothing of this call was stored, the next one works once there is space",
    apsw.BusyError: "another process kept the file locked; nothing of this call was stored",
    apsw.LockedError: "another connection kept a table locked; nothing of this call was stored",
    apsw.ReadOnlyError: "the file or its directory may not be written",
    apsw.CantOpenError: "the file cannot be opened",
    apsw.PermissionsError: "the file may not be opened",
    apsw.IOError: "the disk reported an error",
    apsw.NoMemError: "there is no memory left",
    apsw.InterruptError: "the call was interrupted",
    apsw.ProtocolError: "its locks do not work; is it on a network file system?",
}


def is_damage(error: BaseException, kind: Kind) -> bool:
    """Whether the file does not hold what was written to it.

    A cache may also vanish, or lose its tables for the moment in which another process heals it.
    """
    return isinstance(error, _DAMAGE) or (kind.disposable and isinstance(error, (apsw.SQLError, apsw.CantOpenError)))


def translate(error: BaseException, kind: Kind) -> BaseException:
    """The error a caller sees for a call to this file; a caller's own error comes back as it is."""
    if not isinstance(error, (apsw.Error, UnicodeDecodeError, OverflowError)):
        return error
    translated = _translated(error, kind)
    translated.__cause__ = error
    return translated


def _translated(error: BaseException, kind: Kind) -> HybridMemoryError:
    if isinstance(error, _DAMAGE):
        if kind.disposable:
            return StorageUnavailable(f"{kind.name} was damaged and emptied, and is damaged again ({error})")
        return StateDamaged(
            f"{kind.name} is damaged ({error}): stop every process that uses it and start again, "
            "intact rows are saved into a new file then."
        )
    if isinstance(error, _REFUSED_DATA):
        return StorageRejected(f"{kind.name} refused the data ({error})")
    for failure, advice in _ADVICE.items():
        if isinstance(error, failure):
            # A failed flush may have reached the disk all the same.
            return StorageUnavailable(f"{kind.name}: {advice}", outcome_unknown=isinstance(error, apsw.IOError))
    return SchemaMismatch(f"{kind.name} does not understand a statement of this version ({error})")
