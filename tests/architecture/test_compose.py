"""compose.yaml: a server that Settings can reach with the same variables, and nobody else from outside."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybrid_memory.settings import Settings, variable_of

FILE = Path(__file__).parents[2] / "compose.yaml"


@pytest.fixture
def service() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())["services"]["postgres"]
    return found


def test_every_variable_is_a_setting() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", FILE.read_text()))
    assert used == {"POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_PORT"}
    assert used <= {variable_of(field) for field in Settings.model_fields}


def test_the_password_is_required_and_written_nowhere(service: dict[str, Any]) -> None:
    assert service["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")


def test_only_this_machine_reaches_it(service: dict[str, Any]) -> None:
    assert service["ports"] == [f"127.0.0.1:${{POSTGRES_PORT:-{Settings().postgres_port}}}:5432"]


def test_the_image_has_pgvector_and_its_data_are_on_a_named_volume(service: dict[str, Any]) -> None:
    """From major version 18 on, the image wants its volume one folder higher than before."""
    major = int(service["image"].rpartition(":pg")[2])
    path = "/var/lib/postgresql" if major >= 18 else "/var/lib/postgresql/data"
    (volume,) = service["volumes"]
    assert service["image"].startswith("docker.io/pgvector/pgvector:"), "podman wants the registry spelled out"
    assert volume == f"postgres-data:{path}"
    assert "postgres-data" in yaml.safe_load(FILE.read_text())["volumes"]


def test_its_health_is_checked(service: dict[str, Any]) -> None:
    assert "pg_isready" in service["healthcheck"]["test"][1]
    assert "$$" in service["healthcheck"]["test"][1], "read inside the container, not by compose"
