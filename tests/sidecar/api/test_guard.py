"""T23: what a hostile page, a rebound name or another local program tries against the API."""

from collections.abc import AsyncIterator

import anyio
import httpx
import pytest

from sidecar.api.app import create_app
from sidecar.api.auth import MAX_BODY_BYTES, SECURITY_HEADERS, hosts_for_port
from sidecar.cli.reference import api_document
from tests.sidecar.api.conftest import PORT, TOKEN
from tests.sidecar.api.fake_control import FakeControl

pytestmark = pytest.mark.anyio

ROUTES = [(method.upper(), path) for path, methods in api_document()["paths"].items() for method in methods]


def code_of(response: httpx.Response) -> object:
    return response.json()["error"]["code"]


@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("GET", "/api/v1/openapi.json"), ("GET", "/"), ("PUT", "/x")])
async def test_t23_no_route_answers_without_the_token(
    client: httpx.AsyncClient, control: FakeControl, method: str, path: str
) -> None:
    client.headers.pop("authorization")
    response = await client.request(method, path.replace("{transfer}", "t1"), json={})
    assert response.status_code == 401
    assert code_of(response) == "bad-token"
    assert control.calls == []


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN, "Bearer t\xe9\xff"],
)
async def test_t23_wrong_token(client: httpx.AsyncClient, value: str) -> None:
    response = await client.get("/api/v1/status", headers={b"Authorization": value.encode("latin-1")})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("tokens", [("wrong", TOKEN), (TOKEN, "wrong"), (TOKEN, TOKEN)])
async def test_t23_two_tokens_are_none(client: httpx.AsyncClient, tokens: tuple[str, str]) -> None:
    client.headers.pop("authorization")
    both = [("Authorization", f"Bearer {token}") for token in tokens]
    assert (await client.get("/api/v1/status", headers=both)).status_code == 401


async def test_t23_two_hosts_are_none(client: httpx.AsyncClient) -> None:
    for hosts in ((f"127.0.0.1:{PORT}", "evil.example"), ("evil.example", f"127.0.0.1:{PORT}")):
        both = [("Host", host) for host in hosts]
        assert (await client.get("/api/v1/status", headers=both)).status_code == 403


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"[::1]:{PORT}"])
async def test_t23_our_own_hosts_are_served(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/api/v1/status", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        f"evil.example:{PORT}",
        "127.0.0.1",
        "127.0.0.1:80",
        f"127.0.0.2:{PORT}",
        f"192.168.1.7:{PORT}",
        f"localhost.:{PORT}",
        f"box.local:{PORT}",
        f"127.0.0.1:{PORT}@evil.example",
        f"127.0.0.1:{PORT} ",
        "",
    ],
)
async def test_t23_dns_rebinding(client: httpx.AsyncClient, control: FakeControl, host: str) -> None:
    """The page's own name leads to us; the browser sends that name, and even a stolen token does not help."""
    response = await client.post("/api/v1/doctor", json={}, headers={"Host": host})
    assert response.status_code == 403
    assert code_of(response) == "bad-host"
    assert control.calls == []


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://localhost",
        f"https://127.0.0.1:{PORT}",
        "http://127.0.0.1:8080",
        f"http://127.0.0.1:{PORT}.evil.example",
        "chrome-extension://abcdef",
        "",
    ],
)
async def test_t23_foreign_origin(client: httpx.AsyncClient, control: FakeControl, origin: str) -> None:
    response = await client.post("/api/v1/doctor", json={}, headers={"Origin": origin})
    assert response.status_code == 403
    assert code_of(response) == "bad-origin"
    assert control.calls == []


async def test_t23_our_own_origin_is_served(client: httpx.AsyncClient) -> None:
    headers = {"Origin": f"http://127.0.0.1:{PORT}", "Sec-Fetch-Site": "same-origin"}
    assert (await client.get("/api/v1/status", headers=headers)).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "sideways"])
async def test_t23_fetch_from_another_site(client: httpx.AsyncClient, site: str) -> None:
    """An image or script tag sends no Origin with a GET; it does send this."""
    response = await client.get("/api/v1/status", headers={"Sec-Fetch-Site": site})
    assert response.status_code == 403


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json"]
)
async def test_t23_form_post(client: httpx.AsyncClient, control: FakeControl, content_type: str | None) -> None:
    """What a page may send elsewhere without a preflight: JSON text under a form's content type, or none."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = await client.post("/api/v1/doctor", content=b"{}", headers=headers)
    assert response.status_code == 415
    assert control.calls == []


async def test_t23_preflight_is_not_answered(client: httpx.AsyncClient) -> None:
    client.headers.pop("authorization")
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    response = await client.options("/api/v1/doctor", headers=headers)
    assert response.status_code == 403
    assert not [name for name in response.headers if name.startswith("access-control")]


async def test_t23_no_get_has_an_effect(client: httpx.AsyncClient, control: FakeControl) -> None:
    """Every route that changes something refuses GET."""
    for method, path in ROUTES:
        if method != "GET" and ("GET", path) not in ROUTES:
            response = await client.get(path.replace("{transfer}", "t1"), follow_redirects=False)
            assert response.status_code in (404, 405), path
    assert control.calls == []


async def test_every_answer_has_the_security_headers(client: httpx.AsyncClient) -> None:
    answers = [
        await client.get("/api/v1/status"),
        await client.get("/api/v1/nothing"),
        await client.get("/api/v1/status", headers={"Host": "evil.example"}),
        await client.post("/api/v1/uninstall", json={"name": "x"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 403, 404]
    for answer in answers:
        assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS


async def test_body_is_capped_by_length_and_by_counting(client: httpx.AsyncClient, control: FakeControl) -> None:
    headers = {"Content-Type": "application/json"}
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 65536
            yield b" " * 65536

    announced = await client.post("/api/v1/doctor", content=b" " * (MAX_BODY_BYTES + 1), headers=headers)
    counted = await client.post("/api/v1/doctor", content=endless(), headers=headers)
    assert [announced.status_code, counted.status_code] == [413, 413]
    assert sent <= MAX_BODY_BYTES + 2 * 65536
    assert control.calls == []


@pytest.mark.parametrize("is_open", [False, True])
async def test_metrics_need_the_token_unless_opened(control: FakeControl, is_open: bool) -> None:
    app = create_app(
        control,
        token=TOKEN,
        allowed_hosts=hosts_for_port(PORT),
        metrics=lambda: b"ollaswarm_peers 2.0\n",
        metrics_open=is_open,
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://localhost:{PORT}") as stranger:
        response = await stranger.get("/metrics")
        assert response.status_code == (200 if is_open else 401)
        assert (await stranger.get("/metrics/")).status_code == 401
        assert (await stranger.get("/metrics", headers={"Host": "evil.example"})).status_code == 403
        assert (await stranger.get("/api/v1/status")).status_code == 401
        allowed = await stranger.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert allowed.text == "ollaswarm_peers 2.0\n"


async def test_websockets_are_closed() -> None:
    app = create_app(FakeControl(), token=TOKEN, allowed_hosts=hosts_for_port(PORT))
    sent: list[object] = []

    async def receive() -> dict[str, object]:
        await anyio.lowlevel.checkpoint()
        return {"type": "websocket.connect"}

    async def send(message: object) -> None:
        await anyio.lowlevel.checkpoint()
        sent.append(message)

    await app({"type": "websocket", "path": "/api/v1/events", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]
