"""The reference of all requests is that of the services as they are."""

from __future__ import annotations

from pathlib import Path

from onerow.faces.http.app import create_coordinator, create_worker
from onerow.faces.http.reference import render
from onerow.faces.http.security import Require
from support.services import routes_of

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "http.md"


def test_the_reference_is_current():
    assert PAGE.read_text("utf-8") == render(), "python -m onerow.faces.http.reference > docs/reference/http.md"


def test_every_operation_tells_its_role_and_what_it_does(settings, access):
    for create in (create_worker, create_coordinator):
        app = create(settings, access=access)
        described = app.openapi()["paths"]
        asked = {(method, path): route for method, path, route in routes_of(app)}
        for path, operations in described.items():
            for method, operation in operations.items():
                role = next(one.call.role for one in asked[method.upper(), path].dependant.dependencies if isinstance(one.call, Require))
                assert operation["x-role"] == ("anybody" if role is None else role.name.lower())
                assert operation["description"]
                assert ("security" in operation) == (role is not None), f"{method} {path}"
                assert "default" in operation["responses"]
