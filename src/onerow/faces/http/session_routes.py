"""Logging in: a token becomes a session's cookie, for pages."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from onerow.faces.http.refusals import UnauthorizedError
from onerow.faces.http.security import COOKIE, SESSION_S, Access, Caller, Role, public, require

router = APIRouter(prefix="/v1/session", tags=["session"])

MAX_TOKEN_CHARS = 1000


class Login(BaseModel):
    """A token that somebody logs in with."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    token: str = Field(max_length=MAX_TOKEN_CHARS, repr=False)


class Session(BaseModel):
    """Who is logged in.

    Attributes:
        csrf: to be sent as the header ``X-CSRF-Token`` with every action; empty where no session is used.
    """

    name: str
    role: str
    csrf: str


def _told(caller: Caller) -> Session:
    return Session(name=caller.name, role=caller.role.name.lower(), csrf=caller.csrf)


@router.post("")
async def log_in(
    login: Login, request: Request, response: Response, _: Annotated[Caller, Depends(public())]
) -> Session:
    """Open a session for a page. Programs send their token with each request instead."""
    access: Access = request.app.state.access
    token = access.by_token(login.token)
    if access.anybody:
        return _told(Caller("local", Role.ADMIN))
    if token is None:
        raise UnauthorizedError("The token is none that this service knows.")
    cookie = access.open_session(token)
    caller = access.by_session(cookie)
    if caller is None:  # the clock has jumped over the whole session
        raise UnauthorizedError("The session is over.", hint="Log in again.")
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=int(SESSION_S),
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return _told(caller)


@router.get("")
async def who(caller: Annotated[Caller, Depends(require(Role.READ))]) -> Session:
    """Say who is logged in."""
    return _told(caller)


@router.delete("", status_code=204)
async def log_out(response: Response, _: Annotated[Caller, Depends(public())]) -> None:
    """Have the browser forget the session."""
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
