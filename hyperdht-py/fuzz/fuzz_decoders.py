"""A fuzz target for every `decode_*` function of the library, found by name so that a new one is never forgotten.

Any bytes decode or raise `DecodeError`, nothing else. What decodes and can be encoded again means the same as before.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

import hyperdht
from hyperdht.addresses import Address
from hyperdht.errors import DecodeError, LocalProtocolError
from hyperdht.udx.packet import DATA, HEADER_BYTES, decode_packet, parse_runs, payloads_of_run

PREFIX = "decode_"
PACKAGES = ("rpc", "udx", "dht", "swarm", "protomux", "secret_stream", "noise", "io")
ARGUMENTS = {"sender": Address("11.0.0.1", 49737)}
"""What decoders want besides the bytes, by parameter."""
MAX_SEGMENTS = 64
RUN = "udx.packet.run"

Target = Callable[[bytes], None]


def decoder_targets() -> dict[str, Target]:
    """By module and name, as in `rpc.messages.request`."""
    targets: dict[str, Target] = {}
    for module in modules():
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith(PREFIX) and function.__module__ == module.__name__:
                short = f"{module.__name__.partition('.')[2]}.{name.removeprefix(PREFIX)}"
                targets[short] = target_for(module, name)
    return {**targets, RUN: fuzz_run}


def modules() -> list[ModuleType]:
    """Every module that may read bytes of a stranger."""
    found = []
    for package in PACKAGES:
        root = importlib.import_module(f"{hyperdht.__name__}.{package}")
        found += [
            importlib.import_module(info.name) for info in pkgutil.iter_modules(root.__path__, f"{root.__name__}.")
        ]
    return found


def target_for(module: ModuleType, name: str) -> Target:
    """Decode; when that works and the encoder takes one argument, encode and decode once more."""
    decode: Callable[..., Any] = getattr(module, name)
    _, *others = inspect.signature(decode).parameters.values()
    arguments = {other.name: ARGUMENTS[other.name] for other in others if other.default is other.empty}
    encode: Callable[..., Any] | None = getattr(module, f"encode_{name.removeprefix(PREFIX)}", None)
    if encode is not None and len(inspect.signature(encode).parameters) != 1:
        encode = None

    def target(data: bytes) -> None:
        try:
            decoded = decode(data, **arguments)
        except DecodeError:
            return
        if encode is None:
            return
        try:
            again = encode(decoded)
        except LocalProtocolError:
            return  # we read more than we would ever write
        if decode(again, **arguments) != decoded:
            raise AssertionError(f"{decoded!r} became {decode(again, **arguments)!r}")

    return target


def fuzz_run(data: bytes) -> None:
    """A batch as the kernel coalesces it: the first byte is the size of its segments less the header's 20 bytes.

    Read in one step it says the same as read packet by packet.
    """
    if not data:
        return
    segment_bytes = HEADER_BYTES + data[0]
    count = min((len(data) - 1) // segment_bytes, MAX_SEGMENTS)
    if not count:
        return
    body = data[1 : 1 + count * segment_bytes]
    runs = parse_runs(body, segment_bytes, count, stream_id=int.from_bytes(body[4:8], "little"))
    for run in runs or ():
        payloads = payloads_of_run(body, segment_bytes, run.packets, run.start)
        for number, payload in enumerate(payloads):
            at = (run.start + number) * segment_bytes
            packet = decode_packet(body[at : at + segment_bytes])
            if packet.flags != run.flags or packet.seq != run.first_seq + number:
                raise AssertionError(f"packet {number} of {run} is {packet}")
            if run.flags == DATA and packet.payload != payload:
                raise AssertionError(f"payload {number} of {run} is not that of {packet}")
    if runs and runs[0].flags == DATA and sum(run.packets for run in runs) != count:
        raise AssertionError("packets were left out")


def frame_run(number: int, datagram: bytes) -> bytes:
    """Three packets in a row made of one, as `fuzz_run` reads them."""
    packet = datagram[: HEADER_BYTES + 255].ljust(HEADER_BYTES, b"\0")
    seq = int.from_bytes(packet[12:16], "little")
    packets = (packet[:12] + (seq + i & 0xFFFFFFFF).to_bytes(4, "little") + packet[16:] for i in range(3))
    return bytes((len(packet) - HEADER_BYTES,)) + b"".join(packets)
