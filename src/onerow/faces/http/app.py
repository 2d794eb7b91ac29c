"""The two services, put together."""

from __future__ import annotations

import os
import re
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI, Request, routing
from fastapi.openapi.utils import get_openapi
from starlette.responses import JSONResponse

from onerow import __version__
from onerow.bootstrap import open_store
from onerow.faces.http import (
    coordinator_routes,
    dashboard,
    health,
    metrics_routes,
    problems,
    session_routes,
    worker_routes,
)
from onerow.faces.http.coordinating import coordinating
from onerow.faces.http.deliveries import Deliveries
from onerow.faces.http.drain import Drain
from onerow.faces.http.health import DeepHealth
from onerow.faces.http.limits import Limits, Rate
from onerow.faces.http.monitoring import monitoring
from onerow.faces.http.pool import StorePool
from onerow.faces.http.reporting import Reporter, check_coordinator, coordinator_token
from onerow.faces.http.security import Access, Caller, Require, Role, require
from onerow.faces.http.spool import Spool
from onerow.faces.metrics import Metrics
from onerow.services.events import emit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from onerow.config import Settings
    from onerow.services.store import Store

    Around = Callable[[FastAPI], AbstractAsyncContextManager[None]]

MIN_THREADS: Final = 8
PROBLEM: Final[dict[int | str, dict[str, Any]]] = {
    "default": {
        "description": "What is wrong (RFC 9457)",
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}

description_router = APIRouter(tags=["description"])


@description_router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request, _: Annotated[Caller, Depends(require(Role.READ))]) -> JSONResponse:
    """Return the description of this service."""
    return JSONResponse(request.app.openapi())


def create_coordinator(
    settings: Settings, *, access: Access | None = None, opens: Callable[[Settings], Store] = open_store
) -> FastAPI:
    """Return the coordinator over ``settings``.

    Args:
        settings: the configuration.
        access: who may do what; None: as the environment says.
        opens: opens a store over the settings.

    Raises:
        ConfigurationError: the service would be open to others than this machine.
    """
    return _service(
        "coordinator",
        settings,
        access,
        opens,
        routers=[session_routes.router, coordinator_routes.router, *dashboard.ROUTERS],
        around=[monitoring(opens), coordinating(opens), dashboard.looking(opens)],
    )


def create_worker(
    settings: Settings,
    *,
    access: Access | None = None,
    opens: Callable[[Settings], Store] = open_store,
    reporter: Reporter | None = None,
) -> FastAPI:
    """Return the worker over ``settings``.

    Args:
        settings: the configuration.
        access: who may do what; None: as the environment says.
        opens: opens a store over the settings.
        reporter: tells the coordinator; None: as the settings and the environment say.

    Raises:
        ConfigurationError: as ``create_coordinator``; or the coordinator's URL or the spool cannot be used.
    """
    serve = settings.serve
    if reporter is None and serve.coordinator:
        reporter = Reporter(check_coordinator(serve.coordinator), token=coordinator_token(os.environ))

    @asynccontextmanager
    async def taking_deliveries(app: FastAPI) -> AsyncIterator[None]:
        root = None if serve.spool is None else _beside(settings, serve.spool)
        with Spool(root, max_bytes=serve.spool_bytes) as spool:
            if removed := spool.clean_up():
                emit("onerow.spool_cleaned", processes=removed)
            app.state.spool = spool
            app.state.deliveries = Deliveries(
                app.state.pool, spool, at_once=serve.uploads, max_bytes=serve.max_part_bytes
            )
            yield

    @asynccontextmanager
    async def reporting(app: FastAPI) -> AsyncIterator[None]:
        app.state.reporter = reporter
        if reporter is None:
            yield
        else:
            async with reporter.running():
                yield

    return _service(
        "worker",
        settings,
        access,
        opens,
        routers=[worker_routes.router],
        around=[taking_deliveries, reporting],
        long_bodies=re.compile(r"/v1/tables/[^/]+/batches/[^/]+/rows"),
    )


def _beside(settings: Settings, path: str) -> Path:
    """Return a path of the configuration, relative to its file."""
    return (Path.cwd() if settings.file is None else settings.file.parent) / path


def _service(
    name: str,
    settings: Settings,
    access: Access | None,
    opens: Callable[[Settings], Store],
    *,
    routers: Sequence[APIRouter],
    around: Sequence[Around] = (),
    long_bodies: re.Pattern[str] | None = None,
) -> FastAPI:
    """Return an app with what both services share.

    Args:
        name: of the service.
        settings: the configuration.
        access: who may do what; None: as the environment says.
        opens: opens a store over the settings.
        routers: the service's own routes; each has a dependency that asks for a role.
        around: what runs while the service does: entered in order when it starts, left in reverse when it stops.
        long_bodies: the paths whose bodies may be as long as a part.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Each thread that uses a store may have connections of its own in it, or a whole instance of an engine.
        to_thread.current_default_thread_limiter().total_tokens = max(MIN_THREADS, 2 * settings.serve.stores)
        async with AsyncExitStack() as stack:
            stack.enter_context(app.state.metrics.attached())
            stack.callback(app.state.pool.close)
            stack.callback(app.state.health.close)
            for part in around:
                await stack.enter_async_context(part(app))
            yield
            app.state.drain.begin()

    app = FastAPI(
        title=f"onerow {name}",
        version=__version__,
        description="Exactly one row per business key, whatever retries, overlaps, pauses or crashes.",
        lifespan=lifespan,
        docs_url=None,  # their pages are made of other people's servers
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        responses=PROBLEM,
    )
    state = app.state
    state.service = name
    state.settings = settings
    state.access = access or Access.from_environment(os.environ, host=settings.serve.host)
    state.pool = StorePool(settings, settings.serve.stores, opens=opens)
    state.health = DeepHealth(settings, opens=opens)
    state.metrics = Metrics(settings.tables)
    state.drain = Drain(settings.serve.drain)
    state.started_s = time.monotonic()
    problems.install(app)
    serve = settings.serve

    def longest_body(path: str) -> int:
        return serve.max_part_bytes if long_bodies and long_bodies.fullmatch(path) else serve.max_request_bytes

    app.add_middleware(Limits, rate=Rate(serve.requests_per_second), max_bytes=longest_body)
    for router in (health.router, metrics_routes.router, description_router, *routers):
        app.include_router(router)
    app.openapi = lambda: described(app)  # type: ignore[method-assign]  # FastAPI's way to change the description
    return app


def described(app: FastAPI) -> dict[str, Any]:
    """Return the description of ``app``, with the role that each operation asks for and the problems it may answer."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = problems.SCHEMA
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        asked = roles(app)
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                operation["responses"].pop("422", None)  # FastAPI's own; ours are problems
                role = asked.get((method.upper(), path))
                operation["x-role"] = "anybody" if role is None else role.name.lower()
        app.openapi_schema = schema
    return app.openapi_schema


def roles(app: FastAPI) -> dict[tuple[str, str], Role | None]:
    """Return the role that each route asks for, by method and path; None: anybody may.

    A route that asks nobody is a mistake, and left out.
    """
    # In newer versions of FastAPI the routes of routers that were included are found by their contexts only.
    walk: Callable[[Sequence[Any]], Iterable[Any]] = getattr(routing, "iter_route_contexts", iter)
    return {
        (method, route.path_format): call.role
        for route in walk(app.routes)
        if getattr(route, "dependant", None) is not None
        for call in (one.call for one in route.dependant.dependencies)
        if isinstance(call, Require)
        for method in route.methods
    }
