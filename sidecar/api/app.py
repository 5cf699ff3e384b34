"""The application: routes behind the guard, and every failure as one error body."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import anyio
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from sidecar.api.auth import Guard
from sidecar.api.routes import API_PREFIX, make_routes
from sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from sidecar.control_types import Control

METRICS_PATH = "/metrics"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SEE_ROUTES = "docs/reference.md lists every route and what it takes."


def create_app(
    control: Control,
    *,
    token: str,
    allowed_hosts: Collection[str],
    metrics: Callable[[], bytes] | None = None,
    metrics_open: bool = False,
    closing: anyio.Event | None = None,
    version: str = "1",
) -> ASGIApp:
    """The control API as an ASGI application.

    Args:
        control: Does the work.
        token: What callers must bear.
        allowed_hosts: Exact `Host` values, normally `hosts_for_port(port)`.
        metrics: Renders the Prometheus text; None leaves /metrics out.
        metrics_open: Serve it without the token.
        closing: When set, event streams end, so that the server can.
        version: Of the program, for the OpenAPI document.
    """
    app = build_api(control, metrics=metrics, closing=closing or anyio.Event(), version=version)
    # Around the whole of FastAPI, not among its middlewares: those do not see the answer to an unexpected exception.
    open_paths = {METRICS_PATH} if metrics_open else set()
    return Guard(app, token=token, allowed_hosts=allowed_hosts, open_paths=open_paths)


def build_api(control: Control, *, metrics: Callable[[], bytes] | None, closing: anyio.Event, version: str) -> FastAPI:
    """Routes and error bodies without the guard; by itself only for the documentation."""
    # The interactive pages load their scripts from a CDN and could not send a token; the document itself is enough.
    app = FastAPI(
        title="ollaswarm", version=version, openapi_url=f"{API_PREFIX}/openapi.json", docs_url=None, redoc_url=None
    )
    app.include_router(make_routes(control, closing))
    if metrics is not None:
        app.add_api_route(METRICS_PATH, _metrics_route(metrics), response_class=Response, summary="Prometheus metrics")
    app.add_exception_handler(SidecarError, _sidecar_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)
    return app


def _metrics_route(render: Callable[[], bytes]) -> Callable[[], Response]:
    def metrics() -> Response:
        return Response(render(), media_type=METRICS_TYPE)

    return metrics


def _error(status: int, code: str, cause: str, next_step: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "cause": cause, "next": next_step}}, status)


async def _sidecar_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SidecarError)
    return JSONResponse({"error": error.to_json()}, error.http_status)


async def _invalid_request(request: Request, error: Exception) -> Response:
    """Names the field and the reason, never the value: it may be a room code (T11)."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path")) or "body"
    return _error(422, "usage", f"{where}: {first['msg']}.", SEE_ROUTES)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    return _error(error.status_code, phrase.lower().replace(" ", "-"), f"{phrase}.", SEE_ROUTES)


async def _unexpected(request: Request, error: Exception) -> Response:
    """Starlette raises the error again after this answer, so the server's log has the traceback."""
    return _error(500, "internal", "The sidecar failed at this; it is a bug.", "See the log in the data folder.")
