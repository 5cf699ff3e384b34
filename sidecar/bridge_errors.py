"""What the bridge says went wrong, as errors with a cause and a next step: the one place where they are translated."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ollama_bridge import errors as bridge
from ollama_bridge import install

from . import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

# The first match counts, so kinds stand before their families.
TRANSLATIONS: tuple[tuple[type[bridge.OllamaBridgeError], type[errors.SidecarError]], ...] = (
    (install.BaseMissing, errors.BaseModelMissing),
    (install.NameTaken, errors.NameTaken),
    (install.NoRoute, errors.NoRoute),
    (install.InstallFailed, errors.InstallError),
    (bridge.OllamaUnavailable, errors.OllamaError),
    (bridge.OllamaRejected, errors.OllamaError),
    (bridge.NameInvalid, errors.UsageError),
    (bridge.ModelMissing, errors.NotFound),
    (bridge.AdapterFormatError, errors.AdapterRefused),
    (bridge.ConversionFailed, errors.AdapterRefused),
    (bridge.StoreError, errors.OllamaError),
)


def translate(error: bridge.OllamaBridgeError) -> errors.SidecarError:
    """The user's error for one of the bridge's. The bridge's sentence has the cause and often the next step too."""
    for kind, family in TRANSLATIONS:
        if isinstance(error, kind):
            return family(str(error))
    return errors.SidecarError(str(error))


@contextlib.contextmanager
def bridge_errors() -> Iterator[None]:
    """Translate what the block raises."""
    try:
        yield
    except bridge.OllamaBridgeError as error:
        raise translate(error) from error
