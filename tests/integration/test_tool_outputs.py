"""What tools return, in real Postgres: the memory, its entities, their names, and those that are not there yet."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

from hybrid_memory import EntityRef, FoundEntity, HybridMemoryManager, UserMemory
from hybrid_memory.errors import ConfigurationError, InvalidInput, UnknownMemory
from hybrid_memory.memory.extraction.search import MOST_ENTITIES
from hybrid_memory.memory.identity import entity_node_id
from hybrid_memory.postgres.target import Targets
from tests.support.managers import settings_for
from tests.support.proxy import FaultProxy
from tests.support.recording import Recorded
from tests.support.servers import administration
from tests.support.tool_results import (
    ACCOUNT,
    CALLER,
    INCIDENT,
    OPPORTUNITY,
    OWNER,
    account,
    incident,
    jira_issue,
    jira_user,
    opportunity,
    reference,
    related,
    soql,
    table,
)


def edges(memory: UserMemory) -> set[tuple[str, str, str]]:
    """The relationships by what their ends are called; a stub by its node."""
    names = {
        node.node_id: str(node.content.get("entity_name") or node.content.get("tool_name") or node.text)
        for node in memory.get_all_nodes()
    }
    return {
        (
            names.get(edge.from_node_id, edge.from_node_id),
            edge.relationship_type,
            names.get(edge.to_node_id, edge.to_node_id),
        )
        for edge in memory.get_all_edges()
    }


def entities(memory: UserMemory) -> dict[str, Any]:
    """The contents of the entities by their ids."""
    return {
        node.content["entity_id"]: node.content
        for node in memory.get_all_nodes()
        if node.context_type == "domain_entity"
    }


class TestRemembering:
    async def test_the_output_its_entities_and_their_relations(
        self, manager: HybridMemoryManager, other: HybridMemoryManager, events: Recorded
    ) -> None:
        result = soql(account(OwnerId=OWNER, Owner=related("User", OWNER, "Ann Lee")), opportunity())
        done = await manager.remember_tool_output("nick", "sf_query", {"q": "select"}, result, thread_id="t")
        memory = await other.ensure_user_memories("nick")
        node = memory.get_node(done.node_id)
        assert node is not None
        assert node.content == {"tool_name": "sf_query", "arguments": {"q": "select"}, "result": result}
        assert (node.context_type, node.tags, node.thread_id) == ("tool_output", ("sf_query",), "t")
        assert node.summary == "sf_query: GenePoint, GenePoint Generator"
        assert edges(memory) == {
            ("sf_query", "produces", "GenePoint"), ("sf_query", "produces", "GenePoint Generator"),
            ("sf_query", "mentions", "Ann Lee"), ("GenePoint", "owned_by", "Ann Lee"),
            ("Ann Lee", "owns", "GenePoint"), ("GenePoint Generator", "belongs_to", "GenePoint"),
            ("GenePoint", "has", "GenePoint Generator"),
        }  # fmt: skip
        found = memory.find_entity(ACCOUNT)
        assert found is not None
        assert found.node_id in done.entity_ids
        assert {memory.get_node(one).content["entity_name"] for one in done.entity_ids} == {  # type: ignore[union-attr]
            "GenePoint", "GenePoint Generator", "Ann Lee",
        }  # fmt: skip
        (report,) = events.named("tool_output_remembered")
        assert (report["user_id"], report["node_id"], report["entities"]) == ("nick", done.node_id, 3)
        assert "GenePoint" not in str(events.seen)

    async def test_all_of_a_call_is_one_statement(self, manager: HybridMemoryManager, events: Recorded) -> None:
        await manager.ensure_user_memories("nick")
        records = [account(f"Account {number}", f"001Hs0000{number:06}AAA") for number in range(60)]
        done = await manager.remember_tool_output("nick", "query", None, soql(*records, *[opportunity()] * 3))
        assert len(done.entity_ids) == 61
        assert [one["query"] for one in events.named("postgres_statement")].count("batches.apply") == 1

    async def test_the_same_output_again_is_one_memory_and_another_report(self, manager: HybridMemoryManager) -> None:
        first = await manager.remember_tool_output("nick", "query", {}, soql(account()))
        again = await manager.remember_tool_output("nick", "query", {}, soql(account()))
        assert first == again
        memory = await manager.ensure_user_memories("nick")
        assert len(memory.get_all_nodes()) == 2
        assert entities(memory)[ACCOUNT]["update_count"] == 2
        assert edges(memory) == {("query", "produces", "GenePoint")}

    async def test_forms_of_a_result(self, manager: HybridMemoryManager) -> None:
        text = json.dumps(soql(account()))
        for number, result in enumerate(
            (text, ToolMessage(content=text, tool_call_id="c1"), [{"type": "text", "text": text}], {"payload": text})
        ):
            user = f"user {number}"
            done = await manager.remember_tool_output(user, "query", {}, result)
            memory = await manager.ensure_user_memories(user)
            assert edges(memory) == {("query", "produces", "GenePoint")}
            assert [node.node_id for node in memory.get_all_nodes() if node.context_type == "tool_output"] == [
                done.node_id
            ]

    @pytest.mark.parametrize("result", [None, "", "plain words", [], {}, b"\x00\xff", object(), float("nan")])
    async def test_a_result_without_records_is_remembered(self, manager: HybridMemoryManager, result: Any) -> None:
        done = await manager.remember_tool_output("nick", "tool", None, result)
        assert await manager.get_node("nick", done.node_id) is not None
        assert (done.entity_ids, done.left_out) == ((), 0)

    async def test_two_users_of_one_account_have_an_entity_each(
        self, manager: HybridMemoryManager, other: HybridMemoryManager, targets: Targets
    ) -> None:
        await asyncio.gather(
            manager.remember_tool_output("nick", "query", {}, soql(account(Phone="1"))),
            other.remember_tool_output("eve", "query", {}, soql(account("Gene Point", Phone="2"), opportunity())),
        )
        nick, eve = [await manager.ensure_user_memories(user) for user in ("nick", "eve")]
        assert nick.find_entity(ACCOUNT).content["entity_data"]["Phone"] == "1"  # type: ignore[union-attr]
        assert eve.find_entity(ACCOUNT).content["entity_data"]["Phone"] == "2"  # type: ignore[union-attr]
        assert nick.find_entity("Gene Point") is None
        assert nick.find_entity(OPPORTUNITY) is None
        async with administration(targets) as outside:
            rows = await outside.fetch(
                "select user_id, node_id from memory.nodes where content->>'entity_id' = $1", ACCOUNT
            )
            assert {row["user_id"] for row in rows} == {"nick", "eve"}
            assert len({row["node_id"] for row in rows}) == 2
            across = "select count(*) from memory.relationships r join memory.nodes n on n.node_id in (r.from_node_id,"
            assert await outside.fetchval(f"{across} r.to_node_id) where n.user_id <> r.user_id") == 0


class TestHostileResults:
    async def test_nothing_is_refused(self, manager: HybridMemoryManager) -> None:
        loop: dict[str, Any] = {}
        loop["self"] = loop
        deep: Any = "end"
        for _ in range(5_000):
            deep = [deep]
        results = [
            loop, deep, {"nul": "a\x00b", "half": "\ud800", 1: {2, 3}}, "x" * 3_000_000, ['"\\' * 10] * 80_000,
            list(range(200_000)), {"id": "y" * 5_000, "name": "too long an id", "type": "t"},
            {"id": "1", "name": "n" * 5_000, "type": "t"}, {"id": "1", "name": "n", "type": "t" * 500},
        ]  # fmt: skip
        for number, result in enumerate(results):
            done = await manager.remember_tool_output("nick", f"tool {number}", {"loop": loop}, result)
            assert await manager.get_node("nick", done.node_id) is not None, number
        memory = await manager.ensure_user_memories("nick")
        assert len(memory.get_all_nodes()) == len(results)
        told = {node.tags[0]: node.metadata for node in memory.get_all_nodes()}
        assert [told[f"tool {number}"]["cut"] for number in range(6)] == [False, False, False, True, True, False]
        assert told["tool 5"]["left_out"] > 150_000

    async def test_too_many_entities_are_counted(self, manager: HybridMemoryManager) -> None:
        records = [{"id": f"C-{number}", "name": f"Customer {number}", "type": "customer"} for number in range(700)]
        done = await manager.remember_tool_output("nick", "list", {}, records)
        assert (len(done.entity_ids), done.left_out) == (MOST_ENTITIES, 700 - MOST_ENTITIES)
        node = await manager.get_node("nick", done.node_id)
        assert node is not None
        assert len(node.content["result"]) == 700
        assert node.metadata == {"left_out": 200, "cut": False}

    async def test_an_entity_that_cannot_be_stored_is_left_out_and_counted(
        self, events: Recorded, targets: Targets
    ) -> None:
        def odd(record: Any, _: Any) -> FoundEntity | None:
            if "odd" not in record:
                return None
            return FoundEntity(entity_system="s", entity_type="t", entity_id=record["odd"], data={"x": b"1"})

        def broken(*_: object) -> None:
            raise LookupError("secret")

        manager = HybridMemoryManager(settings_for(targets), events=events, recognisers=[broken, odd])
        async with manager:
            done = await manager.remember_tool_output("nick", "list", {}, [{"odd": "1"}, account()])
            assert (len(done.entity_ids), done.left_out) == (1, 1)
        assert events.named("entity_extraction_failed") == [{"user_id": "nick", "error": "LookupError"}]

    async def test_what_is_the_callers_fault_is_told(self, manager: HybridMemoryManager) -> None:
        for call in (
            manager.remember_tool_output("", "tool", {}, {}),
            manager.remember_tool_output("nick", "", {}, {}),
            manager.remember_tool_output("nick", "tool", {}, {}, thread_id="\x00"),
        ):
            with pytest.raises(InvalidInput):
                await call

    async def test_without_postgres_it_is_kept_shown_and_sent_later(
        self, targets: Targets, proxy: FaultProxy, other: HybridMemoryManager
    ) -> None:
        through = proxy.targets(targets)
        settings = settings_for(through, postgres_port=through.runtime.ports[0], command_timeout_seconds=0.5)
        async with HybridMemoryManager(settings) as manager:
            await manager.remember_tool_output("nick", "query", {"page": 1}, soql(opportunity()))
            memory = await manager.ensure_user_memories("nick")
            proxy.black_hole()
            done = await manager.remember_tool_output("nick", "query", {"page": 2}, soql(account(), opportunity("New")))
            wanted = {
                ("query", "produces", "GenePoint"), ("query", "produces", "New"),
                ("New", "belongs_to", "GenePoint"), ("GenePoint", "has", "New"),
            }  # fmt: skip
            assert edges(memory) == wanted, "the place that was kept is filled"
            assert entities(memory)[OPPORTUNITY]["aliases"] == ["GenePoint Generator"]
            proxy.heal()
            assert await manager.flush(30)
        there = await other.ensure_user_memories("nick")
        assert edges(there) == wanted
        assert entities(there) == entities(memory)
        assert {there.get_node(one) is not None for one in (done.node_id, *done.entity_ids)} == {True}


class TestNames:
    async def test_an_entity_is_found_by_id_name_and_alias(
        self, manager: HybridMemoryManager, other: HybridMemoryManager
    ) -> None:
        await manager.remember_tool_output("nick", "query", {}, soql(account("GenePoint")))
        await other.remember_tool_output("nick", "query", {}, soql(account("GenePoint Inc.")))
        await manager.store_entity(
            "nick", entity_id="7", entity_system="crm", entity_type="lead", entity_name="genepoint", aliases=["GP"]
        )
        memory = await manager.ensure_user_memories("nick")
        first = memory.find_entity(ACCOUNT)
        assert first is not None
        assert (first.content["entity_name"], first.content["aliases"]) == ("GenePoint Inc.", ["GenePoint"])
        for text in (ACCOUNT.lower(), ACCOUNT[:15], "  genepoint   INC. "):
            assert memory.find_entity(text) == first, text
        lead = memory.find_entity("GenePoint")
        assert lead is not None
        assert lead.content["entity_id"] == "7", "a name comes before an alias"
        assert memory.find_entity("GenePoint", entity_system="salesforce") == first
        assert memory.find_entity("GenePoint", entity_type="ACCOUNT") == first
        assert memory.find_entity("gp") == lead
        assert memory.find_entity("gp", entity_type="account") is None
        assert memory.find_entity("nobody") is None
        assert (await other.ensure_user_memories("nick")).find_entity("gp") == lead

    async def test_whoever_finds_an_entity_has_read_it(self, manager: HybridMemoryManager) -> None:
        await manager.remember_tool_output("nick", "query", {}, soql(account()))
        memory = await manager.ensure_user_memories("nick")
        assert [memory.find_entity(text) is not None for text in ("genepoint", ACCOUNT, "nobody")] == [
            True,
            True,
            False,
        ]
        assert (await manager.user_stats("nick")).total_accesses == 2

    async def test_names_follow_the_graph(self, manager: HybridMemoryManager) -> None:
        memory = await manager.ensure_user_memories("nick")
        await manager.remember_tool_output("nick", "query", {}, soql(account("One")))
        node = memory.find_entity("One")
        assert node is not None
        await manager.remember_tool_output("nick", "query", {}, soql(account("Two")))
        assert memory.find_entity("One").content["entity_name"] == "Two"  # type: ignore[union-attr]
        await manager.forget("nick", node.node_id)
        assert [memory.find_entity(text) for text in ("One", "Two", ACCOUNT)] == [None, None, None]

    async def test_a_record_without_a_name_keeps_the_one_that_is_known(self, manager: HybridMemoryManager) -> None:
        await manager.remember_tool_output("nick", "query", {}, soql(account()))
        record = account(Phone="1")
        del record["Name"]
        await manager.remember_tool_output("nick", "query", {}, soql(record))
        node = (await manager.ensure_user_memories("nick")).find_entity("GenePoint")
        assert node is not None
        assert (node.summary, node.content["aliases"]) == ("GenePoint (account in salesforce)", [])
        assert node.content["entity_data"]["Phone"] == "1"

    async def test_other_ids_of_one_system_lead_to_one_entity(self, manager: HybridMemoryManager) -> None:
        await manager.remember_tool_output("nick", "sn", {}, table(incident()))
        # Known by its sys_id alone, and referred to by it before its number is known.
        late = incident("INC0010002", "9" * 32, parent_incident=reference("incident", INCIDENT))
        await manager.remember_tool_output("nick", "sn", {}, table(late))
        await manager.remember_tool_output(
            "nick", "sn", {}, table({"sys_id": INCIDENT, "sys_class_name": "incident", "state": "7"})
        )
        memory = await manager.ensure_user_memories("nick")
        assert set(entities(memory)) == {"INC0010001", "INC0010002", CALLER, "8a5055c9c61122780043563ef53438e3"}
        assert entities(memory)["INC0010001"]["entity_data"]["state"] == "7"
        first, second = memory.find_entity("INC0010001"), memory.find_entity("INC0010002")
        assert first is not None
        assert second is not None
        assert memory.find_entity(INCIDENT) == first
        assert (second.node_id, "child_of", first.node_id) in {
            (edge.from_node_id, edge.relationship_type, edge.to_node_id) for edge in memory.get_all_edges()
        }

    async def test_ids_that_differ_in_case_alone_are_two(self, manager: HybridMemoryManager) -> None:
        lower, upper = ACCOUNT[:14] + "c", ACCOUNT[:14] + "C"
        await manager.remember_tool_output("nick", "query", {}, [account("Lower", lower)])
        await manager.remember_tool_output("nick", "query", {}, [account("Upper", upper), opportunity(AccountId=lower)])
        memory = await manager.ensure_user_memories("nick")
        assert [memory.find_entity(one).content["entity_name"] for one in (lower, upper)] == [  # type: ignore[union-attr]
            "Lower", "Upper",
        ]  # fmt: skip
        assert ("GenePoint Generator", "belongs_to", "Lower") in edges(memory)

    async def test_a_stub_by_another_id_is_filled_too(self, manager: HybridMemoryManager) -> None:
        child = incident("INC0010002", "9" * 32, parent_incident=reference("incident", INCIDENT))
        await manager.remember_tool_output("nick", "sn", {}, table(child))
        await manager.remember_tool_output("nick", "sn", {}, table(incident(short_description="The first")))
        memory = await manager.ensure_user_memories("nick")
        assert ("Mail is down", "child_of", "The first") in edges(memory)
        assert memory.find_entity("INC0010001") == memory.find_entity(INCIDENT)

    async def test_one_who_is_only_named_is_who_is_known_by_that_name(self, manager: HybridMemoryManager) -> None:
        await manager.remember_tool_output(
            "nick", "jira", {}, jira_issue("CRM-1", "x", assignee=jira_user("5b", "Mia K"))
        )
        flat = {"key": "CRM-2", "summary": "y", "assignee": "mia k"}
        await manager.remember_tool_output(
            "nick", "jira", {}, [flat, {"key": "CRM-3", "summary": "z", "assignee": "Bo"}]
        )
        memory = await manager.ensure_user_memories("nick")
        assert ("y", "assigned_to", "Mia K") in edges(memory)
        assert ("z", "assigned_to", "Bo") in edges(memory)
        assert entities(memory)["5b"]["entity_name"] == "Mia K"
        assert entities(memory)["name:user:bo"]["entity_type"] == "user"

    async def test_who_it_is_stays_open_where_two_have_the_name(self, manager: HybridMemoryManager) -> None:
        users = [jira_user("1", "Mia"), jira_user("2", "Mia")]
        await manager.remember_tool_output("nick", "jira", {}, users)
        await manager.remember_tool_output("nick", "jira", {}, {"key": "CRM-2", "summary": "y", "assignee": "Mia"})
        memory = await manager.ensure_user_memories("nick")
        assert set(entities(memory)) == {"1", "2", "CRM-2", "name:user:mia"}


class TestLateArrivals:
    async def test_a_relation_waits_for_its_entity(
        self, manager: HybridMemoryManager, other: HybridMemoryManager, targets: Targets
    ) -> None:
        await manager.remember_tool_output("nick", "query", {}, soql(opportunity()))
        stub = entity_node_id("nick", "salesforce", ACCOUNT)
        for one in (manager, other):
            memory = await one.ensure_user_memories("nick")
            assert memory.get_node(stub) is None
            assert memory.find_entity(ACCOUNT) is None
            assert {node.content.get("entity_name", "output") for node in memory.get_all_nodes()} == {
                "output", "GenePoint Generator",
            }  # fmt: skip
            assert (memory.get_statistics()["total_nodes"], memory.get_statistics()["total_entities"]) == (2, 1)
            assert memory.retrieve_relevant(ACCOUNT) == memory.retrieve_relevant(
                ACCOUNT, context_filter=["tool_output", "domain_entity"]
            )
            assert all(node.node_id != stub for node in memory.retrieve_relevant(ACCOUNT))
            assert ("GenePoint Generator", "belongs_to", stub) in edges(memory)
            assert len(await one.list_memories("nick")) == 2
        assert await manager.get_node("nick", stub) is None
        assert await manager.forget("nick", stub) is False
        with pytest.raises(UnknownMemory):
            await manager.update_memory("nick", stub, content="x")
        async with administration(targets) as outside:
            assert await outside.fetchval("select count(*) from memory.entities") == 1

        done = await other.remember_tool_output("nick", "query", {}, soql(account()))
        assert done.entity_ids == (stub,)
        for one in (manager, other):
            memory = await one.ensure_user_memories("nick")
            assert memory.get_node(stub).content["entity_name"] == "GenePoint"  # type: ignore[union-attr]
            assert ("GenePoint Generator", "belongs_to", "GenePoint") in edges(memory)
            assert memory.get_all_nodes()[-1].content["entity_name"] == "GenePoint", "it is known since now"

    async def test_an_unloaded_process_does_not_show_it_either(
        self, manager: HybridMemoryManager, other: HybridMemoryManager
    ) -> None:
        await manager.remember_tool_output("nick", "query", {}, soql(opportunity()))
        assert await other.get_node("nick", entity_node_id("nick", "salesforce", ACCOUNT)) is None

    async def test_it_can_come_and_go_and_come_again(self, manager: HybridMemoryManager) -> None:
        await manager.remember_tool_output("nick", "query", {}, soql(account(), opportunity()))
        memory = await manager.ensure_user_memories("nick")
        node = memory.find_entity(ACCOUNT)
        assert node is not None
        await manager.forget("nick", node.node_id)
        await manager.remember_tool_output("nick", "query", {}, soql(opportunity(StageName="Won")))
        assert memory.get_node(node.node_id) is None
        await manager.remember_tool_output("nick", "query", {}, soql(account("Again")))
        assert ("GenePoint Generator", "belongs_to", "Again") in edges(memory)

    async def test_store_entity_names_targets_that_are_not_there_yet(
        self, manager: HybridMemoryManager, other: HybridMemoryManager
    ) -> None:
        fact = await manager.store_persistent_memory("nick", "x", node_id="fact")
        relations: list[tuple[str, Any]] = [
            ("belongs_to", EntityRef("crm", "A1")),
            ("owned_by", EntityRef("crm", "U1", "user", "Ann")),
            ("relates_to", EntityRef("crm", None, "person", "Bo")),
            ("mentions", fact),
        ]
        one = await manager.store_entity(
            "nick", entity_id="D1", entity_system="crm", entity_type="deal", entity_name="Deal", relations=relations
        )
        memory = await manager.ensure_user_memories("nick")
        stub = entity_node_id("nick", "crm", "A1")
        assert edges(memory) == {
            ("Deal", "belongs_to", stub), ("Deal", "owned_by", "Ann"), ("Deal", "relates_to", "Bo"),
            ("Deal", "mentions", "x"),
        }  # fmt: skip
        target = await other.store_entity(
            "nick", entity_id="A1", entity_system="crm", entity_type="account", entity_name="Acme"
        )
        assert target == stub
        await manager.ensure_user_memories("nick")
        assert ("Deal", "belongs_to", "Acme") in edges(memory)
        await manager.relate("nick", one, target, "led_to")
        for wrong in (EntityRef("crm"), EntityRef("crm", ""), EntityRef("", "1"), EntityRef("crm", None, "person")):
            with pytest.raises(InvalidInput):
                await manager.store_entity(
                    "nick", entity_system="crm", entity_type="t", entity_name="n", relations=[("owns", wrong)]
                )

    async def test_a_plain_memory_that_is_not_there_stays_unknown(self, manager: HybridMemoryManager) -> None:
        fact = await manager.store_persistent_memory("nick", "x")
        with pytest.raises(UnknownMemory):
            await manager.relate("nick", fact, str(uuid4()), "owns")
        with pytest.raises(UnknownMemory):
            await manager.store_entity(
                "nick", entity_system="s", entity_type="t", entity_name="n", relations=[("owns", "nothing")]
            )

    async def test_an_entity_made_by_hand_has_the_derived_id_from_the_first_write_on(
        self, manager: HybridMemoryManager, other: HybridMemoryManager, targets: Targets
    ) -> None:
        content = {"entity_id": ACCOUNT, "entity_system": "salesforce", "entity_type": "account", "entity_name": "Made"}
        async with administration(targets) as outside:
            by_hand = "insert into memory.nodes (user_id, context_type, content) values ('nick', 'domain_entity', $1)"
            given = str(await outside.fetchval(f"{by_hand} returning node_id", json.dumps(content)))
        memory = await other.ensure_user_memories("nick")
        assert memory.find_entity("Made").node_id == given  # type: ignore[union-attr]
        await manager.remember_tool_output("nick", "query", {}, soql(opportunity()))
        derived = entity_node_id("nick", "salesforce", ACCOUNT)
        for one in (manager, other):
            seen = await one.ensure_user_memories("nick")
            assert [seen.get_node(node_id) is not None for node_id in (given, derived)] == [False, True]
            assert ("GenePoint Generator", "belongs_to", "Made") in edges(seen)
        await manager.relate("nick", derived, derived, "refines")


class Scripted(BaseChatModel):
    """A chat model that answers what it was told to, by a call of the tool it was given."""

    answer: Any = None
    error: Any = None
    pause: float = 0
    prompts: list[str] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        (tool,) = tools
        return self.bind(name=tool.__name__)

    def _generate(self, messages: list[BaseMessage], *_: Any, name: str = "", **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, name: str = "", **__: Any) -> ChatResult:
        self.prompts.append(str(messages[-1].content))
        await asyncio.sleep(self.pause)
        if self.error:
            raise self.error
        calls = [{"name": name, "args": self.answer, "id": "1"}] if self.answer is not None else []
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content="?", tool_calls=calls))])


class TestChatModel:
    @staticmethod
    def asking(targets: Targets, model: Any, **keywords: Any) -> HybridMemoryManager:
        events = keywords.pop("events", None)
        return HybridMemoryManager(settings_for(targets, **keywords), extractor=model, events=events)

    async def test_it_adds_what_it_finds_to_what_is_known(self, targets: Targets) -> None:
        answer = {
            "entities": [
                {
                    "entity_type": "Person",
                    "entity_name": "Ann Lee",
                    "data": {"role": "buyer"},
                    "relations": [
                        {"relationship_type": "belongs_to", "target_name": "genepoint", "target_type": "account"},
                        {"relationship_type": "relates_to", "target_name": "Bo"},
                    ],
                },
                {"entity_type": "person", "entity_name": "Bo"},
                {"entity_type": "account", "entity_name": "GENEPOINT", "data": {"mood": "happy", "Industry": "wrong"}},
            ]
        }
        model = Scripted(answer=answer)
        async with self.asking(targets, model) as manager:
            await manager.remember_tool_output("nick", "query", {}, soql(account()))
            done = await manager.remember_tool_output("nick", "mail", {"id": 1}, "Ann Lee of GenePoint met Bo.")
            memory = await manager.ensure_user_memories("nick")
            assert {("mail", "mentions", name) for name in ("Ann Lee", "Bo", "GenePoint")} <= edges(memory)
            assert ("Ann Lee", "belongs_to", "GenePoint") in edges(memory)
            assert ("Ann Lee", "relates_to", "Bo") in edges(memory)
            assert set(entities(memory)) == {ACCOUNT, "name:person:ann lee", "name:person:bo"}
            data = entities(memory)[ACCOUNT]["entity_data"]
            assert (data["mood"], data["Industry"]) == ("happy", "Biotechnology"), "a model changes no known value"
            assert entities(memory)[ACCOUNT]["entity_name"] == "GenePoint"
            assert len(done.entity_ids) == 3
            assert "Ann Lee of GenePoint met Bo." in model.prompts[-1]

    @pytest.mark.parametrize(
        ("model", "error"),
        [
            (Scripted(error=RuntimeError("secret")), "RuntimeError"),
            (Scripted(answer={"entities": [{"wrong": 1}]}), "ValidationError"),
            (Scripted(answer={"entities": "none"}), "ValidationError"),
            (Scripted(), "ValidationError"),
            (Scripted(pause=60), "TimeoutError"),
        ],
    )
    async def test_its_failures_never_lose_the_memory(
        self, targets: Targets, events: Recorded, model: Scripted, error: str
    ) -> None:
        async with self.asking(targets, model, events=events, extractor_timeout_seconds=0.3) as manager:
            done = await manager.remember_tool_output("nick", "query", {}, soql(account()))
            memory = await manager.ensure_user_memories("nick")
            assert edges(memory) == {("query", "produces", "GenePoint")}
            assert memory.get_node(done.node_id) is not None
        (failed,) = events.named("entity_extraction_failed")
        assert failed["user_id"] == "nick"
        assert error in failed["error"]

    async def test_the_memory_is_there_before_the_model_is_asked(self, targets: Targets) -> None:
        async with self.asking(targets, Scripted(pause=60)) as manager:
            call = asyncio.ensure_future(manager.remember_tool_output("nick", "query", {}, soql(account())))
            while len((await manager.ensure_user_memories("nick")).get_all_nodes()) < 2:
                await asyncio.sleep(0.02)
                assert not call.done()
            call.cancel()

    def test_a_model_without_structured_output_is_refused_at_once(self) -> None:
        class Plain(Scripted):
            def with_structured_output(self, *_: Any, **__: Any) -> Any:
                raise NotImplementedError

        with pytest.raises(ConfigurationError, match="structured output"):
            HybridMemoryManager(extractor=Plain())
