"""What tools return, in the shapes that the systems have."""

from collections.abc import Sequence
from typing import Any

ACCOUNT, CONTACT, OPPORTUNITY, OWNER = (
    "001Hs00003PqAbCIAV", "003Hs00004XyZaBIAV", "006Hs00001MnOpQIAV", "005Hs00000DeFgHIAV",
)  # fmt: skip
INCIDENT, CALLER, COMPANY, GROUP = ("1c741bd70b2322007518478d83673af3", "62826bf03710200044e0bfc8bcbe5df1",
                                    "31bea3d53790200044e0bfc8bcbe5dec", "8a5055c9c61122780043563ef53438e3")  # fmt: skip


def sobject(kind: str, record_id: str, **fields: Any) -> dict[str, Any]:
    """A record of the Salesforce REST API."""
    url = f"/services/data/v61.0/sobjects/{kind}/{record_id}"
    return {"attributes": {"type": kind, "url": url}, "Id": record_id, **fields}


def soql(*records: dict[str, Any]) -> dict[str, Any]:
    """The answer to a SOQL query."""
    return {"totalSize": len(records), "done": True, "records": list(records)}


def related(kind: str, record_id: str, name: str) -> dict[str, Any]:
    """A parent of which a query selected the name."""
    record = sobject(kind, record_id, Name=name)
    del record["Id"]
    return record


def account(name: str = "GenePoint", record_id: str = ACCOUNT, **fields: Any) -> dict[str, Any]:
    return sobject("Account", record_id, Name=name, Industry="Biotechnology", **fields)


def opportunity(name: str = "GenePoint Generator", **fields: Any) -> dict[str, Any]:
    defaults = {"AccountId": ACCOUNT, "StageName": "Negotiation", "Amount": 500000.0}
    return sobject("Opportunity", OPPORTUNITY, Name=name, **defaults | fields)


def jira_user(account_id: str, name: str) -> dict[str, Any]:
    return {"self": f"https://x.atlassian.net/rest/api/3/user?accountId={account_id}", "accountId": account_id,
            "displayName": name, "active": True}  # fmt: skip


def jira_issue(key: str, summary: str, number: int = 10002, **fields: Any) -> dict[str, Any]:
    """An issue of the Jira REST API."""
    base = "https://x.atlassian.net/rest/api/3"
    project = key.rpartition("-")[0]
    return {
        "expand": "operations",
        "id": str(number),
        "self": f"{base}/issue/{number}",
        "key": key,
        "fields": {
            "summary": summary,
            "issuetype": {"self": f"{base}/issuetype/1", "id": "1", "name": "Bug", "subtask": False},
            "status": {"self": f"{base}/status/3", "id": "3", "name": "In Progress"},
            "priority": {"self": f"{base}/priority/2", "id": "2", "name": "High"},
            "project": {"self": f"{base}/project/10000", "id": "10000", "key": project, "name": f"{project} project"},
            "labels": ["login"],
            "components": [{"id": "7", "name": "web"}],
            **fields,
        },
    }


def jira_search(*issues: dict[str, Any]) -> dict[str, Any]:
    return {"expand": "schema,names", "startAt": 0, "maxResults": 50, "total": len(issues), "issues": list(issues)}


def reference(table: str, sys_id: str, shown: str | None = None) -> dict[str, str]:
    """A reference field of ServiceNow."""
    field = {"link": f"https://x.service-now.com/api/now/table/{table}/{sys_id}", "value": sys_id}
    return field | ({"display_value": shown} if shown else {})


def incident(number: str = "INC0010001", sys_id: str = INCIDENT, **fields: Any) -> dict[str, Any]:
    """A record of the ServiceNow table API."""
    return {
        "sys_id": sys_id,
        "number": number,
        "short_description": "Mail is down",
        "sys_class_name": "incident",
        "state": "2",
        "priority": "1",
        "sys_created_by": "admin",
        "caller_id": reference("sys_user", CALLER, "Bea Lind"),
        "company": reference("core_company", COMPANY),
        "assignment_group": {"display_value": "Network", **reference("sys_user_group", GROUP)},
        "assigned_to": "",
        "parent_incident": "",
        **fields,
    }


def table(*records: dict[str, Any]) -> dict[str, Any]:
    return {"result": list(records)}


def listed(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"success": True, "data": {"items": list(items)}}
