"""Who may do what: every route, every role; tokens, sessions, and what a browser must not be made to do."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from typing import Annotated

import pytest
from fastapi import Depends

from onerow.config import parse_url
from onerow.errors import ConfigurationError
from onerow.faces.http.app import create_coordinator, create_worker
from onerow.faces.http.security import COOKIE, SESSION_S, Access, Caller, Require, Role, require
from support.bench import predictions
from support.services import BASE, TOKENS, environment, headers, routes_of

PUBLIC = {
    ("GET", "/health"),
    ("POST", "/v1/session"),
    ("DELETE", "/v1/session"),
    ("GET", "/login"),
    ("POST", "/login"),
    ("POST", "/logout"),
    ("GET", "/static/{name}"),
}
"""What anybody may ask for: there is nothing of anybody's data in it."""


def role_of(route) -> Require | None:
    """Return the dependency of a route that asks for a role."""
    found = [one.call for one in route.dependant.dependencies if isinstance(one.call, Require)]
    assert len(found) <= 1, f"{route.path} asks for several roles"
    return found[0] if found else None


def check_asked_to_log_in(answer) -> None:
    """A program is told 401, a person's browser is shown the way to the login."""
    request = f"{answer.request.method} {answer.request.url}"
    assert answer.status_code == 401 or answer.headers.get("location", "").startswith("/login"), request
    assert answer.status_code in {401, 303}, request


@pytest.mark.parametrize("create", [create_coordinator, create_worker])
def test_every_route_asks_for_a_role_and_refuses_those_below(create, settings, access, serving):
    app = create(settings, access=access)
    client = serving(app, follow_redirects=False)
    asked = 0
    for method, path, route in routes_of(app):
        required = role_of(route)
        assert required is not None, f"{method} {path} asks nobody for a role: use require(Role...) or public()"
        address = re.sub(r"\{[^}]+\}", "predictions", path)
        if required.role is None:
            assert (method, path) in PUBLIC, f"{method} {path} is public"
            continue
        asked += 1
        check_asked_to_log_in(client.request(method, address))
        check_asked_to_log_in(client.request(method, address, headers={"Authorization": "Bearer " + "x" * 30}))
        for role in Role:
            status = client.request(method, address, headers=headers(role.name.lower())).status_code
            if role < required.role:
                assert status == 403, f"{method} {path} as {role.name}"
            else:
                assert status not in {401, 403}, f"{method} {path} as {role.name}"
    assert asked >= 2


def test_a_route_that_forgets_its_role_is_found(settings, access):
    app = create_worker(settings, access=access)

    @app.get("/forgotten")
    async def forgotten():
        return {}

    found = {path: role_of(route) for _, path, route in routes_of(app)}
    assert found["/forgotten"] is None
    assert found["/health/deep"].role == Role.READ


def test_without_tokens_only_loopback_is_bound_to():
    for host in ("127.0.0.1", "localhost", "::1", "127.8.0.1"):
        assert Access.from_environment({}, host=host).anybody
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""):  # noqa: S104
        with pytest.raises(ConfigurationError, match="loopback only"):
            Access.from_environment({}, host=host)
        assert not Access.from_environment(environment(), host=host).anybody


@pytest.mark.parametrize("token", ["short", "has a blank in it 0123456789", "ümlaut-0123456789abcdef"])
def test_what_is_no_token_is_refused_without_being_told(token):
    with pytest.raises(ConfigurationError, match="ONEROW_TOKENS_READ") as caught:
        Access.from_environment({"ONEROW_TOKENS_READ": token}, host="127.0.0.1")
    assert token not in str(caught.value)


def test_a_token_has_one_role():
    same = {"ONEROW_TOKENS_READ": TOKENS["read"], "ONEROW_TOKENS_ADMIN": TOKENS["read"]}
    with pytest.raises(ConfigurationError, match="another role") as caught:
        Access.from_environment(same, host="127.0.0.1")
    assert TOKENS["read"] not in str(caught.value)


def test_tokens_are_rotated_in_a_file(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("old-token-0123456789\nnew-token-0123456789\n")
    access = Access.from_environment({"ONEROW_TOKENS_WRITE_FILE": str(path)}, host="0.0.0.0")  # noqa: S104
    assert {access.by_token(f"{word}-token-0123456789").role for word in ("old", "new")} == {Role.WRITE}
    assert access.by_token("other-token-0123456789") is None
    with pytest.raises(ConfigurationError, match="FileNotFoundError"):
        Access.from_environment({"ONEROW_TOKENS_READ_FILE": str(tmp_path / "none")}, host="127.0.0.1")


def test_no_secret_is_shown_by_what_holds_it(access):
    shown = f"{access!r} {access.tokens!r} {vars(access)!r}"
    for token in access.tokens:
        assert token.digest.hex() not in shown
        assert repr(token.key) not in shown
    assert all(text not in shown for text in TOKENS.values())


def test_no_secret_reaches_logs_or_answers(coordinator, caplog):
    caplog.set_level(logging.DEBUG)
    secret = "a-secret-that-is-not-known-0123456789"
    coordinator.cookies.set(COOKIE, secret)
    answers = [
        coordinator.get("/health/deep", headers={"Authorization": f"Bearer {secret}"}),
        coordinator.post("/v1/session", json={"token": secret}),
        coordinator.post("/v1/session", json={"token": [secret]}),
        coordinator.post("/v1/session", json={"token": secret, "more": secret}),
        coordinator.post("/v1/session", json={"token": TOKENS["admin"]}),
        coordinator.get("/health/deep"),
        coordinator.get("/health/deep", headers=headers("read")),
    ]
    told = caplog.text + "".join(answer.text + str(answer.headers) for answer in answers)
    assert secret not in told
    assert all(text not in told for text in TOKENS.values())


def test_a_session_is_opened_with_a_token_and_acts_with_its_csrf_token_only(coordinator):
    assert coordinator.post("/v1/session", json={"token": "x" * 30}).status_code == 401
    opened = coordinator.post("/v1/session", json={"token": TOKENS["read"]})
    assert opened.status_code == 200
    cookie = opened.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    who = coordinator.get("/v1/session").json()
    assert who["role"] == "read"
    assert who["csrf"] == opened.json()["csrf"] != ""
    assert coordinator.delete("/v1/session").status_code == 204
    assert coordinator.get("/v1/session").status_code == 401


@pytest.fixture
def acting(settings, access, serving):
    """A client that is logged in as an admin, and an action."""
    app = create_coordinator(settings, access=access)

    @app.post("/v1/action")
    async def act(caller: Annotated[Caller, Depends(require(Role.ADMIN))]) -> dict[str, str]:
        return {"by": caller.name}

    client = serving(app)
    csrf = client.post("/v1/session", json={"token": TOKENS["admin"]}).json()["csrf"]
    return client, csrf


def test_an_action_of_a_page_needs_csrf_token_and_origin(acting):
    client, csrf = acting
    assert client.post("/v1/action").status_code == 403
    assert client.post("/v1/action", headers={"X-CSRF-Token": csrf[:-1] + "x"}).status_code == 403
    good = {"X-CSRF-Token": csrf, "Origin": BASE}
    assert client.post("/v1/action", headers=good).status_code == 200
    for origin in ("http://evil.example", "http://127.0.0.1:9999", "null", "http://127.0.0.1:8470.evil.example"):
        assert client.post("/v1/action", headers=good | {"Origin": origin}).status_code == 403
    assert client.post("/v1/action", headers=good | {"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_the_csrf_token_of_another_session_is_none(acting):
    client, csrf = acting
    other = client.post("/v1/session", json={"token": TOKENS["admin"]}).json()["csrf"]
    assert other != csrf
    assert client.post("/v1/action", headers={"X-CSRF-Token": csrf}).status_code == 403
    assert client.post("/v1/action", headers={"X-CSRF-Token": other}).status_code == 200


def test_a_session_ends_by_time_and_with_its_token(access):
    token = access.by_token(TOKENS["write"])
    cookie = access.open_session(token, now_s=1000.0)
    assert access.by_session(cookie, now_s=1000.0 + SESSION_S - 1).role == Role.WRITE
    assert access.by_session(cookie, now_s=1000.0 + SESSION_S) is None
    assert Access.from_environment(environment(ONEROW_TOKENS_WRITE="new-token-0123456789"), host="127.0.0.1").by_session(cookie, now_s=1000.0) is None


@pytest.mark.parametrize("change", [lambda c: c + "0", lambda c: c.replace(".", "", 1), lambda c: "", lambda c: "....", lambda c: c.replace(c.split(".")[1], "99999999999")])
def test_a_session_that_was_changed_is_none(access, change):
    cookie = access.open_session(access.by_token(TOKENS["read"]))
    assert access.by_session(cookie) is not None
    assert access.by_session(change(cookie)) is None


def test_without_tokens_names_that_lead_here_are_refused(settings, serving):
    client = serving(create_coordinator(settings, access=Access(anybody=True)))
    assert client.get("/v1/session").json() == {"name": "local", "role": "admin", "csrf": ""}
    assert client.get("/v1/session", headers={"Host": "localhost:8470"}).status_code == 200
    assert client.get("/v1/session", headers={"Host": "[::1]:8470"}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:8470", ""):
        assert client.get("/v1/session", headers={"Host": host}).status_code == 403, host
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 403
    assert client.post("/v1/session", json={"token": "x"}, headers={"Origin": "http://evil.example"}).status_code == 403


def test_answers_tell_browsers_to_be_careful(coordinator):
    for answer in (coordinator.get("/health"), coordinator.get("/nothing"), coordinator.get("/health/deep")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert len(answer.headers["x-request-id"]) == 16


def test_the_password_of_a_database_is_told_to_nobody(settings, access, serving, caplog, capfd):
    secret = "sup3r-s3cret-w0rd"
    url = parse_url(f"postgresql://onerow:{secret}@127.0.0.1:1/none", settings.file.parent)
    client = serving(create_worker(replace(settings, warehouse=url, locks=url), access=access))
    caplog.set_level(logging.DEBUG)
    rows = "/v1/tables/predictions/batches/b/rows?worker=w"
    more = headers("write") | {"Content-Type": "application/x-ndjson"}
    body = "".join(json.dumps(row, default=str) + "\n" for row in predictions(2, seed=1))
    answers = [client.get("/health/deep", headers=headers("read")), client.post(rows, content=body, headers=more)]
    assert [answer.status_code for answer in answers] == [503, 500]
    assert "127.0.0.1" not in answers[1].text, "a 500 has nothing of the inside"
    assert answers[1].json()["request"] == answers[1].headers["x-request-id"]
    printed = capfd.readouterr()
    told = [caplog.text, *(repr(record.__dict__) for record in caplog.records), printed.out, printed.err, repr(settings), repr(url)]
    assert secret not in "".join([*told, *(answer.text for answer in answers)])
