"""All or nothing: whatever happens at whichever step, the store is as before or the adapter is installed."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import anyio
import pytest

from ollama_bridge.errors import OllamaBridgeError, OllamaRejected, OllamaUnavailable
from ollama_bridge.install import InstallFailed, recover, rollback
from ollama_bridge.standin import Fault
from tests.ollama_bridge.server.installing import WANTED, install, store_of, temporary_names

if TYPE_CHECKING:
    from ollama_bridge.standin.faults import FaultKind
    from tests.conformance.lab import Lab

pytestmark = pytest.mark.anyio

# step -> how often it is reached before the point of interest. The probe is the first pull; verifying shows often.
PULL_STEPS = {
    "version": 0, "tags": 0, "show": 0, "blob:begin": 0, "blob:stored": 0, "pull:begin": 1, "pull:write": 0,
    "pull:done": 0, "generate": 0, "copy:begin": 0, "copy:done": 0,
}  # fmt: skip
CREATE_STEPS = {"create:begin": 0, "create:write": 0, "create:done": 0, "copy:begin": 0, "copy:done": 0, "generate": 0}
AT_STEP = [("pull", step, after) for step, after in PULL_STEPS.items()] + [
    ("create", step, after) for step, after in CREATE_STEPS.items()
]
LATER_SHOWS = [("pull", "show", 1), ("pull", "show", 2), ("pull", "tags", 1)]


@pytest.fixture(autouse=True)
def quick_rollback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollback, "SETTLE_S", 0.02)


@pytest.mark.parametrize("kind", ["fail", "restart"])  # a restart begins as a dropped connection
@pytest.mark.parametrize(("route", "step", "after"), AT_STEP + LATER_SHOWS)
async def test_a_fault_at_any_step_leaves_the_store_as_it_was(
    lab: Lab, route: str, step: str, after: int, kind: FaultKind
) -> None:
    assert lab.standin is not None
    before = store_of(lab)
    fault = lab.standin.faults.set(step, Fault(kind, after=after, seconds=0.1))
    with pytest.raises(OllamaBridgeError):
        await install(lab, route=route)
    assert fault.reached.is_set()
    assert store_of(lab) == before


@pytest.mark.parametrize("kind", ["drop", "fail", "restart"])
@pytest.mark.parametrize(
    ("step", "after"),
    [("copy:begin", 0), ("copy:done", 0), ("copy:begin", 1), ("copy:done", 1), ("pull:done", 0), ("generate", 0)],
)
async def test_what_was_to_be_replaced_is_still_there(lab: Lab, step: str, after: int, kind: FaultKind) -> None:
    assert lab.standin is not None
    await install(lab, "adapter_b.gguf")
    before = store_of(lab)
    fault = lab.standin.faults.set(step, Fault(kind, after=after, seconds=0.1))
    with pytest.raises(OllamaBridgeError):
        await install(lab, force=True)
    assert fault.reached.is_set()
    assert store_of(lab) == before


@pytest.mark.parametrize("kind", ["drop", "restart"])
@pytest.mark.parametrize("step", ["delete:begin", "delete:done"])
async def test_a_fault_after_the_commit_does_not_undo_it(lab: Lab, step: str, kind: FaultKind) -> None:
    assert lab.standin is not None
    fault = lab.standin.faults.set(step, Fault(kind, seconds=0.05))
    installed = await install(lab)
    assert fault.reached.is_set()
    await _answers(lab)
    await recover(lab.client, lab.store)
    assert await temporary_names(lab) == []
    assert len((await lab.client.show(installed.name)).adapter_blobs) == 1


async def _answers(lab: Lab) -> None:
    with anyio.fail_after(5):
        while True:
            try:
                await lab.client.version()
                return
            except OllamaUnavailable:
                await anyio.sleep(0.02)


@pytest.mark.parametrize(
    ("route", "step", "after"),
    [("pull", "blob:begin", 0), ("pull", "blob:stored", 0), ("pull", "pull:begin", 1), ("pull", "pull:write", 0),
     ("pull", "pull:done", 0), ("pull", "generate", 0), ("create", "create:write", 0), ("create", "create:done", 0)],
)  # fmt: skip
async def test_cancelling_before_the_commit_takes_everything_back(lab: Lab, route: str, step: str, after: int) -> None:
    assert lab.standin is not None
    before = store_of(lab)
    fault = lab.standin.faults.set(step, Fault("pause", after=after))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_install, lab, route)
        with anyio.fail_after(5):
            await fault.reached.wait()
        tasks.cancel_scope.cancel()
        fault.proceed.set()
    assert store_of(lab) == before


async def _install(lab: Lab, route: str) -> None:
    await install(lab, route=route)


async def test_cancelling_during_the_commit_finishes_it(lab: Lab) -> None:
    assert lab.standin is not None
    fault = lab.standin.faults.set("copy:begin", Fault("pause"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_install, lab, "pull")
        with anyio.fail_after(5):
            await fault.reached.wait()
        tasks.cancel_scope.cancel()
        fault.proceed.set()
    assert lab.fresh_name(WANTED) in await lab.names()
    assert await temporary_names(lab) == []


@pytest.mark.parametrize("route", ["pull", "create"])
async def test_t20_disk_full_at_every_size(lab: Lab, route: str) -> None:
    """From no room at all up to just enough; at each size the install fails whole or succeeds whole."""
    assert lab.standin is not None
    _, digest, size = lab.adapter()
    outcomes = []
    for room in (0, size - 1, size, size + 400, size + 100_000):
        before = store_of(lab)
        lab.standin.faults.disk_bytes = room
        try:
            installed = await install(lab, route=route)
        except (OllamaRejected, InstallFailed) as error:
            outcomes.append("no space left" in str(error))
            lab.standin.faults.disk_bytes = None
            await recover(lab.client, lab.store)
            after = store_of(lab)
            leftovers = set(after) - set(before)
            assert not {key for key in leftovers if key.startswith("manifests")}
            assert after.items() >= before.items()
            # On a full disk the uploaded blob cannot be taken out again; Ollama prunes it when it starts.
            lab.standin.store.blob_path(digest).unlink(missing_ok=True)
        else:
            lab.standin.faults.disk_bytes = None
            outcomes.append(False)
            await lab.client.delete(installed.name)
    assert outcomes == [True, True, True, True, False]


async def test_ollama_down(lab: Lab) -> None:
    assert lab.standin is not None
    before = store_of(lab)
    await lab.standin.stop()
    with pytest.raises(OllamaUnavailable, match="No Ollama answers at"):
        await install(lab)
    await lab.standin.start()
    assert store_of(lab) == before


async def test_ollama_gone_for_good_is_mended_at_the_next_start(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lab.standin is not None
    monkeypatch.setattr(rollback, "RETURN_S", 0.1)
    names = await lab.names()
    lab.standin.faults.set("generate", Fault("restart", seconds=1.0))
    with pytest.raises(OllamaUnavailable):
        await install(lab)
    await _answers(lab)
    assert len(await temporary_names(lab)) == 1
    await recover(lab.client, lab.store)
    assert await lab.names() == names


async def test_a_half_written_manifest_does_not_fool_the_check(lab: Lab) -> None:
    assert lab.standin is not None
    lab.standin.faults.split_manifest_s = 0.05
    installed = await install(lab)
    assert len((await lab.client.show(installed.name)).adapter_blobs) == 1


CHILD = """
import sys
from pathlib import Path
import anyio
from ollama_bridge.client import OllamaClient
from ollama_bridge.digests import Digest
from ollama_bridge.install import install_adapter
from ollama_bridge.names import ModelName
from ollama_bridge.registry import LoopbackRegistry

url, adapter, digest, size, base, wanted, force = sys.argv[1:]

async def main():
    async with OllamaClient(url) as client, LoopbackRegistry() as registry:
        await install_adapter(client, registry, adapter=Path(adapter), digest=Digest.parse(digest), size=int(size),
                              base=ModelName.parse(base), wanted=ModelName.parse(wanted), force=force == "force")

anyio.run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
@pytest.mark.parametrize("force", ["", "force"])
@pytest.mark.parametrize(
    ("step", "after", "is_new"),
    [("blob:stored", 0, False), ("pull:done", 0, False), ("generate", 0, False),
     ("copy:done", 0, False), ("copy:done", 1, None), ("delete:begin", 1, True)],
)  # fmt: skip
async def test_kill_9_then_recover(lab: Lab, step: str, after: int, is_new: bool | None, force: str) -> None:
    """After `recover` no one-time name is left, and the wanted name holds the old model or the new, whole."""
    assert lab.standin is not None
    wanted = lab.fresh_name(WANTED)
    _, old, _ = lab.adapter("adapter_b.gguf")
    path, new, size = lab.adapter()
    if force:
        await install(lab, "adapter_b.gguf")
    names = await lab.names()
    fault = lab.standin.faults.set(step, Fault("pause", after=after))
    arguments = [lab.standin.url, str(path), str(new), str(size), lab.base.display, wanted.display, force]
    async with await anyio.open_process([sys.executable, "-c", CHILD, *arguments], stderr=None) as child:
        with anyio.fail_after(30):
            await fault.reached.wait()
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()
    fault.proceed.set()
    await _settled(lab)
    await recover(lab.client, lab.store)

    assert await temporary_names(lab) == []
    if wanted in await lab.names():
        digest = (await lab.client.show(wanted)).adapter_blobs
        assert digest in {(new,), (old,)}
        if is_new is not None:
            assert digest == ((new,) if is_new else (old,))
    else:
        assert not force
        assert not is_new
    assert await lab.names() - {wanted} == names - {wanted}


async def _settled(lab: Lab) -> None:
    """The requests of a killed client end soon after; wait until the store stops changing."""
    last = None
    while (current := store_of(lab)) != last:
        last = current
        await anyio.sleep(0.05)
