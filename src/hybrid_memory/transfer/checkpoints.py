"""Checkpoints between `state.db` and a file of langgraph-checkpoint-sqlite, in both directions.

Nothing of a graph's state is made on the way, so no type need be allowed or importable, and nothing in a file runs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from langgraph.checkpoint.serde.base import CipherProtocol, SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from hybrid_memory.langgraph.serialisation import unrestorable
from hybrid_memory.observability import Events
from hybrid_memory.settings import Settings
from hybrid_memory.transfer import stock_file
from hybrid_memory.transfer.moving import Moved, Progress, move
from hybrid_memory.transfer.own_state import OwnState
from hybrid_memory.transfer.stock_file import StockFile
from hybrid_memory.transfer.verbatim import VerbatimSerializer


@dataclass(frozen=True, slots=True)
class Transferred:
    """What became of a transfer, and the types that the moved threads hold but the settings do not allow."""

    moved: Moved
    not_allowed: Sequence[str]


def import_checkpoints(
    file: Path | str,
    settings: Settings,
    *,
    cipher: CipherProtocol | None = None,
    progress: Progress | None = None,
    events: Events | None = None,
) -> Transferred:
    """Bring every thread of a file of langgraph-checkpoint-sqlite into `state.db`; the file stays as it is.

    What is there already stays: repeating it brings what is new in the file.

    Args:
        file: the file.
        settings: where `state.db` is.
        cipher: for values that are encrypted, on both sides.
        progress: hears how many of how many checkpoints were looked at.
        events: where to report.

    Raises:
        InvalidInput: it is no such file, or a value in it cannot be moved; what was moved before stays.
        StorageUnavailable: a file is locked, damaged, or cannot be written.
    """
    with _both(Path(file), settings, cipher, events or Events(), stock_file.reading) as (ours, stock, verbatim):
        moved = move(stock, ours, progress)
    return Transferred(moved, unrestorable(verbatim.types, settings.allowed_types))


def export_checkpoints(
    file: Path | str,
    settings: Settings,
    *,
    cipher: CipherProtocol | None = None,
    progress: Progress | None = None,
    events: Events | None = None,
) -> Transferred:
    """Bring every thread of `state.db` into a file of langgraph-checkpoint-sqlite, made when it is not there.

    Arguments and errors as in `import_checkpoints`.
    """
    with _both(Path(file), settings, cipher, events or Events(), stock_file.writing) as (ours, stock, verbatim):
        moved = move(ours, stock, progress)
    return Transferred(moved, unrestorable(verbatim.types, settings.allowed_types))


@contextmanager
def _both(
    file: Path,
    settings: Settings,
    cipher: CipherProtocol | None,
    events: Events,
    opened: Callable[[Path, SerializerProtocol], AbstractContextManager[StockFile]],
) -> Iterator[tuple[OwnState, StockFile, VerbatimSerializer]]:
    stock_file.refuse_our_own(file, settings.data_dir.expanduser())
    verbatim = VerbatimSerializer()
    serde = verbatim if cipher is None else EncryptedSerializer(cipher, verbatim)
    with opened(file, serde) as stock, closing(OwnState(settings, serde, events)) as ours:
        yield ours, stock, verbatim
