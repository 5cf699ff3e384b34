"""What a user does today: copy one blob with scp or from an rsync daemon, over loopback."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.support.processes import free_port, wait_for


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _listens(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), 0.2).close()
    except OSError:
        return False
    return True


def _rsync(source: Path, port: int, folder: Path) -> tuple[list[str], list[str]]:
    conf = folder / "rsyncd.conf"
    conf.write_text(f"use chroot = no\npid file = {folder}/rsync.{port}.pid\n[blobs]\npath = {source.parent}\n")
    server = ["rsync", "--daemon", "--no-detach", "--config", str(conf), "--port", str(port), "--address", "127.0.0.1"]
    return server, ["rsync", "-W", f"rsync://127.0.0.1:{port}/blobs/{source.name}"]


def _scp(source: Path, port: int, folder: Path) -> tuple[list[str], list[str]]:
    for name in ("host", "user"):
        if not (folder / name).exists():
            keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(keygen, check=True)
    conf = folder / "sshd_config"
    conf.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\nStrictModes no\n"
        f"PidFile {folder}/sshd.pid\nUsePAM no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
    )
    sshd = shutil.which("sshd", path=os.environ["PATH"] + os.pathsep + "/usr/sbin")
    if sshd is None:
        raise FileNotFoundError("sshd")
    Path("/run/sshd").mkdir(exist_ok=True)
    options = ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={os.devnull}"]
    client = ["scp", "-q", "-P", str(port), "-i", str(folder / "user"), *options, f"127.0.0.1:{source}"]
    return [sshd, "-D", "-e", "-f", str(conf)], client


TOOLS = {"scp": _scp, "rsync daemon": _rsync}


def available() -> list[str]:
    """The tools this machine has."""
    path = os.environ["PATH"] + os.pathsep + "/usr/sbin"
    needs = {"scp": ("scp", "sshd", "ssh-keygen"), "rsync daemon": ("rsync",)}
    return [tool for tool, names in needs.items() if all(shutil.which(name, path=path) for name in names)]


def copy(tool: str, source: Path, target: Path, folder: Path) -> tuple[float, float]:
    """Copy once; seconds the user waits, and CPU seconds of both ends."""
    target.unlink(missing_ok=True)
    port = free_port()
    server_argv, client_argv = TOOLS[tool](source, port, folder)
    before = _cpu()
    server = subprocess.Popen(server_argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: _listens(port), tool)
        start = time.perf_counter()
        subprocess.run([*client_argv, str(target)], check=True, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    if target.stat().st_size != source.stat().st_size:
        raise RuntimeError(f"{tool} copied the wrong size")
    return seconds, _cpu() - before
