"""Whose run this is: said by the application, never by a model."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.runtime import get_runtime

from hybrid_memory.errors import InvalidInput

# Whom LangGraph's platform has authenticated.
_AUTHENTICATED = "langgraph_auth_user_id"


class Run(NamedTuple):
    """Whose run it is, and of which conversation, if of any."""

    user_id: str
    thread_id: str | None


def run_of(config: RunnableConfig) -> Run:
    """The run that a node is part of."""
    return Run(user_of_run(config), thread_of(config))


def user_of_run(config: RunnableConfig) -> str:
    """The user of the run that a node is part of."""
    try:
        runtime: Any = get_runtime()
    except (RuntimeError, KeyError):  # outside a graph there is none
        runtime = None
    return user_of(config, getattr(runtime, "context", None))


def user_of(config: RunnableConfig, context: object) -> str:
    """The user that a run's context or its `configurable` names, as `user_id`.

    Raises:
        InvalidInput: nobody is named, or different users are.
    """
    configurable = config.get("configurable", {})
    places = {
        "context": context.get("user_id") if isinstance(context, Mapping) else getattr(context, "user_id", None),
        "configurable.user_id": configurable.get("user_id"),
        f"configurable.{_AUTHENTICATED}": configurable.get(_AUTHENTICATED),
    }
    named = {place: str(user_id) for place, user_id in places.items() if user_id}
    if not named:
        raise InvalidInput(
            "whose memory? Run the graph with config={'configurable': {'user_id': ...}} or context={'user_id': ...}"
        )
    if len(set(named.values())) > 1:
        raise InvalidInput(f"different users are named by {' and '.join(named)}")
    return next(iter(named.values()))


def thread_of(config: RunnableConfig) -> str | None:
    """The thread of a run, if it has one."""
    thread_id = config.get("configurable", {}).get("thread_id")
    return None if thread_id is None else str(thread_id)
