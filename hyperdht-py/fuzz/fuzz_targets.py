"""All fuzz targets by name."""

from collections.abc import Callable

from fuzz_decoders import RUN, decoder_targets, frame_run
from fuzz_nodes import TARGETS as NODE_TARGETS
from fuzz_nodes import frame as node_frame
from fuzz_peers import TARGETS as PEER_TARGETS
from fuzz_peers import frame as peer_frame
from fuzz_runner import Frame, Outcome, run_mutations
from fuzz_streams import TARGETS as STREAM_TARGETS

TARGETS: dict[str, Callable[[bytes], None]] = {
    **STREAM_TARGETS,
    **decoder_targets(),
    **NODE_TARGETS,
    **PEER_TARGETS,
}


def framing_of(name: str) -> Frame | None:
    """How vectors become inputs of that target."""
    if name in PEER_TARGETS:
        return peer_frame
    if name == RUN:
        return frame_run
    return node_frame if name in NODE_TARGETS else None


def mutations(name: str, executions: int, *, with_vectors: bool = True) -> Outcome:
    """Try that many inputs on one target: the vectors, unless they are left out, and mutations of them."""
    return run_mutations(TARGETS[name], executions, seed=1, frame=framing_of(name), with_seeds=with_vectors)
