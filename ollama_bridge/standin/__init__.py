"""A server that behaves like Ollama, for the demo, the tests and for trying things without a model."""

from ollama_bridge.standin.app import StandIn
from ollama_bridge.standin.faults import STEPS, Fault, Faults

__all__ = ["STEPS", "Fault", "Faults", "StandIn"]
