"""How a verb finds its daemon, and what it says when it does not."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.paths import DaemonRecord, DataLock, DataPaths, load_or_create_token, write_private
from tests.sidecar.cli.conftest import Run


class Stranger(http.server.BaseHTTPRequestHandler):
    """Another program on the port. Remembers whether it was sent anything."""

    seen: list[str]
    body = b"<html>not a daemon</html>"

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization", ""))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def stranger(paths: DataPaths) -> Iterator[type[Stranger]]:
    """Somebody else answers where daemon.json says our daemon is."""

    class Handler(Stranger):
        seen: list[str] = []  # noqa: RUF012 - one list for this server

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    DaemonRecord(1, f"127.0.0.1:{server.server_port}", "0.1.0", 0.0).write(paths)
    load_or_create_token(paths)
    yield Handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_no_daemon(run: Run, paths: DataPaths) -> None:
    told = run("status")
    assert told.exit_code == 1
    assert str(paths.root) in told.stderr
    assert "Start it with `ollaswarm up`" in told.stderr


def test_no_daemon_json(run: Run) -> None:
    told = run("adapters", "--json")
    assert told.exit_code == 1
    assert json.loads(told.stdout)["error"]["code"] == "daemon"


def test_data_dir_can_be_named(run: Run, tmp_path: Path) -> None:
    assert str(tmp_path / "other") in run("status", "--data-dir", str(tmp_path / "other")).stderr


def test_t23_a_dead_daemons_port_is_not_sent_the_token(run: Run, stranger: type[Stranger]) -> None:
    told = run("status")
    assert told.exit_code == 1
    assert "No daemon runs" in told.stderr
    assert stranger.seen == []


def test_an_answer_that_is_not_ours_is_a_clear_error(run: Run, paths: DataPaths, stranger: type[Stranger]) -> None:
    with DataLock(paths):
        told = run("status")
    assert (told.exit_code, len(stranger.seen)) == (1, 1)
    assert "not this daemon" in told.stderr


def test_a_daemon_that_does_not_answer(run: Run, paths: DataPaths) -> None:
    load_or_create_token(paths)
    DaemonRecord(1, "127.0.0.1:1", "0.1.0", 0.0).write(paths)
    with DataLock(paths):
        for words in (["status"], ["events"]):
            told = run(*words)
            assert told.exit_code == 1
            assert "does not answer" in told.stderr


def test_a_daemon_that_is_starting(run: Run, paths: DataPaths) -> None:
    with DataLock(paths):
        assert "still starting" in run("status").stderr


@pytest.mark.usefixtures("daemon")
def test_wrong_token(run: Run, paths: DataPaths) -> None:
    write_private(paths.token, b"x" * 43)
    told = run("status", "--json")
    assert told.exit_code == 1
    assert json.loads(told.stdout)["error"]["code"] == "bad-token"


@pytest.mark.usefixtures("daemon")
def test_a_proxy_in_the_environment_is_not_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert run("status").exit_code == 0


HEAVY = ("fastapi", "httpx", "rich", "uvicorn", "sidecar.config", "sidecar.cli.client", "nacl", "zeroconf")


@pytest.mark.parametrize("words", ["['ollaswarm', '--version']", "['ollaswarm', 'status', '--help']"])
def test_a_verb_imports_only_what_it_needs(words: str) -> None:
    """Start-up time without a clock: what is not imported costs nothing."""
    program = f"""
import sys
sys.argv = {words}
from sidecar.cli.main import main
try:
    main()
except SystemExit:
    pass
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stderr.strip() == "[]"
