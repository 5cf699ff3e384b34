"""Network namespaces, and sockets and TUN devices made inside them."""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
QUEUE_PACKETS = 10_000
"""Of a TUN device. The default of 500 would lose packets of a burst that the program behind it has not come round to read."""

_numbers = itertools.count(1)


def why_not() -> str | None:
    """Why this machine cannot have a NAT lab, in a sentence; None when it can."""
    if sys.platform != "linux":
        return "it needs Linux's network namespaces"
    if os.geteuid() != 0:
        return "it needs root, for network namespaces and packet filters: sudo make nat"
    missing = [tool for tool in ("ip", "nft") if shutil.which(tool) is None]
    if missing:
        return f"it needs {' and '.join(missing)} (Debian: apt install iproute2 nftables)"
    if not Path("/dev/net/tun").exists():
        return "it needs /dev/net/tun"
    try:
        with Namespace() as namespace:
            namespace.filter("table ip lab { chain post { type nat hook postrouting priority 100; masquerade; }; }")
            os.close(namespace.tun("wan", []))
    except (OSError, subprocess.CalledProcessError) as error:
        return f"the kernel refuses a namespace with NAT and a TUN device: {error}"
    return None


class Namespace:
    """One network namespace; it goes when the block ends. Nothing in it can reach the machine's own network."""

    def __init__(self) -> None:
        self.name = f"lab{os.getpid()}-{next(_numbers)}"
        _run(["ip", "netns", "add", self.name])
        self.ip("link set lo up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)

    @property
    def prefix(self) -> list[str]:
        """Put before a command to run it inside."""
        return ["ip", "netns", "exec", self.name]

    def ip(self, *commands: str) -> None:
        """Run `ip` commands inside, all in one process."""
        _run(["ip", "-n", self.name, "-batch", "-"], "\n".join(commands) + "\n")

    def filter(self, rules: str) -> None:
        """Load an nftables file."""
        _run([*self.prefix, "nft", "-f", "-"], rules)

    def sysctl(self, name: str, value: int) -> None:
        """Set what belongs to the network namespace, where the kernel has it."""

        def write() -> None:
            path = Path("/proc/sys/net") / name.replace(".", "/")
            if path.exists():
                path.write_text(str(value))

        self.inside(write)

    def link(self, name: str, other: Namespace, other_name: str) -> None:
        """A cable to another namespace."""
        self.ip(f"link add {name} type veth peer name {other_name} netns {other.name}", f"link set {name} up")
        other.ip(f"link set {other_name} up")

    def tun(self, name: str, addresses: list[str]) -> int:
        """A TUN device that is the way to everywhere; the file descriptor of its other end, non-blocking."""

        def make() -> int:
            tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
            return tun

        tun = self.inside(make)
        added = [f"address add {address}/32 dev {name}" for address in addresses]
        up = f"link set {name} mtu 1500 txqueuelen {QUEUE_PACKETS} up"
        self.ip(*added, up, f"route add default dev {name}")
        return tun

    def udp(self, host: str = "0.0.0.0", port: int = 0) -> socket.socket:
        """A bound UDP socket that lives inside, for a process outside."""
        udp = self.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind((host, port))
        return udp

    def inside(self, make: Callable[[], T]) -> T:
        """Call in a thread that has entered the namespace; what it opens stays there."""
        made: list[T] = []
        problems: list[Exception] = []

        def run() -> None:
            try:
                _enter(self.name)
                made.append(make())
            except Exception as error:
                problems.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        for problem in problems:
            raise problem
        return made[0]


def _enter(name: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    namespace = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(namespace, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {name}")
    finally:
        os.close(namespace)


def _run(command: list[str], text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()} {text or ''}")
