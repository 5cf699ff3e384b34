"""What can go wrong between us and Ollama; `str()` of each is a sentence for the user, cause first, next step last.

Families are split by what the caller does next: a `StoreError` means look at the disk (or fall back to the API), an
`OllamaUnavailable` means try again later, an `OllamaRejected` carries Ollama's own words, the format errors are final.
"""

from __future__ import annotations


class OllamaBridgeError(Exception):
    """Anything this package raises on purpose."""


class DigestInvalid(OllamaBridgeError, ValueError):
    """The text is not `sha256:` followed by 64 lower-case hex digits."""


class NameInvalid(OllamaBridgeError, ValueError):
    """The text is not a model name by Ollama's rules."""


class StoreError(OllamaBridgeError):
    """The model store cannot be read. Everything that needs files then goes through Ollama's API instead."""


class ManifestInvalid(StoreError):
    """A manifest is not what Ollama writes: cut, half-written or foreign. May heal by itself within two seconds."""


class ModelMissing(StoreError):
    """No manifest of that name is in the store."""


class BlobMissing(StoreError):
    """A blob is not in the store, or is not a plain file inside it."""


class OllamaUnavailable(OllamaBridgeError):
    """Ollama does not answer. Nothing was changed; trying again later may help."""


class OllamaRejected(OllamaBridgeError):
    """Ollama answered with an error. `status` is the HTTP status, or 200 when the error ended a started stream."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class ModelfileError(OllamaBridgeError):
    """The Modelfile text breaks the grammar; the sentence names the line."""


class AdapterFormatError(OllamaBridgeError):
    """The file is damaged, hostile or of a kind we do not take. Trying the same file again will not help."""


class ConversionFailed(OllamaBridgeError):
    """The converter could not run or hit a limit; says nothing about whether the adapter itself is good."""
