"""Memories as text for a prompt: the most relevant ones that fit, a line each, with their ids."""

import json
from collections.abc import Callable, Iterable, Mapping

from hybrid_memory.models import MemoryNode

CountTokens = Callable[[str], int]
_CHARACTERS_PER_TOKEN = 4
_LONGEST_LINE = 600


def approximate_tokens(text: str) -> int:
    """About how many tokens a text has, for whoever has no tokenizer at hand."""
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


def fitting_lines(nodes: Iterable[MemoryNode], max_tokens: int, count_tokens: CountTokens) -> str:
    """A line for each of `nodes`, in their order, as far as they fit; one that does not is left out, not cut."""
    text = ""
    for node in nodes:
        longer = f"{text}\n{line_of(node)}" if text else line_of(node)
        if count_tokens(longer) <= max_tokens:
            text = longer
    return text


def line_of(node: MemoryNode) -> str:
    """A memory on one line: what kind, since when, what, and its id."""
    since = f", {node.created_at.date().isoformat()}" if node.created_at else ""
    return f"- ({node.context_type}{since}) {_said(node)} [{node.node_id}]"


def _said(node: MemoryNode) -> str:
    content = node.content
    if node.text is not None:
        said = node.text
    elif node.context_type == "conversation_message" and isinstance(content, Mapping):
        said = f"{content.get('name') or content.get('role')}: {content.get('content')}"
    elif node.summary:
        said = node.summary
    else:
        said = json.dumps(content, ensure_ascii=False)
    said = " ".join(said.split())
    return said if len(said) <= _LONGEST_LINE else f"{said[: _LONGEST_LINE - 3]}..."
