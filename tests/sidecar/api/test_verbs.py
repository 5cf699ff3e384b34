"""Every verb over HTTP: what reaches `Control`, and what comes back."""

import httpx
import pytest

from sidecar.control_types import GetOptions, RuleOptions, ShareOptions
from tests.sidecar.api.fake_control import CODE, CONSENT, DIGEST, KEY, FakeControl

pytestmark = pytest.mark.anyio


async def post(client: httpx.AsyncClient, route: str, **body: object) -> httpx.Response:
    return await client.post(f"/api/v1{route}", json=body)


async def test_status_is_the_json_form_of_the_result(client: httpx.AsyncClient, control: FakeControl) -> None:
    response = await client.get("/api/v1/status")
    assert response.status_code == 200
    expected = (await control.status()).to_json()
    assert response.json() == expected | {
        "listen": ["192.168.1.7:4000"],
        "rooms": [room.to_json() for room in control.joined],
        "withdrawn": [],
    }


async def test_lists_are_arrays(client: httpx.AsyncClient) -> None:
    for path, name in (("rooms", "label"), ("adapters", "ref"), ("peers", "key")):
        found = (await client.get(f"/api/v1/{path}")).json()
        assert isinstance(found, list)
        assert name in found[0]
    assert (await client.get("/api/v1/transfers")).json() == []


async def test_adapter_rows_have_the_promised_fields(client: httpx.AsyncClient, control: FakeControl) -> None:
    response = await client.get("/api/v1/adapters", params={"room": "team", "fits": True, "local": False})
    promised = {"ref", "name", "version", "publisher", "rooms", "digest", "size", "base", "fits", "sources"}
    assert promised | {"trust", "installed_as"} <= set(response.json()[0])
    assert control.calls == [("adapters", "team", True, False)]


async def test_room_life(client: httpx.AsyncClient, control: FakeControl) -> None:
    created = await post(client, "/rooms", label="lab")
    assert created.status_code == 201
    assert created.json()["code"] == CODE
    joined = await post(client, "/rooms/join", room=CODE, label="lab")
    assert joined.json()["label"] == "lab"
    left = await post(client, "/rooms/leave", room="lab")
    assert left.json()["label"] == "lab"
    assert control.calls[1:] == [("join_room", CODE, "lab", False), ("leave_room", "lab")]


async def test_a_rooms_code_is_told_once(client: httpx.AsyncClient) -> None:
    await post(client, "/rooms", label="lab")
    listed = await client.get("/api/v1/rooms")
    assert CODE not in listed.text


async def test_general_room_asks_for_consent(client: httpx.AsyncClient) -> None:
    refused = await post(client, "/rooms/join", room="general")
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "consent-needed"
    assert refused.json()["error"]["cause"] == CONSENT
    assert (await post(client, "/rooms/join", room="general", consent=True)).status_code == 200


async def test_share_and_unshare(client: httpx.AsyncClient, control: FakeControl) -> None:
    shared = await post(client, "/shares", what="sql-lora", room="team", tags=["sql"], license="mit")
    assert shared.status_code == 201
    assert shared.json()["digest"] == DIGEST
    withdrawn = await post(client, "/shares/withdraw", name="sql-lora")
    assert withdrawn.json()[0]["name"] == "sql-lora"
    options = ShareOptions(tags=("sql",), license="mit")
    assert control.calls == [("share", "sql-lora", "team", options), ("unshare", "sql-lora", None)]


async def test_share_all_begins_and_ends(client: httpx.AsyncClient, control: FakeControl) -> None:
    begun = await post(client, "/shares/all", room="team", on=True)
    assert (begun.status_code, begun.json()["share_all"]) == (200, True)
    assert (await client.get("/api/v1/rooms")).json()[0]["share_all"] is True
    assert (await post(client, "/shares/all", room="team", on=False)).json()["share_all"] is False
    assert (await post(client, "/shares/all", room="team")).status_code == 422
    assert control.calls == [("share_all", "team", True), ("share_all", "team", False)]


async def test_get_starts_a_transfer_and_answers_at_once(client: httpx.AsyncClient, control: FakeControl) -> None:
    started = await post(client, "/transfers", ref="sql-lora", as_name="mine", install=False, force=True)
    assert started.status_code == 202
    assert started.json()["state"] == "running"
    assert control.calls == [("get", "sql-lora", GetOptions("mine", install=False, force=True))]
    assert (await client.get("/api/v1/transfers/t1")).json()["id"] == "t1"
    cancelled = await post(client, "/transfers/t1/cancel")
    assert cancelled.json()["state"] == "cancelled"


async def test_the_other_verbs(client: httpx.AsyncClient, control: FakeControl) -> None:
    assert (await post(client, "/doctor")).json()[0]["level"] == "ok"
    assert (await post(client, "/doctor/room", room="team")).json()["findings"][0]["kind"] == "stale-announce"
    assert (await post(client, "/doctor/peer", peer=KEY)).json()["dial"] is None
    assert (await post(client, "/doctor/peer", peer=KEY, dial=True)).json()["dial"]["kind"] == "silent"
    assert (await post(client, "/uninstall", name="sql-lora")).json()["removed"] is True
    assert (await post(client, "/publishers/trust", key=KEY)).json()["trust"] == "trusted"
    assert (await post(client, "/publishers/block", key=KEY)).json()["trust"] == "blocked"
    assert (await post(client, "/publishers/forget", key=KEY)).json()["trust"] == "unknown"
    assert (await post(client, "/verify", path="/tmp/good.gguf")).json()["ok"] is True
    assert (await client.post("/api/v1/suggestions", json={"ref": "sql-lora"})).json() == []


async def test_sync_verbs(client: httpx.AsyncClient, control: FakeControl) -> None:
    rule = {"direction": "fetch", "room": "team", "publisher": KEY, "tag": "sql", "per_hour": 3}
    added = await post(client, "/sync/rules", **rule)
    assert (added.status_code, added.json()["id"]) == (201, "0a1b2c3d")
    assert [each["id"] for each in (await client.get("/api/v1/sync/rules")).json()] == ["0a1b2c3d"]
    assert (await post(client, "/sync/run", dry_run=True)).json()["dry_run"] is True
    assert (await post(client, "/sync/rollback", name="sql-lora")).json()["version"] == 6
    assert (await post(client, "/sync/rules/remove", rule="0a1b2c3d")).status_code == 200
    options = RuleOptions("fetch", "team", KEY, tag="sql", per_hour=3)
    asked = [("sync_add", options), ("sync_run", True), ("sync_rollback", "sql-lora", None)]
    assert control.calls == [*asked, ("sync_remove", "0a1b2c3d")]
    assert (await post(client, "/sync/rules", direction="both", room="team")).status_code == 422


async def test_registry(client: httpx.AsyncClient, control: FakeControl) -> None:
    assert (await client.get("/api/v1/registry")).json()["on"] is False
    switched = await post(client, "/registry", on=True, new_secret=True)
    assert switched.json()["secret"] in switched.json()["prefix"]
    assert control.calls == [("set_registry", True, True, None, None)]
    (row,) = (await client.get("/api/v1/registry", params={"entries": True})).json()["entries"]
    assert row["model"].endswith("/team.sql-lora:latest")
    assert (await post(client, "/registry")).status_code == 422


async def test_bundles(client: httpx.AsyncClient, control: FakeControl) -> None:
    written = await post(client, "/bundles/export", ref="sql-lora", path="/tmp/x", with_base=True)
    assert (written.status_code, written.json()["has_base"]) == (200, True)
    read = await post(client, "/bundles/import", path="/tmp/x", as_name="mine", force=True)
    assert read.json()["result"]["installed_as"] == "sql-lora:latest"
    options = GetOptions(as_name="mine", force=True)
    assert control.calls == [("export_bundle", "sql-lora", "/tmp/x", True, False), ("import_bundle", "/tmp/x", options)]


async def test_refusals_carry_code_cause_and_next(client: httpx.AsyncClient) -> None:
    response = await post(client, "/uninstall", name="llama3.2")
    assert response.status_code == 404
    assert set(response.json()["error"]) == {"code", "cause", "next"}
    assert "llama3.2" in response.json()["error"]["cause"]


async def test_unknown_route_and_method_are_errors_of_the_same_shape(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/v1/nothing")).json()["error"]["code"] == "not-found"
    refused = await client.delete("/api/v1/status", headers={"Content-Type": "application/json"})
    assert refused.status_code == 405
    assert refused.json()["error"]["code"] == "method-not-allowed"


async def test_a_bug_is_told_without_its_details(client: httpx.AsyncClient, control: FakeControl) -> None:
    control.breaks = RuntimeError("secret detail")
    response = await client.get("/api/v1/status")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"
    assert "secret" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"room":7}',
        b'{"room":"x","colour":"red"}',
        b'{"room":"' + b"x" * 600 + b'"}',
        b'{"room":"\xff"}',
        b'{"room":' * 5000,
        b'{"room":"x","consent":"maybe"}',
    ],
)
async def test_bad_bodies_are_one_clear_error(client: httpx.AsyncClient, control: FakeControl, body: bytes) -> None:
    response = await client.post("/api/v1/rooms/join", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= response.status_code < 500
    assert set(response.json()["error"]) == {"code", "cause", "next"}
    assert control.calls == []


async def test_t11_a_refused_body_is_not_repeated(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/v1/rooms/join", json={"room": CODE, "consent": CODE, "label": [CODE]})
    assert response.status_code == 422
    assert "abandon" not in response.text
