"""What the operating systems differ in about UDP sockets: batches in one call, no fragments, buffer sizes."""

import contextlib
import errno
import socket
import struct
import sys
from dataclasses import dataclass

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104  # <linux/udp.h>
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3  # <linux/in.h>
IPV6_MTU_DISCOVER = 23
IP_DONTFRAG_DARWIN, IP_DONTFRAGMENT_WINDOWS = 28, 14
MAX_SEGMENTS = 64  # UDP_MAX_SEGMENTS of older kernels
MAX_SEGMENTED_BYTES = 65_000  # a little under the 65,507 of one UDP datagram
CONTROL_BYTES = socket.CMSG_SPACE(4) if hasattr(socket, "CMSG_SPACE") else 0
DEFAULT_TTL = 64
# The larger the fewer packets are lost while Python does something else. Linux cuts it to net.core.rmem_max, macOS refuses.
BUFFER_BYTES = (4 << 20, 1 << 20, 512 << 10, 208 << 10)

# Errors that with UDP_SEGMENT may mean that the way out cannot do it: a tunnel, a packet larger than its MTU.
SEGMENTATION_REFUSED = {errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP}


@dataclass(frozen=True, slots=True)
class Offload:
    """Which batches the system makes for us."""

    segmentation: bool
    """One call sends many datagrams (UDP_SEGMENT, Linux 4.18)."""
    coalescing: bool
    """One call receives many (UDP_GRO, Linux 5.0)."""

    @classmethod
    def none(cls) -> "Offload":
        """Neither: one call for each datagram."""
        return cls(segmentation=False, coalescing=False)

    @classmethod
    def probe(cls) -> "Offload":
        """What this system has."""
        if not sys.platform.startswith("linux"):
            return cls.none()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            return cls(segmentation=_has(sock, UDP_SEGMENT), coalescing=_has(sock, UDP_GRO))


def _has(sock: socket.socket, option: int) -> bool:
    try:
        sock.setsockopt(SOL_UDP, option, 0)
    except OSError:
        return False
    return True


def set_coalescing(sock: socket.socket, on: bool) -> bool:
    """Switch UDP_GRO; returns whether it is on now."""
    try:
        sock.setsockopt(SOL_UDP, UDP_GRO, int(on))
    except OSError:
        return False
    return on


def segment_control(segment_bytes: int) -> list[tuple[int, int, bytes]]:
    """The control message that has the kernel cut a buffer."""
    return [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", segment_bytes))]


def segment_size(control: list[tuple[int, int, bytes]], whole: int) -> int:
    """How large the datagrams in a received buffer are."""
    for level, kind, data in control:
        if level == SOL_UDP and kind == UDP_GRO:
            return int.from_bytes(data[:4], sys.byteorder) or whole
    return whole


def bind_udp(host: str, port: int) -> socket.socket:
    """A non-blocking UDP socket that never fragments what it sends.

    Raises:
        OSError: The port is taken, the address is not ours, or no file descriptor is left.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        _set_buffer(sock, socket.SO_RCVBUF)
        _set_buffer(sock, socket.SO_SNDBUF)
        _forbid_fragments(sock)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _set_buffer(sock: socket.socket, option: int) -> None:
    for size in BUFFER_BYTES:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, size)
            return


def _forbid_fragments(sock: socket.socket) -> None:
    """Packets too large for the path get lost, which the search for the path's MTU relies on. Without it they still arrive."""
    with contextlib.suppress(OSError):
        if sys.platform.startswith("linux"):
            # PROBE ignores what the kernel learnt about the path: whoever forges ICMP cannot make our packets small.
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_PROBE)
            else:
                sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        elif sock.family == socket.AF_INET:
            option = IP_DONTFRAGMENT_WINDOWS if sys.platform == "win32" else IP_DONTFRAG_DARWIN
            sock.setsockopt(socket.IPPROTO_IP, option, 1)


def set_ttl(sock: socket.socket, ttl: int) -> None:
    """How many routers the next datagrams may pass."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
