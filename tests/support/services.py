"""What tests of the HTTP services share."""

from __future__ import annotations

from fastapi.routing import iter_route_contexts

TOKENS = {
    "read": "read-token-0123456789",
    "write": "write-token-0123456789",
    "admin": "admin-token-0123456789",
}
BASE = "http://127.0.0.1:8470"


def environment(**more):
    """Return an environment with a token for each role."""
    return {f"ONEROW_TOKENS_{role.upper()}": token for role, token in TOKENS.items()} | more


def headers(role):
    """Return the header that a caller of ``role`` sends."""
    return {"Authorization": f"Bearer {TOKENS[role]}"}


def routes_of(app):
    """Return (method, path, route) of every route of ``app``, also of the routers that it includes."""
    return [
        (method, context.path_format, context)
        for context in iter_route_contexts(app.routes)
        for method in sorted(context.methods or {"GET"})
    ]
