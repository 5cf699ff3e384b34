"""What stands between a web page, or another user of this machine, and the verbs (T23).

`Guard` is wrapped around the whole application, so a route cannot forget it: what is not named in `open_paths` needs
the token. The checks go from what a browser cannot forge to what only the token's reader knows.
"""

from __future__ import annotations

import hmac
import json
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The largest honest body is a share with its card (an entry is at most 64 KiB); JSON escapes can make it four times that.
MAX_BODY_BYTES = 256 * 1024
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
OURSELVES = frozenset({"same-origin", "none"})
USE_CLI = "Use the `ollaswarm` command, or send the token of the data folder as `Authorization: Bearer …`."


class Refusal(Exception):
    """A request that does not reach the application."""

    def __init__(self, status: int, code: str, cause: str, next_step: str = USE_CLI) -> None:
        super().__init__(cause)
        self.status = status
        self.body = {"error": {"code": code, "cause": cause, "next": next_step}}


def hosts_for_port(port: int) -> frozenset[str]:
    """Every `Host` by which a program of this machine may call us. Anything else is a rebound name (T23)."""
    return frozenset({f"127.0.0.1:{port}", f"[::1]:{port}", f"localhost:{port}"})


class Guard:
    """ASGI middleware: host, origin, fetch site, token, body type and size, security headers."""

    def __init__(
        self, app: ASGIApp, *, token: str, allowed_hosts: Collection[str], open_paths: Collection[str] = ()
    ) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = frozenset(allowed_hosts)
        self._origins = frozenset(f"http://{host}" for host in allowed_hosts)
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # a websocket would pass none of the checks below; there are none
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check_caller(headers)
            self._check_token(scope, headers)
            if scope["method"] not in SAFE_METHODS:
                receive = await _bounded_json_body(headers, receive)
        except Refusal as refusal:
            await _respond(send_with_headers, refusal)
        else:
            await self._app(scope, receive, send_with_headers)

    def _check_caller(self, headers: Headers) -> None:
        """Host, Origin and Sec-Fetch-Site: a browser sets them itself, so a page cannot lie about them."""
        if len(headers.getlist("host")) != 1 or headers["host"] not in self._hosts:
            raise Refusal(403, "bad-host", "The Host header is not one of this API's addresses.")
        if any(origin not in self._origins for origin in headers.getlist("origin")):
            raise Refusal(403, "bad-origin", "Another web origin may not use this API.")
        if any(site not in OURSELVES for site in headers.getlist("sec-fetch-site")):
            raise Refusal(403, "bad-origin", "Another web site may not use this API.")

    def _check_token(self, scope: Scope, headers: Headers) -> None:
        if scope["path"] in self._open_paths and scope["method"] in SAFE_METHODS:
            return
        given = headers.getlist("authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        # Compared as bytes: compare_digest refuses non-ASCII text, and a header can hold any byte.
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode("latin-1"), self._token):
            raise Refusal(401, "bad-token", "The bearer token is missing or wrong.")


async def _bounded_json_body(headers: Headers, receive: Receive) -> Receive:
    """Read the body whole, within the cap, before the application sees any of it.

    JSON is demanded even of an empty body: a form post is all that a page can send elsewhere without asking first.
    """
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Refusal(415, "bad-content-type", "Bodies are JSON.", "Send `Content-Type: application/json`.")
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "disconnected", "The client went away before its request was complete.")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY_BYTES:
            raise Refusal(413, "too-large", f"The body is larger than {MAX_BODY_BYTES} bytes.", "Send less.")
    delivered = False

    async def replay() -> Message:
        nonlocal delivered
        if delivered:
            return await receive()
        delivered = True
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return replay


async def _respond(send: Send, refusal: Refusal) -> None:
    body = json.dumps(refusal.body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
