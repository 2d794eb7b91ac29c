"""The metrics of a service, for Prometheus."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from onerow.faces.http.security import Caller, Role, require
from onerow.faces.metrics import CONTENT_TYPE, Metrics

router = APIRouter(tags=["metrics"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "All metrics"}},
)
def metrics(request: Request, _: Annotated[Caller, Depends(require(Role.READ))]) -> Response:
    """Return what this process has counted, in Prometheus' text format."""
    counted: Metrics = request.app.state.metrics
    return Response(counted.render(), media_type=CONTENT_TYPE)
