"""PEFT folders: the form Orch-Mind's files have, ours on their way out and theirs on their way in. Blocking."""

from __future__ import annotations

import json
import os
import re
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from ollama_bridge.adapters.peft_rules import MAX_CONFIG_BYTES, parse_config
from ollama_bridge.adapters.safetensors import read_safetensors
from ollama_bridge.errors import AdapterFormatError
from ollama_bridge.nofollow import open_regular
from sidecar.transfer.chunks import hash_chunks

from .download import TENSOR_FILE
from .messages import SAFETENSORS, AdapterFacts, AdapterOffer

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_bridge.digests import Digest
    from sidecar.transfer.chunks import ChunkTable

CONFIG_FILE = "adapter_config.json"
ASSUMED_ALPHA = 16.0
"""What Orch-Mind writes into the configuration of a file it fetched when nobody said: its users get the same."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
"""`google/gemma-3-1b-it`, and not a path on our disk, which others need not see (T21)."""

open_tensors = partial(open_regular, parts=(TENSOR_FILE,))


def is_peft_folder(path: Path) -> bool:
    """Whether both files of one are there."""
    return (path / CONFIG_FILE).is_file() and (path / TENSOR_FILE).is_file()


def read_folder(folder: Path, *, name: str, base: str, topic: str) -> tuple[AdapterOffer, Digest, ChunkTable]:
    """An offer of a folder of ours.

    Args:
        base: The base's name in Ollama.
        topic: What a peer asks for it by.
    Raises:
        OSError, BlobMismatch: It cannot be read.
        AdapterFormatError: It is not a LoRA that others could use.
    """
    with closing(open_regular(folder, (CONFIG_FILE,))) as file:
        data = file.read(MAX_CONFIG_BYTES + 1)
    config = parse_config(data)
    hub_name = json.loads(data).get("base_model_name_or_path")
    with closing(open_tensors(folder)) as file:
        read_safetensors(file)
        size = os.fstat(file.fileno()).st_size
        file.seek(0)
        digest, table = hash_chunks(file, size)
    facts = AdapterFacts(
        base_model=base,
        hf_model=hub_name if isinstance(hub_name, str) and _HUB_NAME.fullmatch(hub_name) else "",
        file_type=SAFETENSORS,
        rank=config.rank,
        # As GGUF means it: rank stabilisation, which Orch-Mind would switch off, is part of the number already.
        alpha=config.alpha,
    )
    return AdapterOffer(name, size, digest.hex, topic, facts=facts), digest, table


def write_config(folder: Path, facts: AdapterFacts) -> None:
    """Give a fetched file the configuration that Orch-Mind does not send. The rank is the file's own.

    Raises:
        AdapterFormatError: The file is no LoRA, has several ranks, or another one than was said.
    """
    with closing(open_tensors(folder)) as file:
        header = read_safetensors(file)
    ranks = {tensor.shape[0] for tensor in header.tensors if ".lora_A." in tensor.name}
    if not ranks:
        raise AdapterFormatError("The file has no LoRA tensors.")
    if len(ranks) > 1:
        raise AdapterFormatError("The file has different ranks per module, which an adapter GGUF cannot carry.")
    (rank,) = ranks
    if facts.rank not in (None, rank):
        raise AdapterFormatError(f"The file was offered with rank {facts.rank} and has rank {rank}.")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": ASSUMED_ALPHA if facts.alpha is None else facts.alpha,
        "use_rslora": facts.rank_stabilised,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config), encoding="ascii")
