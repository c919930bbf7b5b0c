"""What agents do with a memory, from storing a record to support cases over weeks: one scenario per thing that matters.

Each stands for one of the 24 scenarios that the earlier system was tested with; they are told with what tools return.
"""

import asyncio
import json
import random
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hybrid_memory import EntityRef, HybridMemoryManager, MemoryNode, UserMemory
from hybrid_memory.graph.user_graph import UserGraph
from hybrid_memory.postgres.target import Targets
from tests.support.graphs import Clock, everything
from tests.support.servers import administration
from tests.support.tool_results import (
    ACCOUNT,
    OPPORTUNITY,
    OWNER,
    account,
    incident,
    jira_issue,
    jira_search,
    jira_user,
    opportunity,
    related,
    sobject,
    table,
)

USER = "nick"


def ids(found: Sequence[MemoryNode]) -> list[str]:
    """What memories are called in their systems, or in their contents."""
    named = (node.content if isinstance(node.content, Mapping) else {} for node in found)
    return [str(content.get("entity_id") or content.get("id") or content.get("tool_name")) for content in named]


def remembered(manager: HybridMemoryManager) -> Callable[..., Any]:
    async def remember(tool: str, result: Any, **arguments: Any) -> Any:
        return await manager.remember_tool_output(USER, tool, arguments, result)

    return remember


async def record(manager: HybridMemoryManager, entity_id: str, name: str, kind: str = "account", **fields: Any) -> str:
    relations = fields.pop("relations", ())
    return await manager.store_entity(
        USER, entity_id=entity_id, entity_system="crm", entity_type=kind, entity_name=name, data=fields,
        relations=relations,
    )  # fmt: skip


async def aged(targets: Targets, hours: Mapping[str, float]) -> None:
    """Make memories older than they are, by node."""
    async with administration(targets) as outside:
        for node_id, age in hours.items():
            await outside.execute(
                "update memory.nodes set created_at = now() - $2::interval, updated_at = now() - $2::interval,"
                " last_accessed_at = now() - $2::interval where node_id = $1",
                node_id,
                timedelta(hours=age),
            )
        await outside.execute("select memory.touch_user($1)", USER)


class TestStoringAndFinding:
    async def test_01_what_was_stored_is_the_first_that_is_found(self, manager: HybridMemoryManager) -> None:
        await record(manager, "001TEST", "Test Corp", industry="Technology", revenue=1_000_000)
        await record(manager, "001OTHER", "Other Corp", industry="Technology")
        memory = await manager.ensure_user_memories(USER)
        assert ids(memory.retrieve_relevant("Test Corp account"))[0] == "001TEST"
        assert ids(memory.retrieve_relevant("1000000")) == ["001TEST"]

    async def test_02_what_matters_is_found_among_hundreds_that_look_like_it(
        self, manager: HybridMemoryManager, rng: random.Random
    ) -> None:
        look_alikes = (
            "Important account, {n}.{n} M value, needs review", "Production issue {n} needs immediate attention",
            "Crucial account {n} with high priority status", "System breaking bug {n} requires fix",
            "Account with 4.9 M value needs attention {n}",
        )  # fmt: skip
        junk = [rng.choice(look_alikes).format(n=number) for number in range(500)]
        await manager.store_many(USER, [{"content": text, "tags": ["similar"]} for text in junk])
        await manager.store_persistent_memory(
            USER, {"id": "CRITICAL001", "value": 5_000_000}, tags=["critical", "5M"],
            summary="Critical account with 5M value needs attention",
        )  # fmt: skip
        await manager.remember_tool_output(
            USER, "jira", {}, jira_issue("JIRA-999", "Critical production bug", labels=["breaking", "immediate-fix"])
        )
        memory = await manager.ensure_user_memories(USER)
        for query, wanted in (
            ("critical production bug", "JIRA-999"), ("JIRA-999", "JIRA-999"), ("breaking bug production", "JIRA-999"),
            ("jira 999 critical", "JIRA-999"), ("what about JIRA-999?", "JIRA-999"),
            ("Critical Account 5M value", "CRITICAL001"), ("CRITICAL001", "CRITICAL001"),
            ("account 5M value needs attention", "CRITICAL001"), ("5000000 value account", "CRITICAL001"),
        ):  # fmt: skip
            assert wanted in ids(memory.retrieve_relevant(query, max_results=3)), query

    async def test_03_of_equals_the_newer_comes_first(self, manager: HybridMemoryManager, targets: Targets) -> None:
        old = await record(manager, "OLD001", "Account data")
        await record(manager, "NEW001", "Account data")
        for number in range(5):
            await record(manager, f"FILLER{number}", f"Filler account {number} with data")
        await aged(targets, {old: 10})
        memory = await manager.ensure_user_memories(USER)
        found = ids(memory.retrieve_relevant("account data", max_results=20))
        assert found.index("NEW001") < found.index("OLD001")

    async def test_04_a_chain_of_records_can_be_walked(self, manager: HybridMemoryManager) -> None:
        remember = remembered(manager)
        contact, case, task = ("003Hs00000CHAIN1AAA", "500Hs00000CHAIN1AAA", "00THs00000CHAIN1AAA")
        await remember("get", sobject("Task", task[:18], Subject="Resolve it", WhatId=case[:18]))
        await remember("get", sobject("Case", case[:18], Subject="Chain issue", ContactId=contact[:18]))
        await remember("get", sobject("Contact", contact[:18], Name="John Chain", AccountId=ACCOUNT))
        await remember("get", account("Chain Test Corp"))
        memory = await manager.ensure_user_memories(USER)
        (start, *_) = memory.retrieve_relevant("Chain Test Corp", context_filter=["domain_entity"])
        kinds = {"belongs_to", "has", "relates_to"}
        near = memory.get_related_nodes(start.node_id, relationship_types=kinds, max_distance=3)
        assert [node.content["entity_name"] for node in near] == ["John Chain", "Chain issue", "Resolve it"]

    async def test_05_writers_and_readers_at_once(
        self, manager: HybridMemoryManager, other: HybridMemoryManager
    ) -> None:
        async def write(one: HybridMemoryManager, writer: int) -> None:
            for number in range(30):
                await one.store_persistent_memory(USER, {"writer": writer, "number": number})

        async def read(one: HybridMemoryManager) -> None:
            seen = 0
            for _ in range(20):
                memory = await one.ensure_user_memories(USER)
                now = len(memory.retrieve_relevant("writer", max_results=1_000))
                assert now >= seen
                seen = now

        writers = [write((manager, other)[number % 2], number) for number in range(5)]
        await asyncio.gather(*writers, *(read(one) for one in (manager, other, manager)))
        for one in (manager, other):
            contents = [node.content for node in (await one.ensure_user_memories(USER)).get_all_nodes()]
            assert sorted((row["writer"], row["number"]) for row in contents) == [
                (writer, number) for writer in range(5) for number in range(30)
            ]

    async def test_06_other_words_for_the_same(self, manager: HybridMemoryManager) -> None:
        """By other forms, accents, tags and aliases; what only means the same is for a search by vectors."""
        await record(manager, "SEM001", "Global Revenue Corporation", focus="worldwide sales and income")
        await manager.store_entity(
            USER, entity_id="SEM002", entity_system="crm", entity_type="account", entity_name="TechStart Inc",
            data={"about": "Startup technology company in Zürich"}, aliases=["International Earnings Ltd"],
        )  # fmt: skip
        await manager.store_persistent_memory(USER, {"id": "SEM003"}, tags=["client-satisfaction", "customer support"])
        memory = await manager.ensure_user_memories(USER)
        for query, wanted in (
            ("company with a sale worldwide", "SEM001"), ("startups zurich", "SEM002"),
            ("international earnings", "SEM002"), ("customers support", "SEM003"), ("satisfaction", "SEM003"),
        ):  # fmt: skip
            assert ids(memory.retrieve_relevant(query))[0] == wanted, query

    async def test_07_what_has_expired_goes_and_what_matters_stays(self, manager: HybridMemoryManager) -> None:
        kept = [await record(manager, f"IMPORTANT{number}", f"Critical entity {number}") for number in range(5)]
        for number in range(20):
            await manager.store_persistent_memory(USER, {"junk": number}, "search_result", expires_in=0.05)
        memory = await manager.ensure_user_memories(USER)
        deadline = asyncio.get_running_loop().time() + 5
        while len(memory.get_all_nodes()) > len(kept):
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)
        assert {node.node_id for node in memory.get_all_nodes()} == set(kept)
        assert memory.retrieve_relevant("junk") == []

    async def test_08_one_customer_in_three_systems(self, manager: HybridMemoryManager) -> None:
        remember = remembered(manager)
        await remember("sf", account("CrossSystem Corp"))
        await remember("jira", jira_issue("CROSS-1", "CrossSystem Corp migration"))
        await remember("sn", table(incident(short_description="CrossSystem Corp outage")))
        memory = await manager.ensure_user_memories(USER)
        three = [memory.find_entity(one) for one in (ACCOUNT, "CROSS-1", "INC0010001")]
        nodes = [node.node_id for node in three if node is not None]
        await manager.relate(USER, nodes[1], nodes[0], "belongs_to")
        await manager.relate(USER, nodes[2], nodes[0], "relates_to")
        found = memory.retrieve_relevant("CrossSystem", context_filter=["domain_entity"])
        assert set(ids(found)) == {ACCOUNT, "CROSS-1", "INC0010001"}
        related_ones = memory.get_related_nodes(nodes[0], relationship_types=["belongs_to", "relates_to"])
        assert {"CROSS-1", "INC0010001"} <= set(ids(related_ones))

    async def test_09_only_what_is_young_enough(self, manager: HybridMemoryManager, targets: Targets) -> None:
        ages = {"5min": 5 / 60, "1h": 1, "6h": 6, "12h": 12, "24h": 24}
        nodes = {
            await manager.store_persistent_memory(USER, {"id": name, "what": f"Event {name} ago"}): age
            for name, age in ages.items()
        }
        await aged(targets, nodes)
        memory = await manager.ensure_user_memories(USER)
        for window, wanted in ((0.5, 1), (4, 2), (8, 3), (20, 4), (48, 5)):
            assert set(ids(memory.retrieve_relevant("Event", max_age_hours=window))) == set(list(ages)[:wanted])

    async def test_10_hubs_clusters_and_bridges(self, manager: HybridMemoryManager) -> None:
        hub = await record(manager, "HUB", "Hub")
        for number in range(10):
            await record(manager, f"SPOKE{number}", f"Spoke {number}", relations=[("relates_to", hub)])
        ends = []
        for cluster in "AB":
            root = await record(manager, f"{cluster}0", f"Root {cluster}")
            rows = [root]
            for number in range(1, 6):
                others = [("relates_to", one) for one in rows]
                rows.append(await record(manager, f"{cluster}{number}", f"{cluster} {number}", relations=others))
            ends.append(rows[2])
        await record(manager, "BRIDGE", "Bridge", relations=[("relates_to", one) for one in ends])
        memory = await manager.ensure_user_memories(USER)
        assert ids([node for node, _ in memory.find_important_memories(1)]) == ["HUB"]
        clusters = [set(ids(cluster)) for cluster in memory.find_memory_clusters()]
        assert {"HUB", *(f"SPOKE{number}" for number in range(10))} in clusters
        assert len([one for one in clusters if {"A0", "A1"} <= one or {"B0", "B1"} <= one]) == 2
        assert "BRIDGE" in ids([node for node, _ in memory.find_bridge_memories(4)])

    def test_11_five_needles_in_ten_thousand(self, rng: random.Random) -> None:
        """In the process; that a user of that size loads whole is shown elsewhere."""
        clock = Clock()
        graph = UserGraph(USER, clock=clock)
        plain = MemoryNode(user_id=USER, node_id="", context_type="search_result", content={}, version=1,
                           created_at=clock.now, updated_at=clock.now)  # fmt: skip
        straw = [
            replace(
                plain, node_id=f"straw {number}", content={"text": "".join(rng.choices(string.ascii_letters, k=50))}
            )
            for number in range(10_000)
        ]
        needles = [
            replace(plain, node_id=f"needle {number}", content={"id": f"NEEDLE{number}", "word": "findmeifyoucan"})
            for number in range(5)
        ]
        graph.apply(everything(rng.sample([*straw, *needles], 10_005)))
        memory = UserMemory(graph)
        found = memory.retrieve_relevant("findmeifyoucan special needle")
        assert sorted(ids(found)) == [f"NEEDLE{number}" for number in range(5)]
        started = datetime.now(UTC)
        assert len(memory.retrieve_relevant("findmeifyoucan")) == 5
        assert datetime.now(UTC) - started < timedelta(seconds=1), "the words are known by now"

    async def test_12_nothing_that_only_shares_a_word(self, manager: HybridMemoryManager, rng: random.Random) -> None:
        for number, text in enumerate((
            "Acme Corporation manufacturing client in Detroit", "Database migration project for MySQL to PostgreSQL",
            "API Gateway connection timeout error at 2:30 PM",
        )):  # fmt: skip
            await manager.store_persistent_memory(USER, {"id": f"TARGET00{number + 1}"}, summary=text)
        unrelated = (
            "Pizza delivery restaurant on Main Street", "Basketball game Lakers vs Celtics", "Weather forecast sunny",
            "Python tutorial for beginners", "Manufacturing defect in toys recalled", "Detroit Lions win playoff game",
            "Timeout during cooking recipe", "Migration patterns of birds studied",
        )  # fmt: skip
        junk = [{"content": {"id": f"JUNK{n}"}, "summary": f"{rng.choice(unrelated)}, part {n}"} for n in range(500)]
        await manager.store_many(USER, junk)
        memory = await manager.ensure_user_memories(USER)
        for query, wanted in (
            ("Acme Corporation Detroit manufacturing", ["TARGET001"]),
            ("Database migration MySQL PostgreSQL project", ["TARGET002"]),
            ("API Gateway connection timeout error", ["TARGET003"]),
            ("completely nonsense query xyz123", []),
        ):
            assert ids(memory.retrieve_relevant(query, min_relevance=0.5)) == wanted, query
            assert ids(memory.retrieve_relevant(query))[:1] == wanted, query
        assert ids(memory.retrieve_relevant("Manufacturing in Detroit"))[0] == "TARGET001"

    async def test_13_every_kind_of_record_is_found(self, manager: HybridMemoryManager) -> None:
        kinds = ("account", "contact", "issue", "incident", "task", "opportunity")
        for kind in kinds:
            for number in range(5):
                await record(manager, f"{kind}-{number}", f"Test {kind} number {number}", kind)
        memory = await manager.ensure_user_memories(USER)
        found = memory.retrieve_relevant("Test", max_results=30)
        assert {node.content["entity_type"] for node in found} == set(kinds)
        contact = memory.find_entity("TEST contact number 3", entity_type="contact")
        assert contact is not None
        assert contact.content["entity_id"] == "contact-3"


Step = tuple[str, str, str, Sequence[str], Sequence[str]]


async def told(manager: HybridMemoryManager, steps: Sequence[Step]) -> UserMemory:
    """A story of several turns and tools: id, type, what happened, and what it follows from or depends on."""
    for step_id, kind, text, relates_to, depends_on in steps:
        await manager.store_persistent_memory(
            USER, {"id": step_id, "what": text}, kind, node_id=step_id, relates_to=relates_to, depends_on=depends_on
        )
    return await manager.ensure_user_memories(USER)


def answers(memory: UserMemory, questions: Sequence[tuple[str, str]]) -> None:
    """Each question has its answer among the first three."""
    for question, wanted in questions:
        assert wanted in ids(memory.retrieve_relevant(question, max_results=3)), question


class TestConversations:
    async def test_14_a_customers_problem_from_complaint_to_plan(self, manager: HybridMemoryManager) -> None:
        memory = await told(manager, [
            ("MSG1", "user_selection", "Customer says their Salesforce integration fails with timeout errors", (), ()),
            ("MSG2", "search_result", "Logs show the API rate limit of the instance was exceeded", ["MSG1"], ()),
            ("INC1", "tool_output", "Previous incident: Acme Corp had similar API timeouts last month", ["MSG2"], ()),
            ("KB1", "tool_output", "Article: raising Salesforce API rate limits; retries", ["MSG2", "INC1"], ()),
            ("PLAN1", "completed_action", "Plan for Acme Corp: exponential backoff, limit increase", (), ["KB1"]),
        ])  # fmt: skip
        answers(memory, [
            ("Salesforce timeout", "MSG1"), ("Acme Corp API issues", "INC1"), ("rate limit article", "KB1"),
            ("previous incident", "INC1"), ("implement backoff", "PLAN1"),
        ])  # fmt: skip
        assert ids(memory.get_related_nodes("PLAN1", relationship_types=["depends_on"])) == ["KB1"]
        assert set(ids(memory.get_related_nodes("MSG1", max_distance=3))) == {"MSG2", "INC1", "KB1", "PLAN1"}

    async def test_15_an_error_from_report_to_fix(self, manager: HybridMemoryManager) -> None:
        memory = await told(manager, [
            ("ERR", "tool_output", "NullPointerException in PaymentProcessor, 15% of payments fail", (), ()),
            ("TRACE", "tool_output", "Trace: PaymentProcessor.java line 145, getBillingAddress is null", ["ERR"], ()),
            ("CODE", "search_result", "Code assumes a billing address, the new API may return null", ["TRACE"], ()),
            ("COMMIT", "search_result", "Recent commit a3f42b1 allows null addresses for digital goods", ["CODE"], ()),
            ("FIX", "completed_action", "Added a null check with fallback to account address", (), ["CODE", "COMMIT"]),
            ("TESTS", "tool_output", "Unit tests for null billing address pass", ["FIX"], ()),
        ])  # fmt: skip
        answers(memory, [
            ("NullPointerException payments", "ERR"), ("billing address null", "TESTS"), ("recent API change", "CODE"),
            ("PaymentProcessor.java line 145", "TRACE"), ("null check fallback", "FIX"), ("a3f42b1", "COMMIT"),
        ])  # fmt: skip
        assert set(ids(memory.get_related_nodes("FIX", max_distance=1))) == {"CODE", "COMMIT", "TESTS"}

    async def test_16_a_project_with_tasks_and_a_blocker(self, manager: HybridMemoryManager) -> None:
        people = [jira_user("u1", "Sarah Chen"), jira_user("u2", "Mike Johnson")]
        epic = {"id": "1", "key": "APP-1", "fields": {"summary": "User authentication overhaul"}}
        await manager.remember_tool_output(USER, "jira_search", {}, jira_search(
            jira_issue("APP-2", "Design OAuth2 flow diagrams", 2, parent=epic, assignee=people[0]),
            jira_issue("APP-3", "OAuth2 backend integration with Google and Apple", 3, parent=epic, assignee=people[1],
                       issuelinks=[{"type": {"name": "Blocks"}, "inwardIssue": {"key": "APP-2", "fields": {}}}]),
        ))  # fmt: skip
        await manager.store_persistent_memory(USER, {"id": "BLOCK", "what": "Apple requires a paid developer account"})
        memory = await manager.ensure_user_memories(USER)
        sarah, task = memory.find_entity("sarah chen"), memory.find_entity("APP-3")
        assert sarah is not None
        assert task is not None
        assert ids(memory.get_related_nodes(sarah.node_id, relationship_types=["assigned_to"])) == ["APP-2"]
        assert ids(memory.get_related_nodes(task.node_id, relationship_types=["depends_on"])) == ["APP-2"]
        parts = memory.get_related_nodes(task.node_id, relationship_types=["child_of"])
        assert ids(parts) == ["APP-1", "APP-2"]
        answers(memory, [("authentication", "APP-1"), ("Apple developer account", "BLOCK"), ("OAuth2 design", "APP-2")])

    async def test_17_a_support_case_with_its_history(self, manager: HybridMemoryManager) -> None:
        await record(manager, "CUST", "GlobalTech Solutions", tier="Enterprise", contract="250k annual")
        customer = (await manager.ensure_user_memories(USER)).find_entity("globaltech solutions")
        assert customer is not None
        memory = await told(manager, [
            ("TICK", "user_selection", "Data sync fails between CRM and marketing platform", [customer.node_id], ()),
            ("HIST", "search_result", "Previous sync problem was caused by token expiration", ["TICK"], ()),
            ("INVEST", "tool_output", "Calls fail with 403 errors, which suggests permissions", ["TICK"], ()),
            ("ESC", "tool_output", "Escalated to engineering: enterprise customer blocked", ["TICK", "INVEST"], ()),
            ("ROOT", "search_result", "New security policy requires explicit scope grants", ["ESC"], ()),
            ("RES", "completed_action", "Granted the required scopes and documented it", (), ["ROOT"]),
        ])  # fmt: skip
        answers(memory, [
            ("GlobalTech", "CUST"), ("403 permission errors", "INVEST"), ("enterprise escalation engineering", "ESC"),
            ("previous token expiration", "HIST"), ("security policy scope", "ROOT"), ("granted scopes", "RES"),
        ])  # fmt: skip
        assert set(ids(memory.get_related_nodes(customer.node_id, max_distance=2))) == {"TICK", "HIST", "INVEST", "ESC"}

    async def test_18_a_review_from_concern_to_approval(self, manager: HybridMemoryManager) -> None:
        memory = await told(manager, [
            ("PR", "tool_output", "Pull request: authentication uses JWT tokens instead of sessions, by Alice", (), ()),
            ("CHANGE", "tool_output", "auth/jwt_handler.py: token generation with RS256", ["PR"], ()),
            ("COMMENT", "tool_output", "Bob Smith: security concern, the JWT secret key is hardcoded", ["CHANGE"], ()),
            ("REPLY", "user_selection", "Alice: will move it to the environment and add rotation", ["COMMENT"], ()),
            ("UPDATE", "completed_action", "Moved secrets to the environment, added key rotation", (), ["COMMENT"]),
            ("APPROVAL", "user_selection", "Bob Smith approves: good security improvements", ["UPDATE"], ()),
        ])  # fmt: skip
        answers(memory, [
            ("JWT security concern", "COMMENT"), ("pull request authentication", "PR"), ("hardcoded secret", "COMMENT"),
            ("key rotation", "UPDATE"), ("Bob Smith approval", "APPROVAL"), ("RS256", "CHANGE"),
        ])  # fmt: skip
        concern = memory.get_related_nodes("COMMENT", max_distance=1)
        assert set(ids(concern)) == {"CHANGE", "REPLY", "UPDATE"}


class TestToolResults:
    async def test_19_a_record_becomes_an_entity(self, manager: HybridMemoryManager) -> None:
        result = {"success": True, "data": [account("Entity Extract Corp")], "operation": "salesforce_search"}
        done = await manager.remember_tool_output(USER, "salesforce_search", {"filter": "Name LIKE 'Entity%'"}, result)
        memory = await manager.ensure_user_memories(USER)
        (found,) = memory.retrieve_relevant("Entity Extract Corp", context_filter=["domain_entity"])
        assert (found.content["entity_id"], found.content["entity_name"]) == (ACCOUNT, "Entity Extract Corp")
        assert done.entity_ids == (found.node_id,)
        assert [(edge.from_node_id, edge.relationship_type) for edge in memory.get_all_edges()] == [
            (done.node_id, "produces")
        ]

    async def test_20_the_same_record_again_is_merged(
        self, manager: HybridMemoryManager, other: HybridMemoryManager
    ) -> None:
        await manager.remember_tool_output(USER, "search", {}, {"data": [account("Dedup Corp")]})
        more = account("Dedup Corp", Website="dedup.example", NumberOfEmployees=250)
        await other.remember_tool_output(USER, "get", {"id": ACCOUNT}, {"success": True, "data": more})
        memory = await manager.ensure_user_memories(USER)
        (found,) = memory.retrieve_relevant("Dedup Corp", context_filter=["domain_entity"])
        data = found.content["entity_data"]
        assert (data["Industry"], data["Website"], data["NumberOfEmployees"]) == ("Biotechnology", "dedup.example", 250)
        assert found.content["update_count"] == 2
        assert found.confidence == pytest.approx(0.95)

    async def test_21_records_of_three_systems_and_a_fourth(self, manager: HybridMemoryManager) -> None:
        remember = remembered(manager)
        await remember("salesforce_create", {"success": True, "data": account("Relationship Inc")}, object="Account")
        project = {"id": "10123", "key": "RELTEST", "name": "Relationship Inc Project"}
        await remember("jira_create", {"success": True, "data": project}, type="Project")
        outage = {"number": "INC0098765", "short_description": "Relationship Inc outage", "caller_id": "Ann Lee"}
        await remember("servicenow_create", {"success": True, "data": outage}, type="incident")
        await remember("billing_list", [{"id": "INV-1", "name": "Relationship Inc invoice", "type": "invoice",
                                         "system": "billing", "account_id": ACCOUNT}])  # fmt: skip
        memory = await manager.ensure_user_memories(USER)
        found = memory.retrieve_relevant("Relationship Inc", context_filter=["domain_entity"])
        assert {(node.content["entity_system"], node.content["entity_type"]) for node in found} == {
            ("salesforce", "account"), ("jira", "project"), ("servicenow", "incident"), ("billing", "invoice"),
        }  # fmt: skip
        caller = memory.find_entity("ann lee")
        assert caller is not None
        assert ids(memory.get_related_nodes(caller.node_id, relationship_types=["created_by"])) == ["INC0098765"]

    async def test_22_a_deal_before_its_account(self, manager: HybridMemoryManager, other: HybridMemoryManager) -> None:
        await manager.remember_tool_output(USER, "create", {}, {"success": True, "data": opportunity("Big deal")})
        memory = await manager.ensure_user_memories(USER)
        deal = memory.find_entity(OPPORTUNITY)
        assert deal is not None
        assert memory.get_related_nodes(deal.node_id, relationship_types=["belongs_to"]) == []
        await other.remember_tool_output(USER, "create", {}, {"success": True, "data": account("Pending Corp")})
        await manager.ensure_user_memories(USER)
        assert ids(memory.get_related_nodes(deal.node_id, relationship_types=["belongs_to"])) == [ACCOUNT]
        found = memory.find_entity("pending corp")
        assert found is not None
        assert ids(memory.get_related_nodes(found.node_id, relationship_types=["has"])) == [OPPORTUNITY]

    async def test_23_an_entity_fades_and_comes_back(self, manager: HybridMemoryManager, targets: Targets) -> None:
        remember = remembered(manager)
        await remember("jira_create", jira_issue("LIFE-100", "Lifecycle", 50001))
        await remember("jira_create", jira_issue("LIFE-200", "Lifecycle", 50002))
        memory = await manager.ensure_user_memories(USER)
        assert memory.find_entity("50001") == memory.find_entity("life-100") is not None
        issues = {ids([node])[0]: node.node_id for node in memory.get_all_nodes()}

        def order() -> list[str]:
            return ids(memory.retrieve_relevant("lifecycle", context_filter=["domain_entity"]))

        await aged(targets, {issues["LIFE-100"]: 100, issues["LIFE-200"]: 50})
        await manager.ensure_user_memories(USER)
        assert order() == ["LIFE-200", "LIFE-100"]
        await remember("jira_get", jira_issue("LIFE-100", "Lifecycle", 50001, status={"name": "Done"}))
        assert order() == ["LIFE-100", "LIFE-200"]
        found = memory.find_entity("LIFE-100")
        assert found is not None
        assert (found.content["entity_data"]["status"], found.content["update_count"]) == ("Done", 2)

    async def test_24_a_web_of_records(self, manager: HybridMemoryManager) -> None:
        remember = remembered(manager)
        contacts = [f"003Hs0000{number:06}AAA" for number in range(3)]
        deals = [f"006Hs0000{number:06}AAA" for number in range(2)]
        cases = [f"500Hs0000{number:06}AAA" for number in range(2)]
        tasks = [f"00THs0000{number:06}AAA" for number in range(3)]
        # Leaves first, so that everything is spoken of before it is there.
        for number, task in enumerate(tasks):
            what = deals[0] if number < 2 else cases[0]
            await remember("get", sobject("Task", task, Subject=f"Task {number}", WhatId=what, WhoId=contacts[number]))
        for number, case in enumerate(cases):
            contact = contacts[number + 1]
            await remember("get", sobject("Case", case, Subject=f"Case {number}", AccountId=ACCOUNT, ContactId=contact))
        for number, deal in enumerate(deals):
            parents = {"AccountId": ACCOUNT, "ContactId": contacts[number]}
            await remember("get", sobject("Opportunity", deal, Name=f"Deal {number}", **parents))
        for number, contact in enumerate(contacts):
            await remember("get", sobject("Contact", contact, Name=f"Contact {number}", AccountId=ACCOUNT))
        await remember("get", account("Web Enterprises", OwnerId=OWNER, Owner=related("User", OWNER, "Ann Lee")))
        memory = await manager.ensure_user_memories(USER)
        entities = [node for node in memory.get_all_nodes() if node.context_type == "domain_entity"]
        assert sorted(ids(entities)) == sorted([ACCOUNT, OWNER, *contacts, *deals, *cases, *tasks])
        web = memory.find_entity("web enterprises")
        assert web is not None
        assert set(ids(memory.get_related_nodes(web.node_id, relationship_types=["has"], max_distance=1))) == {
            *contacts, *deals, *cases,
        }  # fmt: skip
        reached = memory.get_related_nodes(web.node_id, max_distance=2)
        assert set(tasks) <= set(ids(reached))
        assert ids([node for node, _ in memory.find_important_memories(3)])[0] == ACCOUNT


async def test_a_relation_can_be_told_before_its_end_by_hand_too(manager: HybridMemoryManager) -> None:
    """What an agent knows without a tool: the same place is kept for what comes later."""
    await record(manager, "D1", "Deal", relations=[("belongs_to", EntityRef("salesforce", ACCOUNT))])
    await manager.remember_tool_output(USER, "get", {}, json.dumps(account("Late Corp")))
    memory = await manager.ensure_user_memories(USER)
    deal = memory.find_entity("Deal")
    assert deal is not None
    assert ids(memory.get_related_nodes(deal.node_id, relationship_types=["belongs_to"])) == [ACCOUNT]
