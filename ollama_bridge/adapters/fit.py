"""Does this adapter belong on this base? Ollama does not ask; engines then crash or answer nonsense (T5).

Files that fit here can still be from another fine-tune of the same family: only the base's digest, which the caller
compares, says that it is the very model the adapter was trained on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollama_bridge.adapters.inspect import LoraPair, lora_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ollama_bridge.adapters.gguf import GgufHeader

MAX_REASONS = 4  # one wrong width is wrong in every tensor; the first few say it

_BLOCK = re.compile(r"blk\.(\d{1,6})\.")
_LARGE_SCALE = 64.0  # alpha / rank; trainers use 0.5 to 4, beyond this an answer is mostly noise


@dataclass(frozen=True, slots=True)
class Fit:
    """The verdict: sentences for the user in both lists."""

    ok: bool
    reasons: tuple[str, ...] = ()
    """Why not. Empty when `ok`."""
    warnings: tuple[str, ...] = ()
    """What does not stop the engine but may surprise."""


def check_fit(adapter: GgufHeader, base: GgufHeader) -> Fit:
    """Compare an adapter with a base, down to the name and shape of every tensor it changes.

    Args:
        adapter: Header of a file that passed `describe_adapter`.
        base: Header of the base's file, read with `BASE_LIMITS`.

    Raises:
        AdapterFormatError: The adapter's tensors are not LoRA pairs.
    """
    pairs = lora_pairs(adapter)
    if base.kind != "model":
        return Fit(False, (f"What was given as the base is itself a GGUF of type {base.kind!r}.",))
    if adapter.architecture != base.architecture:
        reason = (
            f"The adapter was made for the architecture {adapter.architecture!r}, the base is {base.architecture!r}. "
            "Pull a base of that family."
        )
        return Fit(False, (reason,))
    reasons = tuple(_cap([*_missing(pairs, base), *_misshapen(pairs, base)]))
    return Fit(not reasons, reasons, tuple(_warnings(adapter, base, pairs)))


def _missing(pairs: tuple[LoraPair, ...], base: GgufHeader) -> Iterator[str]:
    absent = [pair.target for pair in pairs if pair.target not in base.by_name]
    if not absent:
        return
    wanted = max((_block_of(target) for target in absent), default=-1)
    blocks = 1 + max((_block_of(tensor.name) for tensor in base.tensors), default=-1)
    if wanted >= blocks:
        yield (
            f"The adapter changes block {wanted}, but this base has only {blocks} blocks: it was made for a larger "
            "model of the same family."
        )
        absent = [target for target in absent if _block_of(target) < blocks]
    for target in absent:
        yield f"The adapter changes {target}, which this base does not have: {_close_name(target, base)}"


def _close_name(target: str, base: GgufHeader) -> str:
    block, _, kind = target.removesuffix(".weight").rpartition(".")
    if kind in {"attn_q", "attn_k", "attn_v"} and f"{block}.attn_qkv.weight" in base.by_name:
        return "it keeps attn_qkv in one tensor, so the adapter comes from another conversion of the family."
    if target == "output.weight":
        return "it uses its token embedding as output, so the adapter was made for a larger model of the family."
    return "it was made for another variant of the family."


def _misshapen(pairs: tuple[LoraPair, ...], base: GgufHeader) -> Iterator[str]:
    for pair in pairs:
        tensor = base.by_name.get(pair.target)
        if tensor is None:
            continue
        # Shapes of 1 at the end are not stored by every writer.
        shape = (*tensor.shape, 1)[:2] if len(tensor.shape) < 2 else tensor.shape
        wanted = (pair.columns, pair.rows, *pair.experts)
        if shape != wanted:
            yield (
                f"{pair.target} is {_times(shape)} in this base, the adapter was made for {_times(wanted)}: "
                "a model of another size."
            )


def _warnings(adapter: GgufHeader, base: GgufHeader, pairs: tuple[LoraPair, ...]) -> Iterator[str]:
    alpha = adapter.number("adapter.lora.alpha") or 0
    smallest = min(pair.rank for pair in pairs)
    if alpha == 0:
        yield "The adapter's alpha is 0, which engines read as a scale of 1."
    elif abs(alpha) / smallest > _LARGE_SCALE:
        yield f"The adapter's scale (alpha / rank) is {alpha / smallest:g}, far above what trainers use."
    named, found = adapter.text("general.base_model.0.name"), base.text("general.name")
    if named and found and _folded(named) != _folded(found):
        yield f"The adapter names {named[:60]!r} as its base, this file calls itself {found[:60]!r}."


def _cap(reasons: list[str]) -> list[str]:
    if len(reasons) <= MAX_REASONS:
        return reasons
    return [*reasons[:MAX_REASONS], f"And {len(reasons) - MAX_REASONS} more tensors do not fit."]


def _block_of(name: str) -> int:
    match = _BLOCK.match(name)
    return int(match.group(1)) if match else -1


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
