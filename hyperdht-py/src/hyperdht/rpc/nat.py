"""What our public address is, going by what other nodes say they see. Source: nat-sampler 1.0.1."""

from collections import deque
from dataclasses import dataclass

from ..addresses import Address

MAX_SAMPLES = 16
LOOK_BACK = 4  # a sample joins an equal one among the four before it; further apart they count as different


@dataclass(slots=True)
class _Observation:
    host: str
    port: int
    hits: int = 1


class NatSampler:
    """Keeps the last 16 observations and takes for true what nearly all of them agree on."""

    __slots__ = ("_addresses", "_best_address", "_best_host", "_hosts", "host", "port")

    def __init__(self) -> None:
        self._addresses: deque[_Observation] = deque(maxlen=MAX_SAMPLES)
        self._hosts: deque[_Observation] = deque(maxlen=MAX_SAMPLES)
        self._best_address: _Observation | None = None
        self._best_host: _Observation | None = None
        self.host: str | None = None
        """Our public host, or None while unknown."""
        self.port = 0
        """Our public port; 0 when the host is known means that the port differs from peer to peer."""

    @property
    def size(self) -> int:
        """How many observations are kept."""
        return len(self._addresses)

    def add(self, observed: Address) -> None:
        """One node sees us at that address."""
        address = _observe(self._addresses, observed.host, observed.port)
        host = _observe(self._hosts, observed.host, 0)
        # The leader is only replaced by more hits, also after its own have fallen: as in the reference.
        self._best_address = _leader(self._best_address, address)
        self._best_host = _leader(self._best_host, host)
        needed = hits_needed(len(self._addresses))
        if self._best_address.hits >= needed:
            self.host, self.port = self._best_address.host, self._best_address.port
        elif self._best_host.hits >= needed:
            self.host, self.port = self._best_host.host, 0
        else:
            self.host, self.port = None, 0


def hits_needed(samples: int) -> int:
    """How many of that many samples must agree."""
    if samples < 4:
        return samples
    return samples - 1 if samples < 8 else samples - 2 if samples < 12 else samples - 3


def _leader(best: _Observation | None, observation: _Observation) -> _Observation:
    return observation if best is None or best.hits < observation.hits else best


def _observe(kept: deque[_Observation], host: str, port: int) -> _Observation:
    recent = (kept[-i] for i in range(1, min(LOOK_BACK, len(kept)) + 1))
    observation = next((seen for seen in recent if (seen.host, seen.port) == (host, port)), None)
    if observation is None:
        observation = _Observation(host, port)
    else:
        observation.hits += 1
    if len(kept) == MAX_SAMPLES:
        kept[0].hits -= 1  # it is pushed out by the next line
    kept.append(observation)
    return observation
