"""What is kept of threads, and removing the rest of them, one thread at a time."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hybrid_memory.sqlite.checkpoints import upkeep
from hybrid_memory.sqlite.checkpoints.upkeep import Entry
from hybrid_memory.sqlite.connection import Statements

_LINES_PER_PAGE = 500
# The namespace of a subgraph's single call ends with the id of the task that called it.
_CALL = ":"


@dataclass(frozen=True, slots=True)
class Rule:
    """What is kept of a thread; None keeps everything. Ages in microseconds."""

    keep_last: int | None = None
    max_age: int | None = None
    max_idle: int | None = None

    @property
    def keeps_everything(self) -> bool:
        """Whether there is nothing to do."""
        return self == Rule()


@dataclass(frozen=True, slots=True)
class Removed:
    """What a sweep removed: checkpoints of remaining threads, and whole threads."""

    checkpoints: int = 0
    threads: int = 0

    def __add__(self, other: "Removed") -> "Removed":
        return Removed(self.checkpoints + other.checkpoints, self.threads + other.threads)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rule of all threads and those of single ones."""

    of_all: Rule
    of_threads: Mapping[str, Rule]

    def of(self, thread_id: str) -> Rule:
        """The rule of a thread."""
        return self.of_threads.get(thread_id, self.of_all)

    @property
    def keep_everything(self) -> bool:
        """Whether there is nothing to do."""
        return self.of_all.keeps_everything and all(one.keeps_everything for one in self.of_threads.values())


def set_rule(sql: Statements, thread_id: str, rule: Rule | None) -> None:
    """Give a thread a rule of its own, or (None) that of all."""
    if rule is None:
        sql.run("checkpoint_rules.remove_thread", thread_id=thread_id)
    else:
        sql.run(
            "checkpoint_rules.put",
            thread_id=thread_id,
            keep_last=rule.keep_last,
            max_age=rule.max_age,
            max_idle=rule.max_idle,
        )


def rules(sql: Statements, of_all: Rule) -> Rules:
    """All rules there are."""
    return Rules(of_all, {thread_id: Rule(*rule) for thread_id, *rule in sql.rows("checkpoint_rules.all")})


def candidates(sql: Statements, after: int, known: Rules, now: int) -> tuple[Sequence[str], int | None]:
    """The threads among the next lines of which something may have to go, and after which line to go on."""
    rows = sql.rows(
        "checkpoint_lines.size_of_page", after=after, page=_LINES_PER_PAGE, spared_until=now - upkeep.LONGEST_SUPERSTEP
    )
    found = dict.fromkeys(
        thread_id
        for _, thread_id, number, first, last, was_spared in rows
        if was_spared or (number and _may_shrink(known.of(thread_id), number, now - first, now - last))
    )
    return list(found), rows[-1][0] if len(rows) == _LINES_PER_PAGE else None


def apply(sql: Statements, thread_id: str, rule: Rule, now: int) -> Removed:
    """Remove what the rule does not keep of a thread.

    The newest checkpoint of each namespace stays, and so does a thread that waits for an answer.
    """
    lines: dict[int, str] = dict(sql.rows("checkpoint_lines.of_thread", thread_id=thread_id))
    newest = dict(_newest(sql, lines))
    root_id = next((entry.checkpoint_id for line, entry in newest.items() if not lines[line]), None)
    waiting = {line for line, entry in newest.items() if _waits(sql, line, entry, root_id)}
    active = max((entry.written_at for entry in newest.values()), default=now)
    if rule.max_idle is not None and now - active > rule.max_idle and not waiting:
        upkeep.remove_thread(sql, thread_id)
        return Removed(threads=1)
    choice = _choice(rule, now)
    removed = sum(upkeep.reduce_line(sql, line, choice, now=now) for line in lines)
    roots = {
        entry.checkpoint_id
        for line, namespace in lines.items()
        if not namespace
        for entry in upkeep.visible_entries(sql, line)
    }
    for line, namespace in lines.items():
        if _CALL in namespace and line not in waiting and _is_over(newest.get(line), roots):
            removed += upkeep.reduce_line(sql, line, lambda _: (), now=now)
            sql.run("checkpoint_lines.remove_if_empty", line=line)
    return Removed(checkpoints=removed)


def _may_shrink(rule: Rule, number: int, oldest: int, idle: int) -> bool:
    return (
        (rule.keep_last is not None and number > rule.keep_last)
        or (rule.max_age is not None and number > 1 and oldest > rule.max_age)
        or (rule.max_idle is not None and idle > rule.max_idle)
    )


def _newest(sql: Statements, lines: Collection[int]) -> Iterator[tuple[int, Entry]]:
    for line in lines:
        entries = upkeep.visible_entries(sql, line)
        if entries:
            yield line, entries[0]


def _waits(sql: Statements, line: int, entry: Entry, root_id: str | None) -> bool:
    """Whether it waits for an answer; a call does not any more when the graph around it has gone on without one."""
    if None not in (root_id, entry.root_id) and entry.root_id != root_id:
        return False
    return bool(sql.value("checkpoint_writes.place_of_interrupt", line=line, checkpoint_id=entry.checkpoint_id))


def _is_over(entry: Entry | None, roots: Collection[str]) -> bool:
    """Whether nothing leads to this call of a subgraph any more."""
    return entry is None or (entry.root_id is not None and entry.root_id not in roots)


def _choice(rule: Rule, now: int) -> Callable[[Sequence[Entry]], Collection[str]]:
    def choose(entries: Sequence[Entry]) -> Collection[str]:
        return [
            entry.checkpoint_id
            for place, entry in enumerate(entries)
            if place == 0
            or (
                (rule.keep_last is None or place < rule.keep_last)
                and (rule.max_age is None or now - entry.written_at <= rule.max_age)
            )
        ]

    return choose
