"""The pages: for people, in a browser, with or without its scripts."""

from __future__ import annotations

import shlex
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from onerow.core.names import check_name
from onerow.errors import OnerowError
from onerow.faces.http import problems, session_routes
from onerow.faces.http.dashboard import pages, panels
from onerow.faces.http.dashboard.desk import AtDesk
from onerow.faces.http.names import BatchName, TableName
from onerow.faces.http.refusals import NotFoundError, RequestError, UnauthorizedError
from onerow.faces.http.security import COOKIE, Caller, Require, Role, bearer, public

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from onerow.services.overview.model import Level

MAX_FORM_BYTES: Final = 10_000
MAX_TEXT: Final = 500

TITLES: Final = {
    400: "This cannot be shown",
    403: "Not for this role",
    404: "There is no such page",
    409: "It was changed meanwhile",
    422: "This cannot be shown",
    429: "Too many requests",
    503: "Not now",
}


class PageRoute(APIRoute):
    """A route whose errors are pages too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except OnerowError as error:
                return problem_page(request, error)
            except RequestValidationError:
                return problem_page(request, RequestError("The address is not as it should be."))

        return handled


def problem_page(request: Request, error: OnerowError) -> Response:
    """Return a page that says what is wrong; of a failure of ours it names the kind and where to look."""
    answered = problems.answer(error, problems.request_id_of(request))
    status = answered.status_code
    ours = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    level: Level = "unknown" if ours else "warning"
    hidden = status == HTTPStatus.INTERNAL_SERVER_ERROR
    page = pages.render(
        "problem.html",
        caller=None,
        now=request.app.state.desk.clock.utc_now(),
        status=status,
        icon=level,
        level=level,
        title=TITLES.get(status, "It could not be done"),
        detail="The service could not do it." if hidden else error.message,
        hint=f"Its log says why, for the request {problems.request_id_of(request)}." if hidden else error.hint,
        kind=error.kind,
        retries=False,
    )
    if "retry-after" in answered.headers:
        page.headers["Retry-After"] = answered.headers["retry-after"]
    return page


Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


class PageReader(Require):
    """The reader of a page; who is not logged in is sent to the page where that is done."""

    def __init__(self) -> None:
        super().__init__(Role.READ)

    def __call__(self, request: Request, credentials: Bearer) -> Caller:
        """Return who reads the page."""
        try:
            return super().__call__(request, credentials)
        except UnauthorizedError:
            asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            where = "/login" if asked == "/" else f"/login?next={quote(asked, safe='')}"
            raise HTTPException(HTTPStatus.SEE_OTHER, headers={"Location": where}) from None


router: Final = APIRouter(include_in_schema=False, route_class=PageRoute)

Reader = Annotated[Caller, Depends(PageReader())]
Anybody = Annotated[Caller, Depends(public())]


@router.get("/")
def overview(desk: AtDesk, caller: Reader) -> Response:
    """Show whether all is well, and everything else."""
    seen = desk.overview()
    now = desk.clock.utc_now()
    return pages.render(
        "overview.html",
        caller=caller,
        now=now,
        status=503 if seen.blind else 200,
        icon=seen.verdict.level,
        seen=seen,
        admin=caller.role >= Role.ADMIN,
        facts=panels.facts(seen),
        days=desk.lookout.days(),
        panels=panels.panels(seen, desk.limits),
    )


@router.get("/consolidations/{consolidation:name}")
def consolidation(consolidation: str, desk: AtDesk, caller: Reader) -> Response:
    """Show one consolidation."""
    run = desk.run(check_name(consolidation, "consolidation"))
    return pages.render("consolidation.html", caller=caller, now=desk.clock.utc_now(), run=run)


@router.get("/tables/{table:name}/batches/{batch:name}")
def batch(table: TableName, batch: BatchName, desk: AtDesk, caller: Reader) -> Response:
    """Show one batch with its parts."""
    view, history = desk.batch(table, batch)
    return pages.render("batch.html", caller=caller, now=desk.clock.utc_now(), batch=view, history=history)


@router.get("/tables/{table:name}/duplicates")
def duplicates(
    table: TableName,
    desk: AtDesk,
    caller: Reader,
    partition: Annotated[str | None, Query(max_length=MAX_TEXT)] = None,
    *,
    look: Annotated[bool, Query()] = False,
) -> Response:
    """Show the keys of a table that stand more than once; it is looked at only when that was asked for."""
    name = partition or None
    found = desk.duplicates(table, name) if look else None
    command = f"onerow dedupe --table {shell_word(table)}" + (f" --partition {shell_word(name)}" if name else "")
    return pages.render(
        "duplicates.html",
        caller=caller,
        now=desk.clock.utc_now(),
        table=table,
        partition=name,
        partitioned=desk.table(table).partition is not None,
        check=found.report if found else None,
        looked_at=found.looked_at if found else "",
        plan_command=command,
    )


# --- logging in, without scripts ------------------------------------------------------------


@router.get("/login")
def login(
    request: Request, desk: AtDesk, _: Anybody, where: Annotated[str, Query(alias="next", max_length=2000)] = "/"
) -> Response:
    """Ask for a token."""
    if request.app.state.access.anybody:
        return RedirectResponse("/", status_code=HTTPStatus.SEE_OTHER)
    return _login_page(desk, where, "")


@router.post("/login")
async def log_in(
    request: Request, desk: AtDesk, caller: Anybody, where: Annotated[str, Query(alias="next", max_length=2000)] = "/"
) -> Response:
    """Open a session and go on to the page that was asked for."""
    body = await request.body()
    sent = parse_qs(body[:MAX_FORM_BYTES].decode("utf-8", "replace")).get("token", [""])[0].strip()
    onward = RedirectResponse(own_path(where), status_code=HTTPStatus.SEE_OTHER)
    try:
        await session_routes.log_in(session_routes.Login(token=sent[:MAX_TEXT]), request, onward, caller)
    except UnauthorizedError as error:
        return _login_page(desk, where, error.message, status=HTTPStatus.UNAUTHORIZED)
    return onward


@router.post("/logout")
def log_out(_: Anybody) -> Response:
    """Have the browser forget the session."""
    onward = RedirectResponse("/login", status_code=HTTPStatus.SEE_OTHER)
    onward.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return onward


def own_path(where: str) -> str:
    """Return ``where`` if it is a page of this service, else the overview: nobody is sent elsewhere."""
    fine = where.startswith("/") and not where.startswith(("//", "/\\")) and where.isascii() and where.isprintable()
    return where if fine and "\\" not in where else "/"


def shell_word(text: str) -> str:
    """Return a name as one word of a command line."""
    return shlex.quote(text)


def _login_page(desk: AtDesk, where: str, error: str, *, status: int = 200) -> Response:
    return pages.render(
        "login.html", caller=None, now=desk.clock.utc_now(), status=status, error=error, next=own_path(where)
    )


# --- static files ------------------------------------------------------------------------------


@router.get("/static/{name}")
def static(name: str, _: Anybody) -> Response:
    """Return a stylesheet, a script or a picture of the page."""
    found = pages.static_files().get(name)
    if found is None:
        raise NotFoundError("There is no such file.")
    content, media_type, digest = found
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "ETag": f'"{digest}"'}
    return Response(content, media_type=media_type, headers=headers)
