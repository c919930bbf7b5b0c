"""What is done to whole threads: deleting, copying, pruning, looking at them, and keeping only what is wanted."""

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from hybrid_memory.errors import InvalidInput
from hybrid_memory.langgraph.addresses import thread_id_of
from hybrid_memory.langgraph.opening import OnStateFile
from hybrid_memory.langgraph.steps import Read, Steps, Write, done, done_blocking
from hybrid_memory.models import Retention, ThreadInfo
from hybrid_memory.settings import Settings
from hybrid_memory.sqlite.checkpoints import retention, upkeep
from hybrid_memory.sqlite.checkpoints.retention import Removed, Rule
from hybrid_memory.sqlite.connection import Statements

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class ThreadCalls(OnStateFile):
    """The calls of a checkpointer that are about whole threads."""

    def delete_thread(self, thread_id: str) -> None:
        """Delete everything of a thread, its transient memory too; no row of it is left."""
        self._state.database().write_blocking(_deleting(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete everything of a thread, its transient memory too; no row of it is left."""
        await (await self._database()).write(_deleting(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs with their writes.

        What a DeltaChannel of a remaining checkpoint is rebuilt from stays in the file, out of sight.
        """
        done_blocking(self._state.database(), _deleting_runs(run_ids))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs with their writes; DeltaChannels as in `delete_for_runs`."""
        await done(await self._database(), _deleting_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints, of all namespaces, and their writes to a thread that has none.

        Raises:
            InvalidInput: it has some.
        """
        self._state.database().write_blocking(_copying(source_thread_id, target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints, of all namespaces, and their writes to a thread that has none."""
        await (await self._database()).write(_copying(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete all but the newest checkpoint of each namespace, or (`delete`) the threads.

        What a DeltaChannel of a remaining checkpoint is rebuilt from stays in the file, out of sight.

        Raises:
            InvalidInput: another strategy.
        """
        done_blocking(self._state.database(), _pruning(thread_ids, strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete all but the newest checkpoint of each namespace, or (`delete`) the threads; as in `prune`."""
        await done(await self._database(), _pruning(thread_ids, strategy))

    def threads(self) -> list[ThreadInfo]:
        """All threads with their last activity, step and size, the most recently used first."""
        return self._state.database().read_blocking(_threads)

    async def athreads(self) -> list[ThreadInfo]:
        """All threads with their last activity, step and size, the most recently used first."""
        return await (await self._database()).read(_threads)

    def set_retention(self, thread_id: str, wanted: Retention | None) -> None:
        """Keep of one thread what `wanted` says, whatever is kept of all; None undoes that. `sweep` acts on it."""
        self._state.database().write_blocking(_ruling(thread_id, wanted))

    async def aset_retention(self, thread_id: str, wanted: Retention | None) -> None:
        """Keep of one thread what `wanted` says, whatever is kept of all; None undoes that."""
        await (await self._database()).write(_ruling(thread_id, wanted))

    def sweep(self, wanted: Retention | None = None) -> Removed:
        """Remove what is not to be kept of any thread; how much that was.

        Args:
            wanted: what is kept of threads without a rule of their own; that of the settings when None.
        """
        steps = _sweeping(_rule(wanted or _of_settings(self._settings)))
        return self._reported(done_blocking(self._state.database(), steps))

    async def asweep(self, wanted: Retention | None = None) -> Removed:
        """Remove what is not to be kept of any thread; how much that was. `wanted` as in `sweep`."""
        steps = _sweeping(_rule(wanted or _of_settings(self._settings)))
        return self._reported(await done(await self._database(), steps))

    def _reported(self, removed: Removed) -> Removed:
        if removed != Removed():
            self._events.info("checkpoints_swept", checkpoints=removed.checkpoints, threads=removed.threads)
        return removed


def _deleting(thread_id: str) -> Callable[[Statements], None]:
    deleted = thread_id_of(thread_id)

    def delete(sql: Statements) -> None:
        upkeep.remove_thread(sql, deleted)
        sql.run("transient_memories.forget_thread", thread_id=deleted)

    return delete


def _deleting_runs(run_ids: Iterable[object]) -> Steps[None]:
    found = yield Read(partial(upkeep.checkpoints_of_runs, run_ids=[str(one) for one in run_ids]))
    if found:
        yield Write(partial(upkeep.remove_checkpoints, by_line=found))


def _copying(source: str, target: str) -> Callable[[Statements], None]:
    return partial(upkeep.copy_thread, source=thread_id_of(source), target=thread_id_of(target))


def _pruning(thread_ids: Iterable[str], strategy: str) -> Steps[None]:
    """One write per thread, so that others get in between."""
    if strategy not in ("keep_latest", "delete"):
        raise InvalidInput(f"strategy: keep_latest or delete, not {strategy!r}")
    for thread_id in map(thread_id_of, thread_ids):
        if strategy == "delete":
            yield Write(_deleting(thread_id))
        else:
            yield Write(partial(upkeep.reduce_thread, thread_id=thread_id, choice=upkeep.keep_latest))


def _threads(sql: Statements) -> list[ThreadInfo]:
    return [
        ThreadInfo(
            thread_id=thread_id,
            last_activity=_EPOCH + last * _MICROSECOND,
            step=step if isinstance(step, int) else None,
            checkpoints=number,
            bytes=size,
        )
        for thread_id, last, step, number, size in upkeep.sizes(sql)
    ]


def _ruling(thread_id: str, wanted: Retention | None) -> Callable[[Statements], None]:
    rule = None if wanted is None else _rule(wanted)
    return partial(retention.set_rule, thread_id=thread_id_of(thread_id), rule=rule)


def _sweeping(of_all: Rule) -> Steps[Removed]:
    now = time.time_ns() // 1000
    known = yield Read(partial(retention.rules, of_all=of_all))
    removed = Removed()
    after: int | None = None if known.keep_everything else 0
    while after is not None:
        found, after = yield Read(partial(retention.candidates, after=after, known=known, now=now))
        for thread_id in found:
            rule = known.of(thread_id)
            removed += yield Write(partial(retention.apply, thread_id=thread_id, rule=rule, now=now))
    return removed


def _of_settings(settings: Settings) -> Retention:
    return Retention(
        keep_last=settings.checkpoints_kept,
        max_age=settings.checkpoint_max_age_seconds,
        max_idle=settings.thread_max_idle_seconds,
    )


def _rule(wanted: Retention) -> Rule:
    """A rule in the file's own units.

    Raises:
        InvalidInput: a number is not positive.
    """
    if wanted.keep_last is not None and wanted.keep_last < 1:
        raise InvalidInput("keep_last: 1 or more")
    return Rule(wanted.keep_last, _age(wanted.max_age, "max_age"), _age(wanted.max_idle, "max_idle"))


def _age(value: timedelta | float | None, field: str) -> int | None:
    if value is None:
        return None
    try:
        age = value if isinstance(value, timedelta) else timedelta(seconds=value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"{field}: {error}") from error
    if age < timedelta(0):
        raise InvalidInput(f"{field}: not below zero")
    return age // _MICROSECOND
