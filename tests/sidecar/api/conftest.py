"""The API in this process: no port, real requests."""

from collections.abc import AsyncIterator

import anyio
import httpx
import pytest

from sidecar.api.app import create_app
from sidecar.api.auth import hosts_for_port
from tests.sidecar.api.fake_control import FakeControl

TOKEN = "t" * 43
PORT = 11470


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


@pytest.fixture
async def client(control: FakeControl) -> AsyncIterator[httpx.AsyncClient]:
    """An honest client: right host, right token."""
    app = create_app(control, token=TOKEN, allowed_hosts=hosts_for_port(PORT), closing=anyio.Event())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport,
        base_url=f"http://127.0.0.1:{PORT}",
        headers={"Authorization": f"Bearer {TOKEN}"},
    ) as opened:
        yield opened
