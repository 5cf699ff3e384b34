"""A network in one process: seeded time and chance, lines that lose and reorder, boxes that translate and filter."""

from .clock import Clock
from .nat import NatKind
from .network import Host, Network
from .node import SimulatedNode, SimulatedStreams
from .realm import Line

__all__ = ["Clock", "Host", "Line", "NatKind", "Network", "SimulatedNode", "SimulatedStreams"]
