"""The Noise handshakes of the stack: IK for the DHT, XX for a secret stream without one."""

from .handshake import HandshakeKeys, NoiseHandshake

__all__ = ["HandshakeKeys", "NoiseHandshake"]
