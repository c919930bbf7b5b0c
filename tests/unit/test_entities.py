"""Which entity is meant, and what one call gathers of it: by ids, names and aliases, of the memory and of the call."""

from typing import Any

import pytest

from hybrid_memory import EntityRef, FoundEntity, Settings, UserMemory
from hybrid_memory.errors import InvalidInput
from hybrid_memory.graph.user_graph import UserGraph
from hybrid_memory.memory.border import Border
from hybrid_memory.memory.entities import Gathered
from hybrid_memory.memory.identities import Identities
from hybrid_memory.memory.identity import entity_node_id
from tests.support.graphs import USER, entity, everything, stub


def knowing(*nodes: Any) -> UserMemory:
    graph = UserGraph(USER)
    graph.apply(everything(nodes))
    return UserMemory(graph)


def gathered(*nodes: Any) -> Gathered:
    return Gathered(Border(Settings()), USER, Identities(knowing(*nodes).entities_called))


def found(entity_id: str | None = None, name: str | None = None, **fields: Any) -> FoundEntity:
    values: dict[str, Any] = {"entity_system": "crm", "entity_type": "account"}
    return FoundEntity(**values | {"entity_id": entity_id, "entity_name": name} | fields)


def node(entity_id: str, system: str = "crm") -> str:
    return entity_node_id(USER, system, entity_id)


KNOWN = entity(1, "A1", "GenePoint", content={"aliases": ["GP"], "other_ids": ["x9", "42"]})


class TestWhoIsMeant:
    @pytest.mark.parametrize(
        ("ref", "own_id"),
        [
            (EntityRef("crm", "A1"), "A1"),
            (EntityRef("crm", "x9"), "A1"),
            (EntityRef("crm", "X9"), "X9"),
            (EntityRef("crm", "GP"), "GP"),
            (EntityRef("mail", "x9"), "x9"),
            (EntityRef("crm", "42", "account"), "A1"),
            (EntityRef("crm", "42", "order"), "42"),
            (EntityRef("crm", None, "Account", " genepoint "), "A1"),
            (EntityRef("crm", None, "account", "gp"), "A1"),
            (EntityRef("crm", None, "person", "gp"), "name:person:gp"),
            (EntityRef("mail", None, "account", "gp"), "name:account:gp"),
            (EntityRef("crm", None, "account"), None),
            (EntityRef("crm", None, None, "gp"), None),
        ],
    )
    def test_a_reference(self, ref: EntityRef, own_id: str | None) -> None:
        assert Identities(knowing(KNOWN).entities_called).of(ref) == own_id

    def test_two_of_one_name_are_not_told_apart_by_it(self) -> None:
        twice = Identities(knowing(KNOWN, entity(2, "A2", "genepoint")).entities_called)
        assert twice.of(EntityRef("crm", None, "account", "GenePoint")) == "name:account:genepoint"
        assert twice.system_of("account", "GenePoint") == "crm"

    def test_what_the_call_itself_tells(self) -> None:
        here = Identities(knowing().entities_called)
        assert here.of_found(found("INC1", "Mail down", other_ids=["f" * 32])) == "INC1"
        assert here.of(EntityRef("crm", "f" * 32)) == "INC1"
        assert here.of(EntityRef("crm", None, "account", "mail down")) == "INC1"

    def test_a_place_that_is_kept_under_another_id_is_filled(self) -> None:
        identities = Identities(knowing(stub(1, "f" * 32)).entities_called)
        assert identities.of_found(found("INC1", other_ids=["f" * 32])) == "f" * 32


class TestGathering:
    def test_records_of_one_entity_become_one_write(self) -> None:
        one = gathered()
        assert one.add(found("A2", "First", data={"a": 1, "b": 1}, aliases=["x"])) == node("A2")
        one.add(found("A2", "Second", data={"b": 2}, other_ids=["7"], confidence=0.5))
        one.add(found("A2", data={"c": 3}))
        (write,) = one.writes()
        assert (write.kind, write.row["node_id"], write.row["confidence"]) == ("entities", node("A2"), 0.9)
        assert write.row["content"] == {
            "entity_id": "A2", "entity_system": "crm", "entity_type": "account", "entity_name": "First",
            "entity_data": {"a": 1, "b": 2, "c": 3}, "aliases": ["Second", "x"], "other_ids": ["7"],
        }  # fmt: skip

    def test_a_reference_is_a_stub_unless_it_tells_a_name(self) -> None:
        one = gathered(KNOWN)
        told = one.refer(EntityRef("crm", "B1", "person", "Bo"))
        assert [one.refer(EntityRef("crm", "C1", "person")) for _ in range(2)] == [node("C1")] * 2
        assert one.refer(EntityRef("crm", "A1", "account", "GP")) == node("A1")
        rows = {write.row["node_id"]: write.row for write in one.writes()}
        assert rows.keys() == {told, node("C1"), node("A1")}
        assert [rows[one]["metadata"] for one in (told, node("C1"), node("A1"))] == [{}, {"stub": True}, {"stub": True}]
        assert one.ids == (told,), "what is known by that name already is told nothing new"

    @pytest.mark.parametrize("order", ["record first", "reference first"])
    def test_a_record_takes_the_place_of_a_reference(self, order: str) -> None:
        one = gathered()
        if order == "reference first":
            one.refer(EntityRef("crm", "A2"))
        assert one.add(found("A2", "First")) == one.refer(EntityRef("crm", "A2")) == node("A2")
        (write,) = one.writes()
        assert write.row["metadata"] == {}

    def test_who_is_met_by_an_alias_is_not_renamed(self) -> None:
        one = gathered(KNOWN)
        assert one.add(found(None, "gp", data={"a": 1})) == node("A1")
        (write,) = one.writes()
        assert "entity_name" not in write.row["content"]

    def test_relations_are_there_once_and_both_ways(self) -> None:
        one = gathered()
        for _ in range(2):
            one.join_both_ways("a", "belongs_to", "b")
            one.join_both_ways("b", "has", "a")
            one.join_both_ways("a", "created_by", "b")
            one.join_both_ways("a", "owns", "a")
        assert {tuple(list(write.row.values())[:3]) for write in one.writes()} == {
            ("a", "b", "belongs_to"), ("b", "a", "has"), ("a", "b", "created_by"),
        }  # fmt: skip
        assert one.edge_count == 3

    @pytest.mark.parametrize(
        "wrong",
        [
            found(), found("", "n"), found("1", ""), found("\x00"), found("1", "\ud800"), found("1", entity_type=""),
            found("1", entity_system=7), found("1", data={"a": b"x"}), found("1", aliases="x"), found(1),  # type: ignore[arg-type] # that is what is wrong
            found("1", confidence=2), found("1", other_ids=[""]), found("x" * 2_000), found(None, "n" * 2_000),
        ],
    )  # fmt: skip
    def test_what_cannot_be_stored_is_refused(self, wrong: FoundEntity) -> None:
        one = gathered()
        with pytest.raises(InvalidInput):
            one.add(wrong)
        assert one.writes() == []


def test_names_are_forgotten_with_what_had_them() -> None:
    graph = UserGraph(USER)
    memory = UserMemory(graph)
    graph.apply(everything([KNOWN, entity(2, "A2", "GP Inc", content={"aliases": ["GP", "gp"]})]))
    assert [one.node_id for one, _ in memory.entities_called("gp")] == [KNOWN.node_id, entity(2, "", "").node_id][::-1]
    graph.apply(everything([entity(2, "A2", "GP Inc", content={"aliases": []})], version=2))
    assert memory.entities_called("gp") == []
    assert [by for _, by in memory.entities_called("gp inc")] == ["name"]
    assert memory.find_entity("A1") is None


def test_a_stub_is_called_by_its_id_and_shown_to_nobody() -> None:
    memory = knowing(stub(1, "A1"))
    assert [by for _, by in memory.entities_called("a1")] == ["id"]
    assert memory.find_entity("A1") is None
    assert memory.retrieve_relevant("A1") == []
