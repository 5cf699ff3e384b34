"""What the user is told when something is refused or fails.

Every error carries a cause ("what happened") and a next step ("what to do about it"). Families are split by what the
caller does next; the API maps `code` to a body and `http_status`, and the CLI prints the same two sentences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .control_types import ErrorInfo


class SidecarError(Exception):
    """Something was refused or failed, for a reason the user can act on."""

    code = "failed"
    http_status = 500
    default_next = "Run `ollaswarm doctor` for a full check."

    def __init__(self, cause: str, next_step: str | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.next_step = self.default_next if next_step is None else next_step

    def to_json(self) -> dict[str, str]:
        """The `error` object of the API and of `--json` output."""
        return {"code": self.code, "cause": self.cause, "next": self.next_step}


class NotFound(SidecarError):
    """No adapter, room, transfer or peer answers to that name."""

    code = "not-found"
    http_status = 404
    default_next = "`ollaswarm adapters` and `ollaswarm room list` show what there is."


class UsageError(SidecarError):
    """The request itself makes no sense."""

    code = "usage"
    http_status = 422
    default_next = "See `ollaswarm --help`."


class ConfigError(SidecarError):
    """A setting is unknown or has a value that cannot be used."""

    code = "config"
    http_status = 422
    default_next = "docs/reference.md lists every setting with its type and default."


class DaemonError(SidecarError):
    """The daemon cannot be started or reached."""

    code = "daemon"
    http_status = 503
    default_next = "Start it with `ollaswarm up`."


class TrustError(SidecarError):
    """The entry or its publisher is not acceptable. Never retried."""

    code = "trust"
    http_status = 403
    default_next = "Ask the publisher to share it again; nothing was fetched or installed."


class SignatureInvalid(TrustError):
    """The bytes were not signed by the key that claims them, or are not a valid entry."""

    code = "signature-invalid"


class EntryInvalid(TrustError):
    """The signed bytes are not an entry of a version we know."""

    code = "entry-invalid"


class EntryKindUnknown(EntryInvalid):
    """A later version of ollaswarm made the entry, to offer something this one does not know. Update to see it."""

    code = "entry-kind-unknown"


class NotTrusted(TrustError):
    """The publisher is blocked, or the policy asks for trust that was not given."""

    code = "not-trusted"


class KeyChanged(TrustError):
    """A name that belongs to one publisher is offered under another key."""

    code = "key-changed"
    default_next = (
        "Ask the publisher over another channel and compare the four words. If the key is theirs, `ollaswarm trust KEY`; "
        "to have both, install this one under another name with --as."
    )


class TransferError(SidecarError):
    """The bytes could not be obtained now. Another peer or another try may help."""

    code = "transfer"
    http_status = 502
    default_next = "What was verified so far is kept; the same `get` continues from there."


class NoProviders(TransferError):
    """No connected peer holds the blob."""

    code = "no-providers"
    http_status = 404


class ChunkMismatch(TransferError):
    """Peers sent chunks whose SHA-256 is not the one in the chunk table."""

    code = "chunk-mismatch"
    default_next = (
        "Try again when another member that has it is connected; `ollaswarm peers` shows who is, the log who lied."
    )


class BlobMismatch(TransferError):
    """The assembled file's SHA-256 is not the digest of the entry."""

    code = "blob-mismatch"


class DiskFull(TransferError):
    """The blob does not fit on the disk beside the reserve."""

    code = "disk-full"
    http_status = 507
    default_next = "Free some space, or move the data folder with --data-dir, then run the same `get` again."


class QuotaExceeded(TransferError):
    """Fetched data would exceed the quota."""

    code = "quota-exceeded"
    http_status = 507
    default_next = "Raise OLLASWARM_QUOTA or remove fetched adapters, then run the same `get` again."


class TransferCancelled(TransferError):
    """The transfer was cancelled; its partial file is kept."""

    code = "cancelled"
    http_status = 409


class InstallError(SidecarError):
    """Ollama was not given the adapter, or gave it back; the store is as it was."""

    code = "install"
    http_status = 409


class BaseModelMissing(InstallError):
    """The base model the adapter was made for is not in this Ollama."""

    code = "base-missing"


class FitRefused(InstallError):
    """The adapter does not fit the base model."""

    code = "does-not-fit"
    default_next = "Pull the exact base the publisher used; `ollaswarm adapters --fits` lists what fits yours."


class ClaimMismatch(InstallError):
    """The verified file is not what its entry claims."""

    code = "claim-mismatch"


class NameTaken(InstallError):
    """A model of that name exists and was not made by this install."""

    code = "name-taken"
    default_next = "Choose another name with --as, or replace it with --force."


class NoRoute(InstallError):
    """This Ollama can be given an adapter by none of the known routes."""

    code = "no-route"


class ModelRefused(InstallError):
    """A whole model holds something that is not passed on, or not installed."""

    code = "model-refused"
    http_status = 422


class SettingsNotAccepted(InstallError):
    """A whole model brings a template, system text or parameters of its own, and the user has not agreed to them."""

    code = "settings-not-accepted"
    default_next = "Run the same `get` in a terminal to see them and agree, or with --yes."


class OllamaError(SidecarError):
    """Ollama is away or refused the request."""

    code = "ollama"
    http_status = 502
    default_next = "Check that Ollama runs and that OLLAMA_HOST (or --ollama) names it."


class RoomError(SidecarError):
    """The room code or room name cannot be used."""

    code = "room"
    http_status = 422
    default_next = "Ask for the code again: it is eight words joined by hyphens."


class ConsentNeeded(SidecarError):
    """Going on would show something to strangers; the cause is the text to agree to."""

    code = "consent-needed"
    http_status = 409
    default_next = "If you agree, run the same command again with --yes."


class CatalogueError(SidecarError):
    """An entry was refused by the catalogue (older version, or a limit)."""

    code = "catalogue"
    http_status = 409


class AdapterRefused(SidecarError):
    """The file is not an adapter that can be shared or installed."""

    code = "adapter-refused"
    http_status = 422
    default_next = "`ollaswarm verify PATH` shows what was looked at."


class BundleError(SidecarError):
    """The file is not a bundle, or not a whole one; or it cannot be written."""

    code = "bundle"
    http_status = 422
    default_next = "Copy or export the bundle again; nothing of this one was used."


class ShareError(SidecarError):
    """The thing named cannot be shared."""

    code = "share"
    http_status = 422


def as_error(info: ErrorInfo) -> SidecarError:
    """A failure that was kept as data, as the class it had."""
    for kind in globals().values():
        if isinstance(kind, type) and issubclass(kind, SidecarError) and kind.code == info.code:
            return kind(info.cause, info.next)
    return SidecarError(info.cause, info.next)
