"""PEFT folder to adapter GGUF, in a separate process with limits (T27).

The one program for this, llama.cpp's `convert_lora_to_gguf.py`, is no package and needs torch; Ollama's own converter is
gone since 0.34.1. Numbers are copied, not computed: the only arithmetic is a row order for q and k of llama models.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ollama_bridge.adapters.fit import check_fit
from ollama_bridge.adapters.gguf import ADAPTER_LIMITS, BASE_LIMITS, read_gguf
from ollama_bridge.adapters.inspect import describe_adapter
from ollama_bridge.adapters.peft_rules import MAX_CONFIG_BYTES, ROPE_PERMUTED, PeftConfig, locate, parse_config
from ollama_bridge.adapters.safetensors import SafetensorsHeader, read_safetensors
from ollama_bridge.errors import AdapterFormatError, ConversionFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_bridge.adapters.gguf import GgufHeader

CONFIG_FILE: Final = "adapter_config.json"
TENSOR_FILE: Final = "adapter_model.safetensors"
MAX_REPLY_LINE: Final = 4_096


@dataclass(frozen=True, slots=True)
class ConvertLimits:
    """What the converting process may use. Memory, CPU and file size are enforced by the system where it can (POSIX)."""

    memory_bytes: int = 3 << 30
    """Address space. numpy alone maps some hundred MiB; tensors pass through one at a time."""
    cpu_s: int = 600
    timeout_s: float = 900.0
    output_bytes: int = 8 << 30
    """Ten times the largest adapters seen on hubs."""


def convert_peft(
    folder: Path,
    base: Path | GgufHeader,
    out: Path,
    *,
    limits: ConvertLimits = ConvertLimits(),
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Convert a PEFT LoRA folder to an adapter GGUF that fits `base`. Blocking: call it in a worker thread.

    The same folder always gives the same bytes. The result was read back, described and checked against the base.

    Args:
        folder: Holds `adapter_config.json` and `adapter_model.safetensors`. Pickles beside them are never opened.
        base: The base model's GGUF file, or its header (read with `BASE_LIMITS`): architecture, head counts, shapes.
        out: Where the result goes; replaced only by a finished, checked file.
        limits: For the separate process.
        progress: Called with (tensors done, tensors in all), from this thread.

    Raises:
        AdapterFormatError: The folder cannot be converted rightly, with the name of what is in the way.
        ConversionFailed: The extra `convert` is not installed, or a limit was hit. Nothing is left behind.
    """
    header = base if not isinstance(base, Path) else _read_base(base)
    config = parse_config(_read_config(folder))
    tensors = _read_tensors(folder)
    order = _plan(header, config, tensors, limits)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=out.parent) as scratch:
        made = Path(scratch) / "adapter.gguf"
        job = {
            "source": str((folder / TENSOR_FILE).resolve()),
            "out": str(made),
            "architecture": header.architecture,
            "alpha": config.alpha,
            "tensors": order,
        }
        _run_worker(job, Path(scratch), limits, progress)
        _check_result(made, header)
        os.replace(made, out)
    return out


def _read_base(path: Path) -> GgufHeader:
    with path.open("rb") as file:
        return read_gguf(file, limits=BASE_LIMITS)


def _read_config(folder: Path) -> bytes:
    try:
        with (folder / CONFIG_FILE).open("rb") as file:
            return file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise AdapterFormatError(
            f"{folder} is no PEFT folder: {CONFIG_FILE} cannot be read ({error.strerror})."
        ) from None


def _read_tensors(folder: Path) -> SafetensorsHeader:
    try:
        with (folder / TENSOR_FILE).open("rb") as file:
            return read_safetensors(file)
    except OSError as error:
        pickles = [name for name in ("adapter_model.bin", "adapter_model.pt") if (folder / name).exists()]
        if pickles:
            raise AdapterFormatError(
                f"{folder} holds {pickles[0]}, a pickle, which can run code and is never opened. Save the adapter again "
                "with safe_serialization=True."
            ) from None
        raise AdapterFormatError(
            f"{folder} is no PEFT folder: {TENSOR_FILE} cannot be read ({error.strerror})."
        ) from None


def _plan(
    base: GgufHeader, config: PeftConfig, source: SafetensorsHeader, limits: ConvertLimits
) -> list[dict[str, Any]]:
    """What the worker does, tensor by tensor, in the order of the result: block, projection, A before B."""
    architecture = base.architecture or "unknown"
    found = sorted(((locate(tensor.name, architecture), tensor) for tensor in source.tensors), key=lambda pair: pair[0])
    jobs = []
    for factor, tensor in found:
        if tensor.dtype not in {"F32", "F16", "BF16"} or len(tensor.shape) != 2:
            raise AdapterFormatError(f"The tensor {tensor.name!r} is not a matrix of F32, F16 or BF16 numbers.")
        if config.rank != (tensor.shape[0] if factor.side == "a" else tensor.shape[1]):
            raise AdapterFormatError(f"The tensor {tensor.name!r} does not have the rank {config.rank} of its config.")
        heads = _rope_heads(base, factor.target) if factor.side == "b" else 0
        if heads and tensor.shape[0] % (2 * heads):
            raise AdapterFormatError(f"The tensor {tensor.name!r} cannot be divided into the base's {heads} heads.")
        jobs.append(
            {
                "name": factor.gguf_name,
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "offset": tensor.offset,
                "size": tensor.size,
                "heads": heads,
            }
        )
    if len({job["name"] for job in jobs}) != len(jobs):
        raise AdapterFormatError("Two tensors of the folder stand for the same factor of one projection.")
    if 2 * source.file_size > limits.output_bytes:  # BF16 becomes F32
        raise ConversionFailed(f"The adapter is larger than the {limits.output_bytes} bytes the converter may write.")
    return jobs


def _rope_heads(base: GgufHeader, target: str) -> int:
    """Heads whose rows are reordered; 0 where the base keeps Hugging Face's order."""
    if base.architecture not in ROPE_PERMUTED or target not in {"attn_q", "attn_k"}:
        return 0
    heads = base.metadata.get(f"{base.architecture}.attention.head_count")
    kv_heads = base.metadata.get(f"{base.architecture}.attention.head_count_kv", heads)
    count = heads if target == "attn_q" else kv_heads
    if type(count) is not int or count < 1:
        raise AdapterFormatError("The base does not have one number of attention heads for all blocks; not converted.")
    return count


def _run_worker(
    job: dict[str, Any], scratch: Path, limits: ConvertLimits, progress: Callable[[int, int], None] | None
) -> None:
    caps = {"memory_bytes": limits.memory_bytes, "cpu_s": limits.cpu_s, "output_bytes": limits.output_bytes}
    command = [sys.executable, "-P", "-m", "ollama_bridge.adapters.peft_worker"]
    process = subprocess.Popen(  # noqa: S603 - our own module, no shell, nothing of the folder in the arguments
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=scratch,
        env=_worker_environment(),
    )
    timer = threading.Timer(limits.timeout_s, process.kill)
    timer.start()
    try:
        with process:
            try:
                verdict = _converse(process, {**job, "limits": caps}, progress)
            except BaseException:
                process.kill()
                raise
    finally:
        timed_out = not timer.is_alive()
        timer.cancel()
    _raise_verdict(verdict, process.returncode, limits, timed_out=timed_out)


def _converse(
    process: subprocess.Popen[bytes], job: dict[str, Any], progress: Callable[[int, int], None] | None
) -> dict[str, Any]:
    """Hand over the job, pass progress on, return the last thing the worker said."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it ended at once; its exit code says why
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.close()
    verdict: dict[str, Any] = {}
    while line := process.stdout.readline(MAX_REPLY_LINE):
        verdict = _parse_reply(line)
        if progress is not None and "done" in verdict:
            progress(int(verdict["done"]), int(verdict["total"]))
    return verdict


def _parse_reply(line: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        raise ConversionFailed("The converter said something that makes no sense and was ended. Nothing was kept.")
    return reply


def _worker_environment() -> dict[str, str]:
    """As little as Python needs to start; one thread for numpy, whose thread pools reserve memory by the gigabyte."""
    kept = {"PATH", "SYSTEMROOT", "TEMP", "TMP", "HOME", "USERPROFILE", "LANG"}
    environment = {key: value for key, value in os.environ.items() if key.upper() in kept}
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return environment | threads | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _raise_verdict(verdict: dict[str, Any], code: int, limits: ConvertLimits, *, timed_out: bool) -> None:
    if code == 0 and "finished" in verdict:
        return
    if "missing" in verdict:
        raise ConversionFailed(
            f"Converting a PEFT folder needs the package {verdict['missing']!r}. Install it with: "
            "pip install 'ollaswarm[convert]'"
        )
    if timed_out:
        raise ConversionFailed(
            f"The converter took longer than {limits.timeout_s:g} s and was ended; nothing was kept."
        )
    if verdict.get("limit") == "memory":
        raise ConversionFailed(f"The converter needed more than {limits.memory_bytes >> 20} MiB and was ended.")
    if verdict.get("limit") == "disk":
        raise ConversionFailed("The converter could not write its result: the disk is full or the result too large.")
    if code == -getattr(signal, "SIGXCPU", 24):
        raise ConversionFailed(f"The converter used more than {limits.cpu_s} s of processor time and was ended.")
    raise ConversionFailed(f"The converter stopped without a result (exit code {code}). Nothing was kept.")


def _check_result(made: Path, base: GgufHeader) -> None:
    with made.open("rb") as file:
        describe_adapter(file)
        fit = check_fit(read_gguf(file, limits=ADAPTER_LIMITS), base)
    if not fit.ok:
        raise AdapterFormatError(f"The adapter does not fit the base: {fit.reasons[0]}")
