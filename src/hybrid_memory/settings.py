"""The settings: the one place that reads the environment and `.env`."""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import Stemmer
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from hybrid_memory.errors import ConfigurationError

PREFIX = "HYBRID_MEMORY_"
_PROBABLY_MEANT = 0.85


def _hidden(value: object) -> object:
    return SecretStr(value) if isinstance(value, str) else value


# Callers may give a plain string; it is kept as a SecretStr, which does not show.
Secret = Annotated[SecretStr | str, BeforeValidator(_hidden)]
Percent = Annotated[float, Field(ge=0, le=100)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Interval = Annotated[float, Field(ge=0, le=86_400)]
Port = Annotated[int, Field(ge=1, le=65_535)]


class Settings(BaseSettings):
    """How this process reaches its databases and how it behaves.

    Keywords beat the environment, the environment beats a `.env` file in the working directory. A keyword is the
    variable's name in lower case, without the `HYBRID_MEMORY_` prefix where it has one. Empty variables count as
    not set. The object is frozen; passwords and keys do not show in its `repr`.

    Raises:
        ConfigurationError: one line per bad value, naming the variable and what is allowed.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: Secret | None = Field(
        default=None,
        validation_alias="DATABASE_URL",
        description="Postgres as one URL; wins over the `POSTGRES_*` parts. Several hosts are separated by commas",
    )
    postgres_host: str = Field(
        default="localhost",
        validation_alias="POSTGRES_HOST",
        description="Host, socket directory, or several hosts separated by commas",
    )
    postgres_port: Port = Field(default=5432, validation_alias="POSTGRES_PORT", description="Port")
    postgres_db: str | None = Field(
        default=None, validation_alias="POSTGRES_DB", description="Database; the user's name when not set"
    )
    postgres_user: str | None = Field(
        default=None, validation_alias="POSTGRES_USER", description="Role; the system user when not set"
    )
    postgres_password: Secret | None = Field(
        default=None, validation_alias="POSTGRES_PASSWORD", description="Password of that role"
    )
    postgres_pool_size: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=20, validation_alias="POSTGRES_POOL_SIZE", description="Most connections this process opens"
    )
    postgres_pool_min_size: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=2, validation_alias="POSTGRES_POOL_MIN_SIZE", description="Connections kept open"
    )
    postgres_ssl: Literal["false", "true", "require", "verify-full"] = Field(
        default="false",
        validation_alias="POSTGRES_SSL",
        description="`false`, `true` and `require` (encrypted, certificate not checked) or `verify-full`; "
        "beats the URL's `sslmode`, which decides when this is not set",
    )
    postgres_ssl_root_cert: Path | None = Field(
        default=None,
        validation_alias="POSTGRES_SSL_ROOT_CERT",
        description="Certificate authority for `verify-full`; the system's trust store when not set",
    )
    postgres_listen_url: Secret | None = Field(
        default=None,
        validation_alias="POSTGRES_LISTEN_URL",
        description="A direct connection when the main one goes through a pooler; migrations use it too",
    )
    memory_type: Literal["hybrid", "postgres", "sqlite"] = Field(
        default="hybrid",
        validation_alias="MEMORY_TYPE",
        description="`hybrid` (`postgres` means the same) or `sqlite`: local only, no Postgres",
    )
    openai_api_key: Secret | None = Field(
        default=None,
        validation_alias="OPENAI_API_KEY",
        description="Key for OpenAI embeddings; alone it sends nothing anywhere",
    )

    data_dir: Path = Field(default=Path("./.hybrid_memory"), description="Where local data lives")
    # Postgres cuts identifiers at 63 bytes without an error.
    schema_name: str = Field(
        default="memory",
        alias="schema",
        validation_alias=f"{PREFIX}SCHEMA",
        description="Postgres schema of all tables",
    )
    migration_url: Secret | None = Field(
        default=None, description="Connection of the role that owns the schema, when it is not the running one"
    )
    pooler: bool | None = Field(
        default=None,
        description="`true` behind PgBouncer in transaction mode; assumed when `POSTGRES_LISTEN_URL` is set",
    )
    connect_timeout_seconds: Seconds = Field(default=10, description="Deadline for opening a connection")
    command_timeout_seconds: Seconds = Field(
        default=30, description="Deadline for one call to Postgres, waiting included"
    )
    close_timeout_seconds: Seconds = Field(default=10, description="Deadline for closing")
    migration_timeout_seconds: Seconds = Field(default=120, description="Longest wait for another process's migration")
    max_staleness_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=60, description="Age at which a cached memory is compared with Postgres again"
    )
    poll_interval_seconds: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=5,
        description="How often other processes' changes are asked for while they cannot be heard; a third as often "
        "while they are",
    )
    listen: bool = Field(
        default=True,
        description="Hear of other processes' changes on a connection of its own; `false`: ask for them",
    )
    max_loaded_users: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=1000, description="Users whose memory a process keeps at hand; the least recently used leave"
    )
    max_held_memories: Annotated[int, Field(ge=1)] = Field(
        default=100_000, description="A user with more memories is not loaded for a question: Postgres is asked"
    )
    max_cache_bytes: Annotated[int, Field(ge=0, le=10**12)] = Field(
        default=1_000_000_000,
        description="Size of users' copies in `cache.db`, and of vectors; the least recently used leave, 0 keeps none",
    )
    max_cache_days: Annotated[float, Field(gt=0, le=3650)] = Field(
        default=30, description="Days after which the copy of a user that nobody used leaves `cache.db`"
    )
    stats_interval_seconds: Interval = Field(
        default=300, description="How often one of all processes refreshes the statistics views; `0`: only on demand"
    )
    sweep_interval_seconds: Interval = Field(
        default=300, description="How often one of all processes removes what has expired; `0`: only `cleanup()` does"
    )
    access_interval_seconds: Interval = Field(
        default=30, description="How often counted reads are written to Postgres; `0`: only when closing"
    )
    retention_days: Annotated[float, Field(gt=0, le=36_500)] = Field(
        default=30,
        description="How long deletions, and how far each process had written, are remembered for caches and replays",
    )
    note_retention_days: Annotated[float, Field(ge=0, le=36_500)] = Field(
        default=30, description="Notes of threads in which nothing was noted for so long are removed; `0`: never"
    )
    rollout_percent: Percent = Field(default=100, description="Share of users persisted to Postgres, stable per user")
    allowed_types: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Types that checkpoints may restore, `module:Name,...`"
    )
    extractor_timeout_seconds: Seconds = Field(
        default=30, description="Deadline for a chat model that looks for entities in what a tool returned"
    )
    language: str = Field(
        default="english",
        description="Language of the memories' words, for their stems: "
        "`english`, `portuguese` or another that Snowball has",
    )
    embedder: str = Field(default="none", description="`none`, `auto` (OpenAI when its key is set) or `provider:model`")
    embedder_timeout_seconds: Seconds = Field(
        default=30, description="Deadline for the embedder to answer one batch of texts, its retries included"
    )
    checkpointer: Literal["hybrid", "upstream"] = Field(
        default="hybrid", description="`hybrid` or `upstream`: the stock `AsyncSqliteSaver`"
    )
    checkpoint_durability: Literal["full", "normal"] = Field(
        default="full",
        description="`full`: a checkpoint survives a loss of power; `normal`: the end of the process, and is faster",
    )
    checkpoints_kept: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="How many of the newest checkpoints of a thread are kept; all when not set"
    )
    checkpoint_max_age_seconds: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Age from which a checkpoint is removed, unless it is the newest of its thread"
    )
    thread_max_idle_seconds: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Time without activity after which a thread is removed, unless it waits for an answer",
    )
    checkpoint_sweep_seconds: Seconds = Field(
        default=3600, description="How often a manager removes checkpoints that are not to be kept"
    )
    store_search: Literal["hybrid", "vector"] = Field(
        default="hybrid", description="`hybrid` (lexical and vector) or `vector` (cosine scores only)"
    )
    store_freshness: Literal["bounded", "strong"] = Field(
        default="bounded",
        description="`bounded`: a read of the store is at most `MAX_STALENESS_SECONDS` behind other processes; "
        "`strong`: it asks Postgres first, and fails without it",
    )
    store_ttl_minutes: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="After how many minutes without being read an item of the store expires; never when not set",
    )
    store_across_owners: bool = Field(
        default=True, description="Whether a search or list of the store may be about several owners at once"
    )
    max_content_bytes: Annotated[int, Field(ge=1, le=50_000_000)] = Field(
        default=1_000_000, description="Largest content of one memory"
    )
    max_user_id_bytes: Annotated[int, Field(ge=1, le=1_000)] = Field(default=256, description="Longest user id")
    max_key_bytes: Annotated[int, Field(ge=1, le=2_000)] = Field(
        default=1_000, description="Longest key with its namespace"
    )
    max_outbox_operations: Annotated[int, Field(ge=1, le=100_000_000)] = Field(
        default=1_000_000, description="Most writes kept in `state.db` while Postgres does not answer"
    )
    max_outbox_bytes: Annotated[int, Field(ge=1_000_000)] = Field(
        default=1_000_000_000, description="Most bytes of their contents"
    )
    max_depth: Annotated[int, Field(ge=1, le=1_000)] = Field(default=200, description="Deepest nesting of a content")

    if not TYPE_CHECKING:  # type checkers keep the keywords that pydantic derives from the fields

        def __init__(self, **keywords: Any) -> None:
            names = {keyword_of(field): _input_name(field) for field in Settings.model_fields} | {
                "_env_file": "_env_file"
            }
            unknown = sorted(set(keywords) - set(names))
            if unknown:
                raise ConfigurationError("\n".join(_unknown_keyword(name) for name in unknown))
            try:
                super().__init__(**{names[keyword]: value for keyword, value in keywords.items()})
            except ValidationError as error:
                raise ConfigurationError(_explain(error)) from None

    @classmethod
    def without_environment(cls, **keywords: Any) -> "Settings":
        """Keywords and defaults alone: neither the environment nor `.env` is read."""
        return _KeywordsOnly(**keywords)

    @field_validator("schema_name")
    @classmethod
    def _schema_fits_an_identifier(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", value) or value.lower().startswith("pg_"):
            raise ValueError("letters, digits and _, at most 63, not beginning with a digit or pg_")
        return value

    @field_validator("allowed_types", mode="before")
    @classmethod
    def _split_types(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("allowed_types")
    @classmethod
    def _types_have_a_module(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not re.fullmatch(r"[\w.]+:[\w.]+", name):
                raise ValueError("`module:Name`, several separated by commas")
        return value

    @field_validator("language")
    @classmethod
    def _language_has_stems(cls, value: str) -> str:
        if value not in (known := Stemmer.algorithms()):
            raise ValueError(f"one of {', '.join(sorted(known))}")
        return value

    @field_validator("embedder")
    @classmethod
    def _embedder_has_a_provider(cls, value: str) -> str:
        if value not in ("none", "auto") and not re.fullmatch(r"[^:\s]+:\S+", value):
            raise ValueError("`none`, `auto` or `provider:model`")
        return value

    @property
    def server_is_configured(self) -> bool:
        """Whether somebody named a Postgres server; then the embedded one is never used instead."""
        named = {"database_url", "postgres_host", "postgres_db", "postgres_user", "postgres_password"}
        return any(getattr(self, name) for name in named & self.model_fields_set)

    @property
    def behind_pooler(self) -> bool:
        """Whether the main connection goes through a pooler that shares sessions."""
        return self.postgres_listen_url is not None if self.pooler is None else self.pooler


class _KeywordsOnly(Settings):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def revealed(secret: SecretStr | str) -> str:
    """The text of a secret setting, for the driver that needs it."""
    return secret.get_secret_value() if isinstance(secret, SecretStr) else secret


def variable_of(field: str) -> str:
    """The environment variable of a field of `Settings`."""
    alias = Settings.model_fields[field].validation_alias
    return str(alias) if alias else PREFIX + field.upper()


def keyword_of(field: str) -> str:
    """The keyword of a field of `Settings`."""
    return variable_of(field).removeprefix(PREFIX).lower()


def misspelled(environment: Mapping[str, str] | None = None) -> list[str]:
    """One line per variable that was surely or probably meant to be a setting and is none."""
    known = [variable_of(field) for field in Settings.model_fields]
    shared = [name for name in known if not name.startswith(PREFIX)]
    lines = []
    for name in sorted(os.environ if environment is None else environment):
        if name in known:
            continue
        if name.startswith(PREFIX):
            own = name.removeprefix(PREFIX)
            meant = [other for other in shared if own in (other, other.removeprefix("POSTGRES_"))]
            lines.append(f"{name} is not a setting{_suggestion(name, known, meant)}")
        elif close := difflib.get_close_matches(name, shared, n=1, cutoff=_PROBABLY_MEANT):
            lines.append(f"{name} is not a setting; did you mean {close[0]}?")
    return lines


def _suggestion(name: str, known: list[str], meant: Sequence[str] = ()) -> str:
    close = [*meant, *difflib.get_close_matches(name, known, n=1)]
    return f"; did you mean {close[0]}?" if close else ""


def _unknown_keyword(name: str) -> str:
    known = [keyword_of(field) for field in Settings.model_fields]
    return f"Settings() has no keyword {name!r}{_suggestion(name, known)}"


def _input_name(field: str) -> str:
    return str(Settings.model_fields[field].validation_alias or field)


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        where = str(problem["loc"][0])
        variable = variable_of(where) if where in Settings.model_fields else where
        allowed = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        lines.append(f"{variable}: allowed is {allowed}")
    return "\n".join(lines)
