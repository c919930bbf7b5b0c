"""Five processes that remember what tools return about the same things at once: everything exact, nothing twice."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from hybrid_memory import HybridMemoryManager, Settings, UserMemory
from hybrid_memory.observability import Events
from hybrid_memory.postgres import link
from hybrid_memory.postgres.target import Targets
from tests.support.children import Child
from tests.support.managers import as_json, settings_for
from tests.support.servers import administration
from tests.support.tool_results import jira_issue, jira_user, sobject, soql

PROCESSES = 5
USERS = ("nick", "eve")
AT_ONCE = 8
ACCOUNTS, DEALS, ISSUES, PEOPLE = 10, 20, 20, 6

Edge = tuple[str, str, str]


def account_id(number: int) -> str:
    return f"001Hs0000{number:06}AAA"


def deal_id(number: int) -> str:
    return f"006Hs0000{number:06}AAA"


def outputs(seed: str, index: int, count: int) -> Iterator[tuple[str, str, Any]]:
    """What one process is told: user, tool and result, the same again for the same seed."""
    rng = random.Random(f"{seed}:{index}")
    for number in range(count):
        user = rng.choice(USERS)
        serial = f"{index}-{number}"
        if rng.random() < 0.5:
            deals = [
                sobject(
                    "Opportunity", deal_id(one), Name=f"Deal {one}", AccountId=account_id(one % ACCOUNTS), **{serial: 1}
                )
                for one in rng.sample(range(DEALS), 2)
            ]
            # Some never tell the account, some do: it is a stub until one does.
            known = rng.choice([[], [rng.randrange(ACCOUNTS - 1)]])
            accounts = [sobject("Account", account_id(one), Name=f"Account {one}", **{serial: 1}) for one in known]
            yield user, "salesforce", soql(*deals, *accounts)
        else:
            one = rng.randrange(ISSUES)
            person = rng.randrange(PEOPLE)
            fields = {"assignee": jira_user(f"u{person}", f"Person {person}"), serial: 1}
            yield user, "jira", jira_issue(f"CRM-{one}", f"Issue {one}", one, **fields)


def in_processes(arguments: dict[str, Any]) -> list[int]:
    """How many outputs each process remembered."""
    with Child(remember, arguments, copies=PROCESSES) as parent:
        return [parent.result(seconds=600) for _ in range(PROCESSES)]


class Expected:
    """What there is to be for one user."""

    def __init__(self) -> None:
        self.outputs = 0
        self.reports: Counter[str] = Counter()
        self.serials: dict[str, set[str]] = {}
        self.edges: set[Edge] = set()
        self.spoken_of: set[str] = set()
        self.produced: Counter[str] = Counter()

    def take(self, result: Any) -> None:
        self.outputs += 1
        for record in result.get("records", [result]):
            if "key" in record:
                self._issue(record)
            else:
                self._sobject(record)

    def _report(self, entity: str, record: dict[str, Any]) -> None:
        self.reports[entity] += 1
        self.serials.setdefault(entity, set()).update(key for key in record if key[0].isdigit())

    def _both(self, start: str, end: str) -> None:
        self.edges |= {(start, "belongs_to", end), (end, "has", start)}

    def _sobject(self, record: dict[str, Any]) -> None:
        self._report(record["Id"], record)
        self.produced[record["Id"]] += 1
        if "AccountId" in record:
            self.spoken_of.add(record["AccountId"])
            self._both(record["Id"], record["AccountId"])

    def _issue(self, record: dict[str, Any]) -> None:
        key, person = record["key"], record["fields"]["assignee"]["accountId"]
        self._report(key, record["fields"])
        self.produced[key] += 1
        for mentioned in ("CRM", person):
            self.reports[mentioned] += 1
        self._both(key, "CRM")
        self.edges.add((key, "assigned_to", person))

    @property
    def stubs(self) -> set[str]:
        return self.spoken_of - self.reports.keys()


async def remember(events: Events, settings: dict[str, Any], seed: str, each: int, index: int) -> int:
    """One process: `each` outputs, some of them at once; how many were acknowledged."""
    # On a busy machine a probe takes long; that the server is taken for dead then is not what this is about.
    link._PROBE_SECONDS = 60
    async with HybridMemoryManager(Settings(**settings), events=events) as manager:
        told = enumerate(outputs(seed, index, each))

        async def work() -> int:
            done = 0
            for number, (user, tool, result) in told:
                await manager.remember_tool_output(user, tool, {"index": index, "number": number}, result)
                done += 1
            return done

        return sum(await asyncio.gather(*(work() for _ in range(AT_ONCE))))


def exactly(memory: UserMemory, expected: Expected) -> None:
    """Entities, reports of them, their data and the relations between them, no more and no less."""
    entities = {one.content["entity_id"]: one for one in memory.get_all_nodes() if one.context_type == "domain_entity"}
    assert {key: node.content["update_count"] for key, node in entities.items()} == expected.reports
    for key, serials in expected.serials.items():
        assert {name for name in entities[key].content["entity_data"] if name[0].isdigit()} == serials
    names = {node.node_id: key for key, node in entities.items()}
    found = [(edge.from_node_id, edge.relationship_type, edge.to_node_id) for edge in memory.get_all_edges()]
    between = Counter((names[start], kind, names[end]) for start, kind, end in found if start in names and end in names)
    assert between == Counter(edge for edge in expected.edges if expected.stubs.isdisjoint((edge[0], edge[2])))
    produced = Counter(names[end] for _, kind, end in found if kind == "produces")
    assert produced == expected.produced
    assert len([one for one in memory.get_all_nodes() if one.context_type == "tool_output"]) == expected.outputs


@pytest.mark.parametrize(
    "count",
    [12, pytest.param(1_000, marks=[pytest.mark.campaign, pytest.mark.timeout(900)])],
    ids=["short", "campaign"],
)
async def test_everything_is_exact(targets: Targets, rng: random.Random, count: int) -> None:
    settings = as_json(settings_for(targets, max_staleness_seconds=60, command_timeout_seconds=30))
    seed = str(rng.random())
    done = await asyncio.to_thread(in_processes, {"settings": settings, "seed": seed, "each": count})
    assert done == [count] * PROCESSES
    expected = {user: Expected() for user in USERS}
    for user, _, result in itertools.chain.from_iterable(outputs(seed, index, count) for index in range(PROCESSES)):
        expected[user].take(result)
    async with HybridMemoryManager(settings_for(targets)) as manager, administration(targets) as outside:
        for user in USERS:
            exactly(await manager.ensure_user_memories(user), expected[user])
            state = await outside.fetchrow(
                "select m.node_count, m.relationship_count, m.entity_count,"
                " (select count(*) from memory.nodes n where n.user_id = $1) as nodes,"
                " (select count(*) from memory.relationships r where r.user_id = $1) as relationships"
                " from memory.user_metadata m where m.user_id = $1",
                user,
            )
            assert state
            rows = expected[user].reports.keys() | expected[user].spoken_of
            assert state["entity_count"] == len(rows)
            assert state["node_count"] == state["nodes"] == len(rows) + expected[user].outputs
            assert state["relationship_count"] == state["relationships"]
    print(
        f"{PROCESSES} processes, {PROCESSES * count} outputs, "
        f"{sum(sum(one.reports.values()) for one in expected.values())} reports of "
        f"{sum(len(one.reports) for one in expected.values())} entities, "
        f"{sum(len(one.edges) for one in expected.values())} relations: exact"
    )
