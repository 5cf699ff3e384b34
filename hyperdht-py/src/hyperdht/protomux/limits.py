"""What a peer may make us hold. JavaScript's Protomux bounds none of these; each says what a hostile peer would do without."""

from dataclasses import dataclass

MAX_PROTOCOL_BYTES = 255  # names are a few words; they are keys of our tables and go into logs
MAX_ID_BYTES = 255  # usually 32 bytes; a key of our tables too
# JavaScript stops reading the stream above this many early bytes, and so should the owner of a `Mux` (`should_pause`).
PAUSE_EARLY_BYTES = 32768
EARLY_MESSAGE_OVERHEAD_BYTES = 512  # what JavaScript counts for each early message beside its length


@dataclass(frozen=True, slots=True)
class MuxLimits:
    """Beyond these the peer has broken the protocol, except for `batch_bytes`, which is our own."""

    pending_opens: int = 64
    """Opens of the peer that nobody claimed or rejected yet: each is a table entry and an event."""
    channels: int = 4096
    """The peer's channel ids. Ids of rejected opens are free again, but a peer that never reuses one grows our table."""
    early_bytes: int = 1024 * 1024
    """Messages and handshakes kept for channels that are not open here yet. One chunk message of the largest room frame fits
    several times; a peer that goes on after `should_pause` can only do so within what was already read."""
    batch_items: int = 32768
    """Messages in one batch. Items can be 2 bytes, so that a 16 MiB frame would become 8 million events at once."""
    batch_bytes: int = 8 * 1024 * 1024
    """Our batches are sent when they would grow beyond this; JavaScript uses the same. Set it below the largest message the
    peer takes."""
