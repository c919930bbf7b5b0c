"""Settings: names, precedence, secrets, and what a bad value says."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from hybrid_memory import Settings
from hybrid_memory.errors import ConfigurationError
from hybrid_memory.settings import keyword_of, misspelled, variable_of

SECRET = "s3cr3t-w0rd"


def test_keywords_beat_the_environment_and_the_environment_beats_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("POSTGRES_PORT=1111\nPOSTGRES_DB=file\nPOSTGRES_USER=file\nOTHER=ignored\n")
    monkeypatch.setenv("POSTGRES_DB", "environment")
    monkeypatch.setenv("POSTGRES_USER", "environment")
    settings = Settings(postgres_user="keyword")
    assert (settings.postgres_port, settings.postgres_db, settings.postgres_user) == (1111, "environment", "keyword")


def test_the_schema_has_a_keyword_and_a_variable_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEMA", "not_ours")
    assert Settings().schema_name == "memory"
    monkeypatch.setenv("HYBRID_MEMORY_SCHEMA", "agents")
    assert Settings().schema_name == "agents"
    assert Settings(schema="Mine").schema_name == "Mine"


def test_a_prefixed_name_does_not_set_a_shared_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_MEMORY_DATABASE_URL", "postgresql://somewhere/else")
    assert not Settings().server_is_configured
    assert misspelled() == ["HYBRID_MEMORY_DATABASE_URL is not a setting; did you mean DATABASE_URL?"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("POSTGRES_HOTS", "POSTGRES_HOST"),
        ("DATABSE_URL", "DATABASE_URL"),
        ("HYBRID_MEMORY_POOL_SIZE", "POSTGRES_POOL_SIZE"),
        ("HYBRID_MEMORY_DATADIR", "HYBRID_MEMORY_DATA_DIR"),
    ],
)
def test_a_probable_setting_is_named(name: str, meant: str) -> None:
    assert misspelled({name: "x"}) == [f"{name} is not a setting; did you mean {meant}?"]


def test_variables_of_other_programs_are_left_alone() -> None:
    assert misspelled({"POSTGRES_INITDB_ARGS": "x", "PATH": "x", "DATABASE_HOST_OF_OURS": "x"}) == []


@pytest.mark.parametrize("name", ["DATABASE_URL", "POSTGRES_HOST", "POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD"])
def test_any_of_these_means_that_a_server_is_configured(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert not Settings().server_is_configured
    monkeypatch.setenv(name, "")
    assert not Settings().server_is_configured, "an empty variable is not set"
    monkeypatch.setenv(name, "postgresql://localhost/x")
    assert Settings().server_is_configured


def test_a_port_alone_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PORT", "5433")
    assert not Settings().server_is_configured


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("POSTGRES_PORT", "none", "integer"),
        ("POSTGRES_PORT", "70000", "65535"),
        ("POSTGRES_SSL", "maybe", "'false', 'true', 'require' or 'verify-full'"),
        ("MEMORY_TYPE", "redis", "'hybrid', 'postgres' or 'sqlite'"),
        ("HYBRID_MEMORY_SCHEMA", 'a"; drop', "letters"),
        ("HYBRID_MEMORY_SCHEMA", "pg_mine", "not beginning with a digit or pg_"),
        ("HYBRID_MEMORY_ROLLOUT_PERCENT", "101", "100"),
        ("HYBRID_MEMORY_EMBEDDER", "best", "`provider:model`"),
        ("HYBRID_MEMORY_ALLOWED_TYPES", "json", "`module:Name`"),
        ("HYBRID_MEMORY_CHECKPOINTER", "redis", "'hybrid' or 'upstream'"),
    ],
)
def test_a_bad_value_is_one_line_with_the_variable_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        Settings()
    text = str(caught.value)
    assert text.startswith(f"{variable}: allowed is ")
    assert allowed in text
    assert "\n" not in text


def test_a_misspelled_keyword_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigurationError, match="no keyword 'datadir'; did you mean data_dir"):
        Settings(datadir="x")  # type: ignore[call-arg]


def test_secrets_show_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in ("database_url", "postgres_password", "postgres_listen_url", "openai_api_key", "migration_url"):
        monkeypatch.setenv(variable_of(field), f"postgresql://me:{SECRET}@host/db")
    settings = Settings()
    assert SECRET not in repr(settings) + str(settings) + str(settings.model_dump()) + settings.model_dump_json()
    monkeypatch.setenv("POSTGRES_PORT", SECRET)
    with pytest.raises(ConfigurationError) as caught:
        Settings()
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().postgres_port = 1


def test_types_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_MEMORY_ALLOWED_TYPES", "app.state:State, app.state:Plan")
    assert Settings().allowed_types == ("app.state:State", "app.state:Plan")


def test_a_listen_url_means_a_pooler_unless_said_otherwise() -> None:
    assert not Settings().behind_pooler
    assert Settings(postgres_listen_url="postgresql://direct/db").behind_pooler
    assert not Settings(postgres_listen_url="postgresql://direct/db", pooler=False).behind_pooler


def test_nothing_of_the_environment_reaches_settings_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("POSTGRES_DB=file\n")
    monkeypatch.setenv("DATABASE_URL", "postgresql://prod/prod")
    settings = Settings.without_environment(data_dir=tmp_path)
    assert not settings.server_is_configured
    assert settings.data_dir == tmp_path


def test_keywords_are_the_variables_in_lower_case() -> None:
    assert keyword_of("schema_name") == "schema"
    assert keyword_of("data_dir") == "data_dir"
    assert keyword_of("postgres_ssl") == "postgres_ssl"
