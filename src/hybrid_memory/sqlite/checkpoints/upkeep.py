"""Removing and copying checkpoints, so that what is left is whole and what nobody needs is gone."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from hybrid_memory.errors import InvalidInput
from hybrid_memory.sqlite.checkpoints.lists import Layout, unfolded
from hybrid_memory.sqlite.checkpoints.reading import Value
from hybrid_memory.sqlite.checkpoints.rows import Address
from hybrid_memory.sqlite.checkpoints.writing import line_of
from hybrid_memory.sqlite.connection import Row, Statements


@dataclass(frozen=True, slots=True)
class Entry:
    """A checkpoint as upkeep sees it: what it hangs on, what it has, and which DeltaChannels it must rebuild.

    `root_id` is the checkpoint of the whole graph in which the subgraph it belongs to was called. `retired_at` is when
    it went out of sight, 0 once only what others need is left of it, and None while it is there.
    """

    checkpoint_id: str
    parent_id: str | None
    held: Mapping[str, str | None]
    retired_at: int | None
    rebuilt: Collection[str]
    root_id: str | None
    written_at: int


# Microseconds: who began with a checkpoint has put the next one by then, which says what it hangs on.
LONGEST_SUPERSTEP = 24 * 60 * 60 * 1_000_000

# Which of a line's visible checkpoints, newest first, stay visible.
Choice = Callable[[Sequence[Entry]], Collection[str]]


@dataclass(slots=True)
class _Need:
    """What later checkpoints need of one that goes."""

    writes: set[str] = field(default_factory=set)
    seeds: set[str] = field(default_factory=set)


def sizes(sql: Statements) -> Sequence[Row]:
    """Per thread: its id, when something was last stored, the last step, how many checkpoints and bytes."""
    return sql.rows("checkpoint_lines.size_of_threads")


def remove_thread(sql: Statements, thread_id: str) -> None:
    """Remove every row of a thread."""
    sql.run("checkpoint_writes.remove_thread", thread_id=thread_id)
    sql.run("checkpoint_values.remove_thread", thread_id=thread_id)
    sql.run("checkpoints.remove_thread", thread_id=thread_id)
    sql.run("checkpoint_lines.remove_thread", thread_id=thread_id)
    sql.run("checkpoint_rules.remove_thread", thread_id=thread_id)
    _give_space_back(sql)


def keep_latest(entries: Sequence[Entry]) -> Collection[str]:
    """The newest checkpoint alone."""
    return [entry.checkpoint_id for entry in entries[:1]]


def reduce_thread(sql: Statements, thread_id: str, choice: Choice) -> int:
    """Remove the checkpoints of each namespace of a thread that are not chosen; how many."""
    return sum(
        reduce_line(sql, line, choice) for line, _ in sql.rows("checkpoint_lines.of_thread", thread_id=thread_id)
    )


def checkpoints_of_runs(sql: Statements, run_ids: Sequence[str]) -> Mapping[int, Collection[str]]:
    """The checkpoints that runs made, by line."""
    found: dict[int, set[str]] = {}
    for line, checkpoint_id in sql.rows("checkpoints.of_runs", run_ids=json.dumps(run_ids)):
        found.setdefault(line, set()).add(checkpoint_id)
    return found


def remove_checkpoints(sql: Statements, by_line: Mapping[int, Collection[str]]) -> None:
    """Remove checkpoints, given by line; a line that has nothing left goes with them."""
    for line, ids in by_line.items():
        reduce_line(sql, line, partial(_all_but, ids))
        sql.run("checkpoint_lines.remove_if_empty", line=line)


def _all_but(gone: Collection[str], entries: Sequence[Entry]) -> Collection[str]:
    return [entry.checkpoint_id for entry in entries if entry.checkpoint_id not in gone]


def reduce_line(sql: Statements, line: int, choice: Choice, *, now: int | None = None) -> int:
    """Remove the checkpoints of a line that are not chosen; how many became invisible.

    One from which a DeltaChannel of a remaining one is rebuilt is retired instead, with what is needed of it. A run may
    have begun with one that goes: with `now`, it stays whole for as long as a run may take until it puts the next.
    """
    entries = {entry.checkpoint_id: entry for entry in _entries(sql, line)}
    visible = [entry for entry in entries.values() if entry.retired_at is None]
    kept = set(choice(visible))
    whole = kept | (set() if now is None else _spared(entries, now))
    needs = _needs(entries, whole, _written(sql, line, entries.values()))
    gone = [one for one in entries if one not in whole and one not in needs]
    if gone:
        ids = json.dumps(gone)
        sql.run("checkpoint_writes.remove", line=line, ids=ids)
        sql.run("checkpoints.remove", line=line, ids=ids)
    hidden = [one.checkpoint_id for one in visible if one.checkpoint_id in whole - kept]
    sql.run("checkpoints.hide", line=line, ids=json.dumps(hidden), retired_at=now)
    for checkpoint_id, need in needs.items():
        if checkpoint_id not in whole:
            _reduce(sql, line, entries[checkpoint_id], need)
    sql.run("checkpoint_writes.remove_orphans", line=line)
    _collect_values(sql, line)
    _give_space_back(sql)
    return len(visible) - len(kept)


def copy_thread(sql: Statements, source: str, target: str) -> None:
    """Give a thread that has none all checkpoints, values and writes of another one.

    Raises:
        InvalidInput: it has some.
    """
    lines = sql.rows("checkpoint_lines.of_thread", thread_id=source)
    if lines and sql.rows("checkpoint_lines.of_thread", thread_id=target):
        raise InvalidInput(f"target_thread_id: thread {target!r} has checkpoints; delete it first")
    for line, namespace in lines:
        made = line_of(sql, Address(target, namespace)).line
        moved = _moved(
            sql.rows("checkpoint_values.rows_of_line", line=line), sql.value("checkpoint_values.place_of_next")
        )
        sql.run("checkpoint_values.copy", target=made, moved=json.dumps(moved))
        sql.run("checkpoints.copy", source=line, target=made)
        sql.run("checkpoint_writes.copy", source=line, target=made)


def visible_entries(sql: Statements, line: int) -> Sequence[Entry]:
    """The checkpoints of a line that are not retired, newest first."""
    return [entry for entry in _entries(sql, line) if entry.retired_at is None]


def _moved(rows: Iterable[Row], first: int) -> list[tuple[int, int, int | None, str | None]]:
    """Where the rows of a line go in a copy, from row `first` on, and how their lists are put together there.

    They move close together: with the gaps between them, copies of what grew beside a copy would run out of numbers.
    """
    found = list(rows)
    places = {row: first + place for place, (row, _, _) in enumerate(found)}
    moved: list[tuple[int, int, int | None, str | None]] = []
    for row, base, layout in found:
        there = (None, None) if layout is None else Layout.of_row(row, base, layout).moved(places).stored(places[row])
        moved.append((row, places[row], *there))
    return moved


def _entries(sql: Statements, line: int) -> Iterable[Entry]:
    rows = sql.rows("checkpoints.all_of_line", line=line)
    for checkpoint_id, parent_id, held, retired_at, counters, root_id, written_at in rows:
        rebuilt = tuple(json.loads(counters or "{}"))
        yield Entry(checkpoint_id, parent_id, json.loads(held), retired_at, rebuilt, root_id, written_at)


def _spared(entries: Mapping[str, Entry], now: int) -> set[str]:
    """Those that stay whole for a while after they went, where DeltaChannels are rebuilt from checkpoints at all."""
    if not any(entry.rebuilt for entry in entries.values()):
        return set()
    return {
        checkpoint_id
        for checkpoint_id, entry in entries.items()
        if entry.retired_at is None or entry.retired_at > now - LONGEST_SUPERSTEP
    }


def _written(sql: Statements, line: int, entries: Iterable[Entry]) -> Mapping[str, Collection[str]]:
    """Which DeltaChannels were written to at each checkpoint."""
    channels = sorted({channel for entry in entries for channel in entry.rebuilt})
    found: dict[str, set[str]] = {}
    if channels:
        rows = sql.rows("checkpoint_writes.place_of_channels", line=line, channels=json.dumps(channels))
        for checkpoint_id, channel in rows:
            found.setdefault(checkpoint_id, set()).add(channel)
    return found


def _needs(
    entries: Mapping[str, Entry], kept: Collection[str], written: Mapping[str, Collection[str]]
) -> Mapping[str, _Need]:
    """The ancestors from which the DeltaChannels of the kept checkpoints are rebuilt, and what of them."""
    needs: dict[str, _Need] = {}
    for checkpoint_id in kept:
        walked, unknown = _walk(entries, entries[checkpoint_id])
        # Of a channel without a value those before its first write tell nothing.
        for entry, open_ones in reversed(walked):
            unknown.difference_update(written.get(entry.checkpoint_id, ()))
            wanted = open_ones - unknown
            if wanted:
                need = needs.setdefault(entry.checkpoint_id, _Need())
                need.writes |= wanted
                need.seeds |= wanted & entry.held.keys()
    return needs


def _walk(entries: Mapping[str, Entry], entry: Entry) -> tuple[list[tuple[Entry, frozenset[str]]], set[str]]:
    """The ancestors of a checkpoint as far as DeltaChannels have no value, and the channels that have none at all.

    With each come the channels that have none after it.
    """
    walked: list[tuple[Entry, frozenset[str]]] = []
    open_ones, seen = frozenset(entry.rebuilt) - entry.held.keys(), {entry.checkpoint_id}
    while open_ones and entry.parent_id is not None and entry.parent_id not in seen:
        parent = entries.get(entry.parent_id)
        if parent is None:
            break
        entry = parent
        seen.add(entry.checkpoint_id)
        walked.append((entry, open_ones))
        open_ones -= entry.held.keys()
    return walked, set(open_ones)


def _reduce(sql: Statements, line: int, entry: Entry, need: _Need) -> None:
    held = {channel: version for channel, version in entry.held.items() if channel in need.seeds}
    if entry.retired_at != 0 or held != entry.held:
        sql.run(
            "checkpoints.reduce",
            line=line,
            checkpoint_id=entry.checkpoint_id,
            held=json.dumps(held, separators=(",", ":")),
        )
    sql.run(
        "checkpoint_writes.remove_other_channels",
        line=line,
        checkpoint_id=entry.checkpoint_id,
        channels=json.dumps(sorted(need.writes)),
    )


def _give_space_back(sql: Statements) -> None:
    """Shorten the file by what is free at its end after some moving; a little at a time, others wait meanwhile."""
    sql.connection.execute("pragma incremental_vacuum(2000)").fetchall()


def _collect_values(sql: Statements, line: int) -> None:
    """Remove the values of a line that no checkpoint has and no list is put together from."""
    removed = sql.run("checkpoint_values.remove_unheld", line=line)
    lists = {row[0]: Value(*row) for row in sql.rows("checkpoint_values.lists_of_line", line=line)}
    layouts = {row: value.layout_of_list for row, value in lists.items()}
    held = {item for entry in _entries(sql, line) for item in entry.held.items()}
    needed: set[int] = set()
    named: set[int] = set()
    for row, value in lists.items():
        if (value.channel, value.version) in held:
            named.add(row)
            needed |= _made_of(row, layouts)
    unneeded = lists.keys() - needed
    if unneeded:
        removed += sql.run("checkpoint_values.remove", values=json.dumps(sorted(unneeded)))
    if needed - named:
        removed += sql.run("checkpoint_values.unname", values=json.dumps(sorted(needed - named)))
    if removed:
        sql.run("checkpoint_lines.collected", line=line)


def _made_of(row: int, layouts: Mapping[int, Layout]) -> set[int]:
    """The rows that a list is put together from; of one that lost a part, all that is left."""
    path: list[int] = []
    following: int | None = row
    while following is not None and following in layouts:
        path.append(following)
        following = layouts[following].base
    whole = following is None
    runs = unfolded(row, layouts) if whole else [run for one in path for run in layouts[one].runs]
    return {*path, *(run.row for run in runs)}
