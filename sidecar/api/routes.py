"""One route per verb. A GET changes nothing; secrets (room codes) travel in bodies, never in a URL."""

from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from sidecar.api import schemas
from sidecar.api.streams import EventStream, follow_events, follow_transfer
from sidecar.control_types import (
    AdapterRow,
    BlockListInfo,
    BundleInfo,
    Control,
    Diagnosis,
    DoctorLine,
    ImportInfo,
    PeerInfo,
    PublisherInfo,
    RegistryInfo,
    RollbackInfo,
    RoomInfo,
    RuleInfo,
    StatusInfo,
    Suggestion,
    SyncReport,
    TransferInfo,
    UninstallResult,
    VerifyReport,
)

API_PREFIX = "/api/v1"
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "Server-sent events"}
}
Text = Annotated[str | None, Query(max_length=schemas.MAX_NAME)]


def make_routes(control: Control, closing: anyio.Event) -> APIRouter:
    """All verbs of `control`. Streams end when `closing` is set."""
    router = APIRouter(
        prefix=API_PREFIX,
        responses={"4XX": {"model": schemas.ErrorBody}, "5XX": {"model": schemas.ErrorBody}},
    )
    for add in (_add_overview, _add_rooms, _add_adapters, _add_bundles, _add_sync, _add_registry, _add_trust):
        add(router, control)
    _add_transfers(router, control, closing)
    return router


def _add_overview(router: APIRouter, control: Control) -> None:
    @router.get("/status", summary="The whole sidecar on one page")
    async def status() -> StatusInfo:
        return await control.status()

    @router.post("/doctor", summary="Check everything; takes a few seconds")
    async def doctor() -> tuple[DoctorLine, ...]:
        return await control.doctor()

    @router.post("/doctor/room", summary="Why a room has no peers")
    async def diagnose_room(body: schemas.LeaveRoom) -> Diagnosis:
        return await control.diagnose_room(body.room)

    @router.post("/doctor/peer", summary="Why a peer is not reachable")
    async def diagnose_peer(body: schemas.DiagnosePeer) -> Diagnosis:
        return await control.diagnose_peer(body.peer, dial=body.dial)

    @router.get("/peers", summary="Connected peers")
    async def peers() -> tuple[PeerInfo, ...]:
        return await control.peers()


def _add_rooms(router: APIRouter, control: Control) -> None:
    @router.get("/rooms", summary="Rooms we are in")
    async def rooms() -> tuple[RoomInfo, ...]:
        return await control.rooms()

    @router.post("/rooms", status_code=201, summary="Make a private room; the only answer with its code")
    async def create_room(body: schemas.CreateRoom) -> RoomInfo:
        return await control.create_room(body.label)

    @router.post("/rooms/join", summary="Join a room")
    async def join_room(body: schemas.JoinRoom) -> RoomInfo:
        return await control.join_room(body.room, label=body.label, consent=body.consent, orch_mind=body.orch_mind)

    @router.post("/rooms/leave", summary="Leave a room")
    async def leave_room(body: schemas.LeaveRoom) -> RoomInfo:
        return await control.leave_room(body.room)

    @router.post("/rooms/rotate", summary="Give a private room a new code; the answer carries it")
    async def rotate_room(body: schemas.LeaveRoom) -> RoomInfo:
        return await control.rotate_room(body.room)

    @router.post("/rooms/policy", summary="Set how much trust in a publisher an install from a room needs")
    async def set_policy(body: schemas.SetPolicy) -> RoomInfo:
        return await control.set_policy(body.room, body.policy)


def _add_adapters(router: APIRouter, control: Control) -> None:
    @router.get("/adapters", summary="What the rooms offer")
    async def adapters(room: Text = None, fits: bool = False, local: bool = False) -> tuple[AdapterRow, ...]:
        return await control.adapters(room=room, fits=fits, local=local)

    @router.post(
        "/suggestions", summary="What a publisher would like the installed model to have, or a model brings along"
    )
    async def suggestions(body: schemas.Ref) -> tuple[Suggestion, ...]:
        return await control.suggestions(body.ref)

    @router.post("/shares", status_code=201, summary="Offer an adapter to a room")
    async def share(body: schemas.Share) -> AdapterRow:
        return await control.share(body.what, body.room, body.options())

    @router.post("/shares/all", summary="Begin or end offering every adapter of the store, those yet to come included")
    async def share_all(body: schemas.ShareAll) -> RoomInfo:
        return await control.share_all(body.room, on=body.on, models=body.models)

    @router.post("/shares/withdraw", summary="Stop offering an adapter")
    async def unshare(body: schemas.Unshare) -> tuple[AdapterRow, ...]:
        return await control.unshare(body.name, body.room)

    @router.post("/uninstall", summary="Remove a model that we installed")
    async def uninstall(body: schemas.Name) -> UninstallResult:
        return await control.uninstall(body.name)

    @router.post("/verify", summary="Check a file of this machine")
    async def verify(body: schemas.File) -> VerifyReport:
        return await control.verify(body.path)


def _add_bundles(router: APIRouter, control: Control) -> None:
    @router.post("/bundles/export", summary="Write an entry and its adapter into one file")
    async def export_bundle(body: schemas.Export) -> BundleInfo:
        return await control.export_bundle(body.ref, body.path, with_base=body.with_base, overwrite=body.overwrite)

    @router.post("/bundles/import", summary="Verify such a file and install what is in it")
    async def import_bundle(body: schemas.Import) -> ImportInfo:
        return await control.import_bundle(body.path, body.options())


def _add_sync(router: APIRouter, control: Control) -> None:
    @router.get("/sync/rules", summary="Rules of auto-sync")
    async def sync_rules() -> tuple[RuleInfo, ...]:
        return await control.sync_rules()

    @router.post("/sync/rules", status_code=201, summary="Add a rule of auto-sync")
    async def sync_add(body: schemas.Rule) -> RuleInfo:
        return await control.sync_add(body.options())

    @router.post("/sync/rules/remove", summary="Remove a rule of auto-sync")
    async def sync_remove(body: schemas.RuleId) -> RuleInfo:
        return await control.sync_remove(body.rule)

    @router.post("/sync/run", summary="Do now what the rules say, or only say what that would be")
    async def sync_run(body: schemas.RunSync) -> SyncReport:
        return await control.sync_run(dry_run=body.dry_run)

    @router.post("/sync/rollback", summary="Bring back an older version of a followed adapter")
    async def sync_rollback(body: schemas.Rollback) -> RollbackInfo:
        return await control.sync_rollback(body.name, body.version)


def _add_registry(router: APIRouter, control: Control) -> None:
    @router.get("/registry", summary="The registry for `ollama pull`, its secret included")
    async def registry(entries: bool = False) -> RegistryInfo:
        return await control.registry(entries=entries)

    @router.post("/registry", summary="Switch the registry for `ollama pull` on or off")
    async def set_registry(body: schemas.Registry) -> RegistryInfo:
        return await control.set_registry(on=body.on, new_secret=body.new_secret, push=body.push, models=body.models)


def _add_trust(router: APIRouter, control: Control) -> None:
    @router.post("/publishers/trust", summary="Trust a publisher")
    async def trust(body: schemas.Trust) -> PublisherInfo:
        return await control.trust(body.key, label=body.label, replace_label=body.replace_label)

    @router.post("/publishers/forget", summary="Neither trust nor block a publisher any more")
    async def forget_publisher(body: schemas.Key) -> PublisherInfo:
        return await control.forget_publisher(body.key)

    @router.post("/publishers/block", summary="Block a publisher")
    async def block(body: schemas.Key) -> PublisherInfo:
        return await control.block(body.key)

    @router.get("/blocklists", summary="Block lists that are followed")
    async def block_lists() -> tuple[BlockListInfo, ...]:
        return await control.block_lists()

    @router.post("/blocklists/publish", summary="Publish whom we block in a room")
    async def publish_blocks(body: schemas.InRoom) -> BlockListInfo:
        return await control.publish_blocks(body.room)

    @router.post("/blocklists/follow", summary="Block whom a publisher blocks, or end that")
    async def follow_blocks(body: schemas.FollowBlocks) -> BlockListInfo:
        return await control.follow_blocks(body.key, on=body.on)


def _add_transfers(router: APIRouter, control: Control, closing: anyio.Event) -> None:
    @router.post("/transfers", status_code=202, summary="Start a get; it goes on when the client leaves")
    async def get(body: schemas.Get) -> TransferInfo:
        return await control.get(body.ref, body.options())

    @router.get("/transfers", summary="Transfers of this run of the daemon")
    async def transfers() -> tuple[TransferInfo, ...]:
        return await control.transfers()

    @router.get("/transfers/{transfer}", summary="One transfer as it is now")
    async def transfer_info(transfer: str) -> TransferInfo:
        return await control.transfer(transfer)

    @router.get(
        "/transfers/{transfer}/progress",
        summary="Its states as they change, the last one finished",
        response_class=Response,
        responses=STREAM,
    )
    async def progress(transfer: str) -> Response:
        await control.transfer(transfer)  # a 404 must be a status, not an event
        return EventStream(follow_transfer(control, transfer), closing)

    @router.post("/transfers/{transfer}/cancel", summary="Stop it; what was verified is kept")
    async def cancel(transfer: str) -> TransferInfo:
        return await control.cancel(transfer)

    @router.get("/events", summary="Everything that happens", response_class=Response, responses=STREAM)
    async def events(
        since: Annotated[int | None, Query(ge=0)] = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        if since is None and last_event_id is not None and last_event_id.isascii() and last_event_id.isdigit():
            since = int(last_event_id[:18])
        return EventStream(follow_events(control, since), closing)
