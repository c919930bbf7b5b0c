"""How a copy of a user's memory comes to `state.db`: portion by portion, seen by nobody until it is whole."""

from hybrid_memory.errors import StorageRejected
from hybrid_memory.sqlite.connection import Statements
from hybrid_memory.sqlite.local_rows import LocalRows, LocalState
from hybrid_memory.stamped import Changes


def begin_copy(sql: Statements, user_id: str) -> None:
    """Remove an earlier copy, whole or half.

    Raises:
        StorageRejected: what is here is no copy: Postgres does not have it.
    """
    rows = LocalRows(sql, user_id)
    state = rows.state()
    if state is not None and not state.is_copy:
        raise StorageRejected(f"user {user_id!r} has a memory in state.db that was not uploaded yet")
    rows.forget_everything()


def add_to_copy(sql: Statements, user_id: str, portion: Changes, version: int) -> None:
    """Keep some rows of version `version` or before, and what Postgres has counted of them.

    Raises:
        StorageRejected: in the meantime somebody wrote for the user here.
    """
    rows = LocalRows(sql, user_id)
    _check_unseen(rows, user_id)
    rows.keep(portion, version)
    for one in portion.nodes.values():
        reports = int(one.node.content.get("update_count") or 0) if one.node.context_type == "domain_entity" else 0
        if reports or one.node.access_count:
            rows.counts_elsewhere(one.node.node_id, reports, one.node.access_count)


def finish_copy(sql: Statements, user_id: str, state: LocalState) -> None:
    """Let the copy be seen, as a memory of its own life.

    Raises:
        StorageRejected: in the meantime somebody wrote for the user here.
    """
    rows = LocalRows(sql, user_id)
    _check_unseen(rows, user_id)
    rows.keep_state(state)


def _check_unseen(rows: LocalRows, user_id: str) -> None:
    if rows.state() is not None:
        raise StorageRejected(f"user {user_id!r} was written for in state.db while a copy was made")
