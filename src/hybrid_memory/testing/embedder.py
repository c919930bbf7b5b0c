"""An embedder whose vectors anybody can work out: how often a text has which words."""

import math
import re
import zlib
from collections.abc import Iterable

from langchain_core.embeddings import Embeddings

DIMENSIONS = 256


class WordCounts(Embeddings):
    """Counts words by a hash of each; texts that share none are at right angles, but for rare collisions."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector per text."""
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """The vector of a text."""
        counts = [0.0] * DIMENSIONS
        for word in re.findall(r"\w+", text.lower()):
            counts[zlib.crc32(word.encode()) % DIMENSIONS] += 1
        # A text without words has a direction, too.
        return counts if any(counts) else [1.0] * DIMENSIONS


def similarity(query: str, texts: Iterable[str]) -> float:
    """The cosine between a query and the nearest of some texts."""
    embedder = WordCounts()
    wanted = embedder.embed_query(query)
    return max(_cosine(wanted, embedder.embed_query(text)) for text in texts)


def _cosine(one: list[float], other: list[float]) -> float:
    product = sum(left * right for left, right in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))
