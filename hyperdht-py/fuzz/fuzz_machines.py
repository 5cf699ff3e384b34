"""Fuzzing of everything that reads a stranger's bytes. By hand, or all of it with `make soak`:

    pip install atheris                     # wheels exist for Linux and some Python versions
    python hyperdht-py/fuzz/fuzz_machines.py rpc.messages.request -max_total_time=600
    python hyperdht-py/fuzz/fuzz_machines.py secret-stream corpus/ -max_len=4096
    python hyperdht-py/fuzz/fuzz_machines.py all -runs=1000000
    python hyperdht-py/fuzz/fuzz_machines.py rpc-node --mutations 1000000

The first argument names the target, `all` one after the other, `list` tells their names; the rest goes to libFuzzer, which
follows the coverage. `--mutations N` needs no atheris: it tries N mutated vectors. `--replay FILE...` runs saved inputs.
A target fails when anything but the documented error comes out, when an input takes long, or when memory fed by the peer
passes its cap.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from fuzz_decoders import decoder_targets
from fuzz_nodes import TARGETS as NODE_TARGETS
from fuzz_nodes import frame as node_frame
from fuzz_peers import TARGETS as PEER_TARGETS
from fuzz_peers import frame as peer_frame
from fuzz_runner import Frame, Outcome, run_atheris, run_mutations

from hyperdht.crypto import KeyPair
from hyperdht.encoding import Reader
from hyperdht.errors import DecodeError, RemoteProtocolError
from hyperdht.noise import HandshakeKeys
from hyperdht.protomux import ChannelRequested, Mux, MuxLimits
from hyperdht.secret_stream import DataReceived, SecretStreamMachine

KEY_PAIR = KeyPair.from_seed(bytes(32))
HANDSHAKE = HandshakeKeys(tx=bytes(32), rx=bytes(32), hash=bytes(64), remote_public_key=KEY_PAIR.public_key)
LIMITS = MuxLimits(pending_opens=8, channels=64, early_bytes=16384, batch_items=256)
PULLS: tuple[Callable[[Reader], object], ...] = (
    Reader.pull_uint,
    Reader.pull_int,
    Reader.pull_uint64,
    Reader.pull_bool,
    Reader.pull_buffer,
    Reader.pull_optional_buffer,
    Reader.pull_string,
    Reader.pull_ip_address,
    lambda reader: reader.pull_array(Reader.pull_uint, max_items=1000),
    lambda reader: reader.pull_frame().pull_string(),
)


def fuzz_encoding(data: bytes) -> None:
    """Pairs of bytes pick what to read next."""
    picks, _, message = data.partition(b"\xff")
    reader = Reader(message)
    try:
        for pick in picks:
            PULLS[pick % len(PULLS)](reader)
    except DecodeError:
        return


def fuzz_secret_stream(data: bytes) -> None:
    """The first byte picks role and start, the second how the rest is cut."""
    if len(data) < 2:
        return
    handshake = HANDSHAKE if data[0] & 2 else None
    machine = SecretStreamMachine(bool(data[0] & 1), KEY_PAIR, handshake=handshake, max_message_bytes=4096)
    cut = data[1] or 1
    try:
        for at in range(2, len(data), cut):
            machine.receive(data[at : at + cut])
        machine.receive_eof()
    except RemoteProtocolError:
        pass
    if any(isinstance(event, DataReceived) for event in iter(machine.next_event, None)):
        raise AssertionError("a message without a valid MAC was delivered")


def fuzz_protomux(data: bytes) -> None:
    """Messages of the peer, each behind a length byte whose lowest bits also say how its channels are answered."""
    mux = Mux(LIMITS)
    channel = mux.create_channel("p")
    assert channel is not None
    channel.open()
    at = 0
    try:
        while at < len(data):
            length = data[at]
            mux.receive(data[at + 1 : at + 1 + length])
            at += 1 + length
            for event in iter(mux.next_event, None):
                if isinstance(event, ChannelRequested):
                    answer(mux, event, length % 3)
            mux.messages_to_send()
    except RemoteProtocolError:
        pass
    if mux.held_bytes > LIMITS.early_bytes + 2048:
        raise AssertionError("more early bytes are held than the limit")
    mux.connection_lost()


def answer(mux: Mux, event: ChannelRequested, how: int) -> None:
    """Reject, accept or leave it waiting."""
    if how == 0:
        mux.reject(event.protocol, event.id)
    elif how == 1 and (channel := mux.create_channel(event.protocol, event.id, unique=False)) is not None:
        channel.open()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "encoding": fuzz_encoding,
    "secret-stream": fuzz_secret_stream,
    "protomux": fuzz_protomux,
    **decoder_targets(),
    **NODE_TARGETS,
    **PEER_TARGETS,
}


def mutations(name: str, executions: int, *, with_vectors: bool = True) -> Outcome:
    """Try that many inputs on one target: the vectors, unless they are left out, and mutations of them."""
    return run_mutations(TARGETS[name], executions, seed=1, frame=framing_of(name), with_seeds=with_vectors)


def framing_of(name: str) -> Frame | None:
    """How vectors become inputs of that target."""
    if name in PEER_TARGETS:
        return peer_frame
    return node_frame if name in NODE_TARGETS else None


def main() -> None:
    """Fuzz, or replay."""
    if len(sys.argv) < 2 or sys.argv[1] not in (*TARGETS, "all", "list"):
        raise SystemExit(f"usage: {sys.argv[0]} all|list|TARGET [--replay FILE... | --mutations N | libFuzzer options]")
    name, arguments = sys.argv[1], sys.argv[2:]
    if name == "list":
        sys.stdout.write("\n".join(TARGETS) + "\n")
    elif name == "all":
        for each in TARGETS:  # libFuzzer ends its process
            subprocess.run([sys.executable, __file__, each, *arguments], check=True)  # noqa: S603 - this program
    elif arguments[:1] == ["--replay"]:
        for path in arguments[1:]:
            TARGETS[name](Path(path).read_bytes())
    elif arguments[:1] == ["--mutations"]:
        sys.stdout.write(f"{name}: {mutations(name, int(arguments[1]))}\n")
    else:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
            run_atheris(TARGETS[name], arguments, Path(scratch), framing_of(name))


if __name__ == "__main__":
    main()
