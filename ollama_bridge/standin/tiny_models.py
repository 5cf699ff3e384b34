"""Tiny, valid model and LoRA files that real engines load: for the demo, and for tests to build their fixtures from.

Needs the extra `convert`. The same arguments always give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollama_bridge.errors import ConversionFailed

try:
    import gguf
    import numpy as np
    from numpy.typing import NDArray
except ImportError as error:
    raise ConversionFailed(
        f"Making model files needs the extra `convert` ({error.name} is missing): pip install 'ollaswarm[convert]'"
    ) from error

if TYPE_CHECKING:
    from pathlib import Path

Matrix = NDArray[np.float32]
Pairs = Mapping[tuple[int, str], tuple[Matrix, Matrix]]
"""(block, target) -> (A of rank x columns, B of rows x rank), B in Hugging Face's row order."""

PEFT_NAME = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")


@dataclass(frozen=True)
class Dimensions:
    """Shape of the base model."""

    layers: int = 2
    embd: int = 64
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 128
    ctx: int = 512

    def __post_init__(self) -> None:
        if self.embd % self.heads or (self.embd // self.heads) % 2 or self.heads % self.kv_heads:
            raise ValueError("embd must be an even multiple of heads, heads a multiple of kv_heads")

    @property
    def head(self) -> int:
        """Width of one head."""
        return self.embd // self.heads

    def linear(self, target: str) -> tuple[int, int]:
        """(rows, columns) of a projection."""
        kv = self.head * self.kv_heads
        return {
            "attn_q": (self.embd, self.embd),
            "attn_k": (kv, self.embd),
            "attn_v": (kv, self.embd),
            "attn_output": (self.embd, self.embd),
            "ffn_gate": (self.ffn, self.embd),
            "ffn_up": (self.ffn, self.embd),
            "ffn_down": (self.embd, self.ffn),
        }[target]

    def rotary_heads(self, target: str) -> int:
        """Heads whose rows a llama GGUF interleaves; 0 for other projections."""
        return {"attn_q": self.heads, "attn_k": self.kv_heads}.get(target, 0)


@dataclass(frozen=True)
class Options:
    """What to make."""

    dims: Dimensions = Dimensions()
    seed: int = 0
    rank: int = 4
    alpha: float = 8.0
    half: bool = False
    """Store the base's matrices as F16."""
    chat_template: str | None = None
    pad_to: int = 0
    """Grow base.gguf and adapter.gguf to this many bytes."""


def write_base(path: Path, options: Options) -> None:
    """A llama model with random weights."""
    dims = options.dims
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(f"tiny-llama-{options.seed}")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if options.half else gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(dims.ctx)
    writer.add_embedding_length(dims.embd)
    writer.add_block_count(dims.layers)
    writer.add_feed_forward_length(dims.ffn)
    writer.add_head_count(dims.heads)
    writer.add_head_count_kv(dims.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(dims.head)
    writer.add_rope_freq_base(10000.0)
    vocabulary_size = _add_vocabulary(writer)
    if options.chat_template:
        writer.add_chat_template(options.chat_template)

    def matrix(name: str, rows: int, columns: int, scale: float) -> None:
        data = _normal(options.seed, ("base", name), rows, columns, scale)
        writer.add_tensor(name, data.astype(np.float16) if options.half else data)

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(dims.embd, dtype=np.float32))

    matrix("token_embd.weight", vocabulary_size, dims.embd, 0.5)
    for block in range(dims.layers):
        ones(f"blk.{block}.attn_norm.weight")
        for target in PEFT_NAME:
            rows, columns = dims.linear(target)
            matrix(f"blk.{block}.{target}.weight", rows, columns, 0.6 / columns**0.5)
        ones(f"blk.{block}.ffn_norm.weight")
    ones("output_norm.weight")
    matrix("output.weight", vocabulary_size, dims.embd, 1.0)
    _finish(writer)


def lora_pairs(options: Options, label: str, targets: Sequence[str], layers: Iterable[int] | None = None) -> Pairs:
    """Random pairs for the targets of every block (or of `layers`)."""
    pairs = {}
    for block in range(options.dims.layers) if layers is None else layers:
        for target in targets:
            rows, columns = options.dims.linear(target)
            random = _random(options.seed, ("lora", label, block, target))
            a = random.standard_normal((options.rank, columns), dtype=np.float32) * np.float32(0.4)
            b = random.standard_normal((rows, options.rank), dtype=np.float32) * np.float32(0.4)
            pairs[block, target] = (a, b)
    return pairs


def write_adapter(
    path: Path,
    dims: Dimensions,
    pairs: Pairs,
    alpha: float,
    *,
    architecture: str = "llama",
    name: str = "tiny-lora",
    adapter_type: str | None = "lora",
    without_b: tuple[int, str] | None = None,
) -> None:
    """An adapter GGUF."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if adapter_type is not None:
        writer.add_string(gguf.Keys.Adapter.TYPE, adapter_type)
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for (block, target), (a, b) in pairs.items():
        writer.add_tensor(f"blk.{block}.{target}.weight.lora_a", a)
        if (block, target) != without_b:
            heads = dims.rotary_heads(target)
            writer.add_tensor(f"blk.{block}.{target}.weight.lora_b", rope_rows(b, heads) if heads else b)
    _finish(writer)


def rope_rows(matrix: Matrix, heads: int) -> Matrix:
    """Hugging Face keeps the two rotary halves of a head apart, llama-family GGUF interleaves them."""
    rows = matrix.shape[0]
    return np.ascontiguousarray(matrix.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(matrix.shape))


def write_peft(folder: Path, pairs: Pairs, options: Options, **changes: object) -> None:
    """The same pairs as a PEFT folder; `changes` replace fields of its configuration."""
    from safetensors.numpy import save_file

    folder.mkdir(exist_ok=True)
    tensors = {}
    for (block, target), (a, b) in pairs.items():
        stem = f"base_model.model.model.layers.{block}.{PEFT_NAME[target]}"
        tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"] = a, b
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "base_model_name_or_path": f"tiny-llama-{options.seed}",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": int(options.alpha),
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": options.rank,
        "target_modules": sorted({PEFT_NAME[target].split(".")[-1] for _, target in pairs}),
        "task_type": "CAUSAL_LM",
    }
    text = json.dumps({**config, **changes}, indent=2, sort_keys=True)
    (folder / "adapter_config.json").write_text(text + "\n")


def _random(seed: int, label: tuple[object, ...]) -> np.random.Generator:
    """A generator that depends on the seed and on a label, not on the order of calls."""
    digest = hashlib.sha256(repr((seed, label)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def _normal(seed: int, label: tuple[object, ...], rows: int, columns: int, scale: float) -> Matrix:
    return _random(seed, label).standard_normal((rows, columns), dtype=np.float32) * np.float32(scale)


def _add_vocabulary(writer: gguf.GGUFWriter, extra: int = 61) -> int:
    """A SentencePiece-like vocabulary: 3 control tokens, 256 byte tokens, a few pieces. Returns its size."""
    kinds = gguf.TokenType
    tokens = [(b"<unk>", 0.0, kinds.UNKNOWN), (b"<s>", 0.0, kinds.CONTROL), (b"</s>", 0.0, kinds.CONTROL)]
    tokens += [(b"<0x%02X>" % i, 0.0, kinds.BYTE) for i in range(256)]
    pieces = ["\u2581"] + [chr(c) for c in range(ord("a"), ord("z") + 1)] + ["\u2581the", "he", "in", "er", "th"]
    pieces += [f"\u2581w{i}" for i in range(extra - len(pieces))]
    tokens += [(piece.encode(), -float(i + 1), kinds.NORMAL) for i, piece in enumerate(pieces)]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token for token, _, _ in tokens])
    writer.add_token_scores([score for _, score, _ in tokens])
    writer.add_token_types([kind for _, _, kind in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    return len(tokens)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pad_file(path: Path, target: int, seed: int) -> None:
    """Grow a file to `target` bytes with seeded random ones; readers ignore what follows the tensor data."""
    missing = target - path.stat().st_size
    random = _random(seed, ("pad", path.name))
    with path.open("ab") as file:
        while missing > 0:
            count = min(missing, 1 << 22)
            file.write(random.bytes(count))
            missing -= count
