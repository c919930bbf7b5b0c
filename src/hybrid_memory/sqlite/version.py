"""Which SQLite runs, and whether it is safe here.

Versions 3.7.0 to 3.51.2 can corrupt a database in WAL mode when a checkpoint meets a write of another connection
(https://sqlite.org/wal.html#walresetbug); 3.44.6 and 3.50.7 carry the fix too. We write and checkpoint with several
connections, so such a version is refused.
"""

import apsw

from hybrid_memory.errors import ConfigurationError

_AFFECTED = (3, 7, 0)
_FIXED = (3, 51, 3)
_BACKPORTS = ((3, 44, 6), (3, 50, 7))


def sqlite_version() -> str:
    """The version of the SQLite inside apsw."""
    return apsw.sqlite_lib_version()


def is_vulnerable(version: str) -> bool:
    """Whether this version has the WAL-reset bug."""
    number = tuple(int(part) for part in version.split(".")[:3])
    backported = any(number[:2] == fix[:2] and number >= fix for fix in _BACKPORTS)
    return _AFFECTED <= number < _FIXED and not backported


def require_safe(version: str) -> None:
    """Refuse a version that can corrupt the files.

    Raises:
        ConfigurationError: it can; the text says what to install.
    """
    if is_vulnerable(version):
        raise ConfigurationError(
            f"SQLite {version} can corrupt a database that several connections use (https://sqlite.org/wal.html"
            "#walresetbug): install apsw 3.51.3 or newer (`pip install -U apsw`)."
        )
