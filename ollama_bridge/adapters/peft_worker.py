"""The converting process: one JSON job on stdin, JSON lines on stdout, an adapter GGUF written. See `peft`.

Everything it is told was checked by the parent with bounded readers. It lowers its own limits and, where the system lets
it, gives up the network before it touches the data.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def main() -> int:
    """Read the job, convert, say how it ended."""
    job = json.loads(sys.stdin.buffer.readline())
    _confine(job["limits"])
    try:
        _convert(job)
    except ModuleNotFoundError as error:
        return _end({"missing": error.name}, 3)
    except (MemoryError, ImportError):  # a library that cannot be mapped is an ImportError
        return _end({"limit": "memory"}, 4)
    except OSError:
        return _end({"limit": "disk"}, 5)
    return _end({"finished": True}, 0)


def _end(verdict: dict[str, Any], code: int) -> int:
    _say(verdict)
    return code


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _confine(limits: dict[str, int]) -> None:
    if sys.platform == "linux":
        # A network namespace of our own has no way out. Systems that forbid it lose a wall, not the conversion.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    if sys.platform == "win32":
        return  # no resource module; the parent's timeout and its checks of sizes are the limits there
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing too much is an OSError we can report
    wanted = {
        resource.RLIMIT_AS: (limits["memory_bytes"], limits["memory_bytes"]),
        resource.RLIMIT_CPU: (
            limits["cpu_s"],
            limits["cpu_s"] + 1,
        ),  # SIGXCPU first, which names the limit; then SIGKILL
        resource.RLIMIT_FSIZE: (limits["output_bytes"], limits["output_bytes"]),
        resource.RLIMIT_CORE: (0, 0),
    }
    for kind, values in wanted.items():
        with contextlib.suppress(ValueError, OSError):  # macOS refuses an address space limit
            resource.setrlimit(kind, values)


def _convert(job: dict[str, Any]) -> None:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(job["out"], job["architecture"])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, job["alpha"])
    for tensor in job["tensors"]:
        dtype = np.dtype(np.float16 if tensor["dtype"] == "F16" else np.float32)
        rows, columns = tensor["shape"]
        writer.add_tensor_info(tensor["name"], (rows, columns), dtype, rows * columns * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    with open(job["source"], "rb") as source:
        for index, tensor in enumerate(job["tensors"], start=1):
            source.seek(tensor["offset"])
            writer.write_tensor_data(_matrix(source.read(tensor["size"]), tensor))
            _say({"done": index, "total": len(job["tensors"])})
    writer.close()


def _matrix(data: bytes, tensor: dict[str, Any]) -> NDArray[Any]:
    import numpy as np

    matrix: NDArray[Any]
    if tensor["dtype"] == "BF16":  # the upper half of a float32; GGUF knows BF16, but not every engine back end does
        matrix = (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        matrix = np.frombuffer(data, dtype="<f2" if tensor["dtype"] == "F16" else "<f4")
    matrix = matrix.reshape(tensor["shape"])
    return _interleave_rotary(matrix, tensor["heads"]) if tensor["heads"] else matrix


def _interleave_rotary(matrix: NDArray[Any], heads: int) -> NDArray[np.floating[Any]]:
    """Hugging Face keeps the two rotary halves of a head apart, llama GGUF interleaves them (`LlamaModel.permute`)."""
    import numpy as np

    rows = matrix.shape[0]
    return np.ascontiguousarray(matrix.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(matrix.shape))


if __name__ == "__main__":
    sys.exit(main())
