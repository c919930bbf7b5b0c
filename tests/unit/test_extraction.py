"""Which entities records describe, and how they are related: recognisers, the search, and what bounds both."""

import dataclasses
import enum
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, strategies as st
from langchain_core.messages import ToolMessage
from pydantic import BaseModel

from hybrid_memory import EntityRef, FoundEntity, RecordContext
from hybrid_memory.memory.extraction.bounded import Bounded, cut_to
from hybrid_memory.memory.extraction.salesforce import long_form
from hybrid_memory.memory.extraction.search import MOST_ENTITIES, Findings, Search
from tests.support.tool_results import (
    ACCOUNT,
    CALLER,
    COMPANY,
    CONTACT,
    GROUP,
    INCIDENT,
    OPPORTUNITY,
    OWNER,
    account,
    incident,
    jira_issue,
    jira_search,
    jira_user,
    listed,
    opportunity,
    reference,
    related,
    sobject,
    soql,
    table,
)

Shown = tuple[str, str | None, str | None]


def searched(result: Any, tool: str = "tool", arguments: Any = None, *recognisers: Any) -> Findings:
    return Search(recognisers).findings(Bounded().plain(result), tool, Bounded().plain(arguments))


def shown(findings: Findings) -> list[Shown]:
    return [(one.entity_type, one.entity_id, one.entity_name) for one in (*findings.produced, *findings.mentioned)]


def relations(findings: Findings) -> set[tuple[str, str, str]]:
    """All relations, of records and of where they stand, by ids or names."""
    found = {
        (str(one.entity_id), kind, str(ref.entity_id or ref.entity_name))
        for one in (*findings.produced, *findings.mentioned)
        for kind, ref in one.relations
    }
    return found | {
        (str(link.start.entity_id), link.relationship_type, str(link.end.entity_id)) for link in findings.links
    }


class TestSalesforce:
    def test_a_query_with_parents_and_children(self) -> None:
        children = soql(sobject("Contact", CONTACT, FirstName="Edna", LastName="Frank"))
        record = account(OwnerId=OWNER, Owner=related("User", OWNER, "Ann Lee"), Contacts=children)
        findings = searched(soql(record), "salesforce_query")
        assert shown(findings) == [
            ("account", ACCOUNT, "GenePoint"), ("user", OWNER, "Ann Lee"), ("contact", CONTACT, "Edna Frank"),
        ]  # fmt: skip
        assert [one.entity_id for one in findings.produced] == [ACCOUNT]
        assert relations(findings) == {(ACCOUNT, "owned_by", OWNER), (CONTACT, "belongs_to", ACCOUNT)}
        (found,) = findings.produced
        assert found.data == {"Name": "GenePoint", "Industry": "Biotechnology", "OwnerId": OWNER}
        assert {one.entity_system for one in (*findings.produced, *findings.mentioned)} == {"salesforce"}

    def test_look_ups_without_records(self) -> None:
        task = {"Id": "00THs00001AbCdEIAV", "Subject": "Call", "WhatId": OPPORTUNITY, "WhoId": CONTACT}
        found = searched([opportunity(CreatedById=OWNER, ParentId=None), task])
        assert shown(found) == [
            ("opportunity", OPPORTUNITY, "GenePoint Generator"), ("task", "00THs00001AbCdEIAV", "Call"),
        ]  # fmt: skip
        assert relations(found) == {
            (OPPORTUNITY, "belongs_to", ACCOUNT), (OPPORTUNITY, "created_by", OWNER),
            ("00THs00001AbCdEIAV", "belongs_to", OPPORTUNITY), ("00THs00001AbCdEIAV", "relates_to", CONTACT),
        }  # fmt: skip

    def test_both_forms_of_an_id_are_one(self) -> None:
        # The pair that Salesforce's own documentation of the record id shows letter by letter.
        assert long_form("001A0000006Vm9r") == "001A0000006Vm9rIAC"
        short, long = searched(account(record_id=ACCOUNT[:15])), searched(account())
        assert shown(short) == shown(long)
        assert short.produced[0].other_ids == (ACCOUNT[:15],)

    def test_the_object_asked_for_tells_what_a_bare_record_is(self) -> None:
        record = {"Id": "a0BHs00001QwErTYUI", "Name": "Custom"}
        assert shown(searched(record, "salesforce_get", {"object": "Visit__c"})) == [
            ("visit__c", "a0BHs00001QwErTYUI", "Custom")
        ]
        assert shown(searched(record, "get")) == []

    def test_a_name_that_was_not_selected_is_not_made_up(self) -> None:
        assert shown(searched(sobject("Account", ACCOUNT, Industry="x"))) == [("account", ACCOUNT, None)]


class TestJira:
    def test_an_issue_with_all_around_it(self) -> None:
        issue = jira_issue(
            "CRM-7",
            "Login fails",
            assignee=jira_user("5b10ac", "Mia Krystof"),
            reporter=jira_user("5b10ad", "Rob Roe"),
            parent={"id": "10001", "key": "CRM-1", "fields": {"summary": "Login epic"}},
            subtasks=[{"id": "10003", "key": "CRM-8", "fields": {"summary": "Write a test"}}],
            issuelinks=[{"type": {"name": "Blocks"}, "inwardIssue": {"key": "OPS-1", "fields": {"summary": "VPN"}}}],
            comment={"comments": [{"id": "1", "author": jira_user("5b10ae", "Zed"), "body": "me too"}]},
        )
        findings = searched(jira_search(issue), "jira_search")
        assert set(shown(findings)) == {
            ("issue", "CRM-7", "Login fails"), ("project", "CRM", "CRM project"), ("user", "5b10ac", "Mia Krystof"),
            ("user", "5b10ad", "Rob Roe"), ("issue", "CRM-1", "Login epic"), ("issue", "CRM-8", "Write a test"),
            ("issue", "OPS-1", "VPN"), ("user", "5b10ae", "Zed"),
        }  # fmt: skip
        assert [one.entity_id for one in findings.produced] == ["CRM-7"]
        assert relations(findings) == {
            ("CRM-7", "belongs_to", "CRM"), ("CRM-7", "assigned_to", "5b10ac"), ("CRM-7", "created_by", "5b10ad"),
            ("CRM-7", "child_of", "CRM-1"), ("CRM-8", "subtask_of", "CRM-7"), ("CRM-7", "depends_on", "OPS-1"),
            ("CRM-1", "belongs_to", "CRM"), ("CRM-8", "belongs_to", "CRM"), ("OPS-1", "belongs_to", "OPS"),
        }, "the author of a comment did not create the issue"  # fmt: skip
        assert findings.produced[0].other_ids == ("10002",)
        assert findings.produced[0].data == {
            "summary": "Login fails", "issuetype": "Bug", "status": "In Progress", "priority": "High",
            "labels": ["login"], "components": ["web"],
        }  # fmt: skip

    def test_a_subtask(self) -> None:
        issue = jira_issue("CRM-8", "Part", issuetype={"name": "Sub-task", "subtask": True}, parent={"key": "CRM-7"})
        assert relations(searched(issue)) == {("CRM-8", "subtask_of", "CRM-7"), ("CRM-8", "belongs_to", "CRM")}

    def test_the_flat_form_of_many_tools(self) -> None:
        issue = {"key": "CRM-7", "summary": "Login fails", "status": "Open", "assignee": "Mia Krystof"}
        findings = searched([issue])
        assert relations(findings) == {("CRM-7", "belongs_to", "CRM"), ("CRM-7", "assigned_to", "Mia Krystof")}
        assert findings.produced[0].data == {"summary": "Login fails", "status": "Open", "assignee": "Mia Krystof"}

    def test_a_project_on_its_own_needs_a_sign(self) -> None:
        project = {"id": "10123", "key": "CRM", "name": "Customers"}
        assert shown(searched(project, "jira_create")) == [("project", "CRM", "Customers")]
        assert shown(searched(project, "create")) == []


class TestServiceNow:
    def test_an_incident_with_references(self) -> None:
        parent = {"display_value": "INC0010000", "value": "f" * 32}
        findings = searched(table(incident(parent_incident=parent)), "servicenow_query", {"table": "incident"})
        assert shown(findings) == [("incident", "INC0010001", "Mail is down")]
        assert relations(findings) == {
            ("INC0010001", "created_by", CALLER), ("INC0010001", "belongs_to", COMPANY),
            ("INC0010001", "assigned_to", GROUP), ("INC0010001", "child_of", "INC0010000"),
        }  # fmt: skip
        (found,) = findings.produced
        assert found.other_ids == (INCIDENT,)
        refs = {ref.entity_id: (ref.entity_type, ref.entity_name) for _, ref in found.relations}
        assert refs[CALLER] == ("user", "Bea Lind")
        assert refs[COMPANY] == ("company", None)
        assert refs[GROUP] == ("group", "Network")
        assert found.data["caller_id"] == "Bea Lind"
        assert "assigned_to" not in found.data

    def test_display_values_of_every_field(self) -> None:
        record = {
            name: {"display_value": shown, "value": value}
            for name, shown, value in (
                ("sys_id", "", CALLER), ("name", "Bea Lind", "Bea Lind"), ("user_name", "bea", "bea"),
                ("company", "ACME", COMPANY),
            )
        }  # fmt: skip
        findings = searched(table(record), "servicenow", {"table": "sys_user"})
        assert shown(findings) == [("user", CALLER, "Bea Lind")]
        assert relations(findings) == {(CALLER, "belongs_to", COMPANY)}

    @pytest.mark.parametrize(
        ("number", "kind"),
        [("CHG0030001", "change"), ("PRB0040001", "problem"), ("RITM0010001", "requested_item"),
         ("SCTASK0010001", "task"), ("KB0000001", "knowledge_article")],
    )  # fmt: skip
    def test_the_number_tells_what_it_is(self, number: str, kind: str) -> None:
        assert shown(searched({"number": number, "short_description": "x"})) == [(kind, number, "x")]

    def test_a_reference_by_name_alone(self) -> None:
        findings = searched({"number": "INC0098765", "short_description": "x", "caller_id": "Bea Lind"})
        assert relations(findings) == {("INC0098765", "created_by", "Bea Lind")}

    def test_a_request_and_its_parts(self) -> None:
        task = {"number": "SCTASK0010001", "request_item": reference("sc_req_item", "a" * 32)}
        assert relations(searched(task)) == {("SCTASK0010001", "belongs_to", "a" * 32)}


class TestGeneric:
    def test_nested_records_and_lists(self) -> None:
        tree = {
            "id": "P-1",
            "name": "Redesign",
            "type": "Project",
            "owner": {"id": "u1", "name": "Ann"},
            "tasks": [
                {
                    "id": "T-1",
                    "title": "Draw",
                    "type": "task",
                    "assignees": [{"id": "u2", "name": "Bo", "type": "user"}],
                },
                {"id": "T-2", "title": "Build", "type": "task", "parent_id": "T-1", "created_by": "Cy"},
            ],
            "children": [{"id": "P-2", "name": "Part", "type": "project"}],
            "budget": {"amount": 5, "currency": "EUR"},
        }
        findings = searched(listed([tree]))
        assert relations(findings) == {
            ("P-1", "owned_by", "u1"), ("T-1", "belongs_to", "P-1"), ("T-2", "belongs_to", "P-1"),
            ("T-1", "assigned_to", "u2"), ("T-2", "child_of", "T-1"), ("T-2", "created_by", "Cy"),
            ("P-2", "child_of", "P-1"),
        }  # fmt: skip
        assert findings.produced[0].entity_type == "project"
        assert findings.produced[0].data["budget"] == {"amount": 5, "currency": "EUR"}
        assert "tasks" not in findings.produced[0].data

    def test_a_number_is_an_id_only_with_its_type(self) -> None:
        record = {"id": 1, "name": "Acme", "type": "customer", "account_id": 7, "orders": [
            {"id": 1, "name": "First", "type": "order"}]}  # fmt: skip
        findings = searched(record)
        assert [one.entity_id for one in (*findings.produced, *findings.mentioned)] == ["customer:1", "order:1"]
        assert findings.produced[0].other_ids == ("1",)
        assert ("customer:1", "belongs_to", "account:7") in relations(findings)

    @pytest.mark.parametrize(
        "record",
        [
            {"id": "1", "name": "no type"},
            {"id": "1", "type": "no name"},
            {"name": "no id", "type": "customer"},
            {"id": "1", "name": "get_account", "type": "tool_use"},
            {"id": True, "name": "x", "type": "customer"},
            {"id": "", "name": "x", "type": "customer"},
            {"id": "1", "name": "x", "type": {"a": 1}},
            {"id": "1", "name": "Board", "type": "scrum", "self": "https://x/rest/agile/1.0/board/1"},
        ],
    )
    def test_what_only_looks_like_an_entity(self, record: dict[str, Any]) -> None:
        assert shown(searched(record)) == []


class TestAnyForm:
    RECORD: Mapping[str, Any] = {"id": "C-1", "name": "Acme", "type": "customer"}
    FOUND: Shown = ("customer", "C-1", "Acme")

    def test_forms_of_a_result(self) -> None:
        @dataclasses.dataclass
        class Row:
            id: str
            name: str
            type: str

        class Model(BaseModel):
            rows: list[Row]

        text = json.dumps(self.RECORD)
        message = ToolMessage(content=text, tool_call_id="call-1")
        blocks = ToolMessage(content=[{"type": "text", "text": text}], tool_call_id="call-1", id="m", name="crm")
        for result in (
            self.RECORD, [self.RECORD], text, [[{"results": [self.RECORD]}]], {"data": text}, json.dumps({"x": text}),
            message, blocks, [message], Row(**self.RECORD), Model(rows=[Row(**self.RECORD)]),
            ({"records": (self.RECORD,)},),
        ):  # fmt: skip
            assert shown(searched(result)) == [self.FOUND], result

    @pytest.mark.parametrize("result", [None, "", "no JSON", "{broken", "[" * 100_000, 7, 1.5, True, [], {}, [[[]]]])
    def test_results_without_records(self, result: Any) -> None:
        assert shown(searched(result)) == []

    def test_no_more_than_so_many(self) -> None:
        findings = searched([dict(self.RECORD, id=f"C-{number}") for number in range(MOST_ENTITIES + 5)])
        assert (len(findings.produced), findings.left_out) == (MOST_ENTITIES, 5)


class TestOwnRecognisers:
    def test_they_come_before_those_that_are_built_in(self) -> None:
        def shop(record: Mapping[str, Any], context: RecordContext) -> FoundEntity | None:
            if "sku" not in record:
                return None
            assert (context.tool_name, context.field, context.arguments) == ("shop_list", "products", {"page": 1})
            return FoundEntity(
                entity_system="shop",
                entity_type="product",
                entity_name=record["name"],
                entity_id=record["sku"],
                relations=[("belongs_to", EntityRef("shop", record["vendor"]))],
            )

        result = {"products": [{"id": "1", "name": "Cup", "type": "x", "sku": "S1", "vendor": "V1"}]}
        findings = searched(result, "shop_list", {"page": 1}, shop)
        assert shown(findings) == [("product", "S1", "Cup")]
        assert relations(findings) == {("S1", "belongs_to", "V1")}

    @pytest.mark.parametrize(
        "wrong",
        [
            lambda *_: 1 / 0,
            lambda *_: {"entity_id": "1"},
            lambda *_: FoundEntity(entity_system="s", entity_type="t", relations=[("owns", "1")]),  # type: ignore[list-item] # that is what is wrong
            lambda *_: FoundEntity(entity_system="s", entity_type="t", relations=[("owns",)]),  # type: ignore[list-item] # the same
            lambda *_: FoundEntity(entity_system="s", entity_type="t", other_ids=[1]),  # type: ignore[list-item] # the same
        ],
    )
    def test_a_broken_one_is_passed_over(self, wrong: Any) -> None:
        findings = searched([account(), account(record_id="001Hs00003PqAbDIAV")], "t", None, wrong)
        assert len(findings.produced) == 2
        assert list(findings.failures) == [0]


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no")


class Colour(enum.Enum):
    RED = "red"


class TestBounded:
    def test_what_is_data_keeps_its_meaning(self) -> None:
        value = {
            "when": datetime(2026, 1, 2, tzinfo=UTC), 1: Decimal("1.5"), "id": UUID(int=1), "colour": Colour.RED,
            "set": {1}, "tuple": (None, True), "bytes": b"abc", "nan": math.nan, "big": 2**2000, "nul": "a\x00b",
            "half": "\ud800", "object": object, "hostile": Hostile(),
        }  # fmt: skip
        plain = Bounded().plain(value)
        assert plain == {
            "when": "2026-01-02T00:00:00+00:00", "1": "1.5", "id": str(UUID(int=1)), "colour": "red", "set": [1],
            "tuple": [None, True], "bytes": "<3 bytes>", "nan": "nan", "big": "<integer of 2001 bits>", "nul": "ab",
            "half": "?", "object": "<class 'object'>", "hostile": "<unreadable: RuntimeError>",
        }  # fmt: skip

    def test_what_holds_itself_is_cut(self) -> None:
        loop: list[Any] = []
        loop += [loop, loop]
        bounded = Bounded(most_values=1_000)
        json.dumps(bounded.plain(loop))
        assert bounded.left_out > 0

    def test_what_is_left_out_is_counted(self) -> None:
        bounded = Bounded(most_values=10, most_depth=2)
        assert bounded.plain([[1, [2, 3]], *range(20)]) == [[1, []], *range(7)]
        assert bounded.left_out == 2 + 13
        huge = Bounded()
        huge.plain(range(10**12))
        assert huge.left_out == 10**12 - 50_000

    @given(
        st.recursive(st.none() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=20), st.integers(4, 200)
    )
    def test_a_cut_value_fits(self, value: Any, most: int) -> None:
        plain = Bounded().plain(value)
        cut, was_cut = cut_to(plain, most)
        assert len(json.dumps(cut, ensure_ascii=False, separators=(",", ":")).encode()) <= most
        assert was_cut or cut == plain
