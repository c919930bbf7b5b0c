"""Which embedder a manager works with: the one it is given, else the one that the settings name."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from langchain_core.embeddings import Embeddings

from hybrid_memory.embeddings.adapted import AdaptedEmbedder, EmbeddingFunction
from hybrid_memory.embeddings.embedder import Embedder
from hybrid_memory.embeddings.local import LocalEmbedder
from hybrid_memory.embeddings.openai import DEFAULT_MODEL, OpenAIEmbedder
from hybrid_memory.errors import ConfigurationError
from hybrid_memory.settings import Settings, revealed

# `"provider:model"`, a LangChain `Embeddings`, a function of texts, sync or async, an `Embedder` of one's own, or the
# dict that LangGraph calls `index`: `{"embed": ..., "dims": ...}`.
EmbedderLike: TypeAlias = str | Embeddings | EmbeddingFunction | Embedder | Mapping[str, Any]


def chosen(given: EmbedderLike | None, settings: Settings) -> Embedder | None:
    """The embedder to work with; None: no text is made a vector, and none is sent anywhere.

    Raises:
        ConfigurationError: it cannot be what it is meant to be; the text says what to do.
    """
    if given is None:
        return named(settings.embedder, settings)
    source: Any = given
    dimensions: int | None = None
    if isinstance(given, Mapping):
        source, dimensions = given.get("embed"), given.get("dims")
    if isinstance(source, str):
        return named(source, settings)
    if isinstance(source, Embeddings):
        return AdaptedEmbedder(source, settings.embedder_timeout_seconds, dimensions=dimensions)
    if all(hasattr(source, name) for name in ("model", "dimensions", "documents", "query", "close")):
        own: Embedder = source
        return own
    if callable(source):
        return AdaptedEmbedder(source, settings.embedder_timeout_seconds, dimensions=dimensions)
    raise ConfigurationError(
        'embedder= takes "provider:model", a LangChain Embeddings, a function of texts, or LangGraph\'s '
        f'{{"embed": ..., "dims": ...}} with one of them, not {type(source).__name__}'
    )


def named(text: str, settings: Settings) -> Embedder | None:
    """The embedder of a `"provider:model"` string, `none` or `auto`."""
    if text == "none":
        return None
    seconds = settings.embedder_timeout_seconds
    if text == "auto":
        return _openai(DEFAULT_MODEL, settings) if settings.openai_api_key else None
    provider, _, model = text.partition(":")
    if not model:
        raise ConfigurationError(f'embedder is "none", "auto" or "provider:model", not {text!r}')
    if provider == "openai":
        return _openai(model, settings)
    if provider == "local":
        return LocalEmbedder(model, seconds)
    return AdaptedEmbedder(_langchains(text), seconds, model=text)


def _openai(model: str, settings: Settings) -> OpenAIEmbedder:
    if settings.openai_api_key is None:
        raise ConfigurationError(f"the embedder openai:{model} needs OPENAI_API_KEY")
    return OpenAIEmbedder(model, revealed(settings.openai_api_key), settings.embedder_timeout_seconds)


def _langchains(text: str) -> Embeddings:
    """Another provider, as LangGraph finds it: through the package `langchain` and the provider's own."""
    try:
        from langchain.embeddings import init_embeddings  # noqa: PLC0415 - not a dependency
    except ImportError as error:
        raise ConfigurationError(
            f"the embedder {text!r} is neither openai: nor local:, so it needs the package langchain and that of its "
            "provider"
        ) from error
    try:
        found = init_embeddings(text)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"the embedder {text!r} cannot be made: {error}") from error
    if not isinstance(found, Embeddings):
        raise ConfigurationError(f"the embedder {text!r} gives no Embeddings")
    return found
