"""The reference of all requests in Markdown, made from the services' own descriptions.

``python -m onerow.faces.http.reference > docs/reference/http.md``
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onerow.config import parse_settings
from onerow.faces.http.app import create_coordinator, create_worker
from onerow.faces.http.security import Access

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

INTRODUCTION = """\
# Requests

<!-- Made by `python -m onerow.faces.http.reference`; a test holds it to the services. -->

Both services describe themselves at `/openapi.json`. How they are run and what they keep to stands in
[services](../how-to/services.md).

A request says who sends it with `Authorization: Bearer TOKEN`; each operation names the role that it asks for. Names in
addresses are percent-encoded, also their slashes: batch `2026/01/17` is `2026%2F01%2F17`. Every answer has an
`X-Request-Id`, under which the service's log has what it says of the request.

What goes wrong is answered as `application/problem+json` (RFC 9457): `type`, `title`, `status`, `detail` (what
happened and what was kept), `hint` (what to do) and `kind` (the stable code, as on the command line).

| status | what to do |
| --- | --- |
| 400, 404, 415, 422 | put it right and send it again |
| 401, 403 | send a token, or one with the role that is asked for |
| 409 | look: somebody else was in the way, or things have changed |
| 413 | send less at once |
| 408, 429, 503 | come again, after the seconds in `Retry-After` where there are some |
| 500 | a failure of the service; its log has the reason under the answer's `request` |"""


def render() -> str:
    """Return the whole page."""
    settings = parse_settings({"warehouse": "duckdb:///warehouse.duckdb"}, file=Path("onerow.toml"), environ={})
    access = Access(anybody=True)
    worker, coordinator = (create(settings, access=access).openapi() for create in (create_worker, create_coordinator))
    both = worker["paths"].keys() & coordinator["paths"].keys()
    lines = [
        *INTRODUCTION.splitlines(),
        *("", "## Both"),
        *_operations(worker, both),
        *("", "## The worker"),
        *_operations(worker, worker["paths"].keys() - both),
        *("", "## The coordinator"),
        *_operations(coordinator, coordinator["paths"].keys() - both),
    ]
    return "\n".join(lines) + "\n"


def _operations(schema: Mapping[str, Any], paths: Collection[str]) -> Iterator[str]:
    schemas = schema["components"]["schemas"]
    for path in sorted(paths):
        for method, operation in schema["paths"][path].items():
            yield from ("", f"### {method.upper()} {path}", "")
            yield from (operation.get("description") or operation["summary"]).strip().splitlines()
            yield from ("", f"Role: {operation['x-role']}.")
            yield from _parameters(operation.get("parameters", []))
            yield from _body(operation.get("requestBody"), schemas)
            yield from _answers(operation["responses"], schemas)


def _parameters(parameters: list[Mapping[str, Any]]) -> Iterator[str]:
    if parameters:
        yield from ("", "| parameter | in | meaning |", "| --- | --- | --- |")
    for one in parameters:
        needed = "" if one.get("required") else ", optional"
        text = " ".join(one.get("description", "").split())
        yield f"| `{one['name']}` | {one['in']}{needed} | {text or _type(one['schema'])} |"


def _body(body: Mapping[str, Any] | None, schemas: Mapping[str, Any]) -> Iterator[str]:
    if body is None:
        return
    kinds = ", ".join(f"`{kind}`" for kind in body["content"])
    text = " ".join(body.get("description", "").split())
    yield from ("", f"Body: {kinds}. {text}".rstrip())
    for content in body["content"].values():
        yield from _members(content["schema"], schemas)


def _answers(responses: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    shown: list[list[str]] = []
    for status, response in sorted(responses.items()):
        if status == "default":
            continue
        text = response["description"]
        yield from ("", f"Answer {status}: {'' if text == 'Successful Response' else text}".rstrip(": "))
        for content in response.get("content", {}).values():
            members = list(_members(content["schema"], schemas))
            if members not in shown:
                shown.append(members)
                yield from members


def _members(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    found = _followed(schema, schemas)
    if not found.get("properties"):
        return
    yield from ("", "| member | type | meaning |", "| --- | --- | --- |")
    for name, member in found["properties"].items():
        text = " ".join(member.get("description", "").split())
        yield f"| `{name}` | {_type(member)} | {text} |"


def _followed(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a schema refers to, also the one choice of a body that may be left out."""
    if "$ref" in schema:
        found: Mapping[str, Any] = schemas[schema["$ref"].rpartition("/")[2]]
        return found
    choices = [one for one in schema.get("anyOf", []) if one.get("type") != "null"]
    return _followed(choices[0], schemas) if len(choices) == 1 else schema


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    return str(schema.get("type", "any"))


if __name__ == "__main__":
    sys.stdout.write(render())
