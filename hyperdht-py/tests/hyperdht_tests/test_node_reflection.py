"""Being used as a scanner or reflector (T19), on real sockets in a network that looks public."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import reflection_scene as scene

TESTS = Path(__file__).parent.parent


def why_not() -> str | None:
    if sys.platform != "linux" or shutil.which("unshare") is None or shutil.which("ip") is None:
        return "needs Linux with unshare and ip"
    allowed = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0
    return None if allowed else "this machine lets nobody make network namespaces"


def test_t19_nothing_is_sent_to_addresses_a_stranger_must_not_name() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, "-m", "hyperdht_tests.reflection_scene"],
        cwd=TESTS, capture_output=True, text=True, check=True, timeout=50,
    )  # fmt: skip
    sent = {(source, to, port): size for source, to, port, size in json.loads(done.stdout)}
    assert (scene.STRANGER, *scene.FORBIDDEN[0]) in sent, "such packets would not be seen"
    victims = {scene.OPEN, scene.FIREWALLED, scene.CLIENT, *scene.NODES}
    forbidden = {address.host for address in scene.FORBIDDEN} - {scene.THIRD}
    offending = [key for key in sent if key[0] in victims and (key[1] in forbidden or key[2] < 1024)]
    assert offending == []
    of_stranger = sum(size for key, size in sent.items() if key[0] == scene.STRANGER)
    to_third = {key: size for key, size in sent.items() if key[1] == scene.THIRD and key[0] in victims}
    assert {key[2] for key in to_third} >= {scene.PORT}, "no address at all was sent to: the messages are wrong"
    share = of_stranger / (len(scene.FORBIDDEN) + 1)
    assert sum(to_third.values()) < 3 * share, f"{sum(to_third.values())} bytes for {share:.0f}"
