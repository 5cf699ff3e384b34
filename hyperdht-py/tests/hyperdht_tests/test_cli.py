"""`python -m hyperdht`: real processes in a network of their own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

import pytest

from hyperdht import KeyPair
from hyperdht.cli import main

PROGRAM = [sys.executable, "-m", "hyperdht"]
WAIT_S = 20.0


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([*PROGRAM, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(stream: IO[str] | None) -> str:
    return cast("IO[str]", stream).readline().strip()


def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], input=text, capture_output=True, text=True, timeout=WAIT_S, check=False
    )


@pytest.fixture(scope="module")
def network() -> Iterator[str]:
    """The address of a node that others start from."""
    with running("bootstrap", "--port", "0") as first:
        yield line_of(first.stdout)


def test_announce_and_lookup(network: str) -> None:
    with running("announce", "a topic", "--bootstrap", network) as announcing:
        key = line_of(announcing.stdout).split()[0]
        done = run("lookup", "a topic", "--bootstrap", network)
        assert done.returncode == 0
        assert done.stdout.startswith(key)


def test_serve_and_connect_carry_what_a_pipe_carries(network: str) -> None:
    seed = "07" * 32
    key = KeyPair.from_seed(bytes.fromhex(seed)).public_key.hex()
    with running("serve", "--seed", seed, "--bootstrap", network) as serving:
        assert line_of(serving.stderr) == key
        with running("connect", key, "--bootstrap", network) as client:
            print("from the client", file=client.stdin, flush=True)
            assert line_of(serving.stdout) == "from the client"
            print("from the server", file=serving.stdin, flush=True)
            assert line_of(client.stdout) == "from the server"
            cast("IO[str]", serving.stdin).close()
            assert client.wait(WAIT_S) == 0
        assert serving.wait(WAIT_S) == 0


def test_an_echo_serves_one_peer_after_another(network: str) -> None:
    with running("serve", "--echo", "--bootstrap", network) as serving:
        key = line_of(serving.stderr)
        for message in ("one", "two"):
            with running("connect", key, "--bootstrap", network) as client:
                print(message, file=client.stdin, flush=True)
                assert line_of(client.stdout) == message


def test_ping_and_holepunch_info(network: str) -> None:
    assert run("ping", network, "--bootstrap", network).stdout.endswith(" ms\n")
    assert run("ping", network.replace("127.0.0.1", "localhost"), "--bootstrap", network).stdout.endswith(" ms\n")
    nowhere = run("ping", "no.such.name.invalid:1", "--bootstrap", network)
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (1, 1)
    info = run("holepunch-info", "--bootstrap", network)
    assert info.returncode == 0
    assert info.stdout.startswith("address   127.0.0.1")


def test_what_fails_is_said_in_a_sentence(network: str) -> None:
    done = run("connect", KeyPair.generate().public_key.hex(), "--bootstrap", network)
    assert done.returncode == 1
    assert done.stderr.startswith("hyperdht: Nobody reachable knows that public key.")
    assert "not a point" in run("connect", "ab" * 32, "--bootstrap", network).stderr
    assert run("lookup", "x", "--bootstrap", "nonsense").stderr.startswith("hyperdht: a bootstrap node is named")


@pytest.mark.parametrize(
    "arguments", [["connect", "12"], ["ping", "nowhere"], ["serve", "--seed", "zz"], ["bootstrap", "--host", "x"], []]
)
def test_arguments_that_make_no_sense(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "usage" in capsys.readouterr().err
