"""What a PEFT folder must say for us to convert it, and where its tensors go. Pure: JSON and names in, decisions out.

A LoRA that was trained with an option we do not carry over would load and answer subtly wrong, so every option is either
known to change nothing, handled, or refused by its name. Tensor names follow llama.cpp's `tensor_mapping.py` (a test
compares them with gguf-py's table).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Final

from ollama_bridge.errors import AdapterFormatError

MAX_CONFIG_BYTES: Final = 1 << 20  # real ones have about 1 KiB
MAX_RANK: Final = 4_096

_SPLIT = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_FUSED = {  # Phi-3 trains q, k, v as one matrix and gate, up as one; its GGUF keeps both so
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
MODULES: Final = {  # by `general.architecture` of the base; Mistral's is llama
    "llama": _SPLIT,
    "qwen2": _SPLIT,
    "qwen3": _SPLIT,
    "gemma2": _SPLIT,
    "gemma3": _SPLIT,
    "phi3": _FUSED,
}
ROPE_PERMUTED: Final = {"llama"}  # the only one of them whose GGUF interleaves the rotary halves of q and k

_TENSOR = re.compile(
    r"base_model\.model\.(?:model\.language_model|language_model\.model|model)\.layers\.(\d{1,4})\."
    r"((?:self_attn|mlp)\.[a-z_]{1,32})\.lora_([AB])\.weight"
)

_REFUSED_WHEN_SET = {
    "use_dora": "DoRA (use_dora)",
    "use_qalora": "QA-LoRA (use_qalora)",
    "rank_pattern": "different ranks per module (rank_pattern)",
    "alpha_pattern": "different alphas per module (alpha_pattern)",
    "modules_to_save": "fully trained modules (modules_to_save)",
    "fan_in_fan_out": "transposed weights (fan_in_fan_out)",
    "lora_bias": "trained biases (lora_bias)",
    "layer_replication": "repeated layers (layer_replication)",
    "trainable_token_indices": "trained tokens (trainable_token_indices)",
    "alora_invocation_tokens": "activation by tokens (alora_invocation_tokens)",
    "target_parameters": "expert parameters (target_parameters)",
}
_CHANGES_NOTHING = {
    "alpha", "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout",
    "megatron_config", "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config",
    "target_modules", "task_type",
}  # fmt: skip
_HANDLED = {"bias", "init_lora_weights", "lora_alpha", "peft_type", "r", "use_rslora"}
_HARMLESS_INITS = {True, False, None, "gaussian", "eva", "orthogonal", "kaiming"}  # others change the base's weights


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The part of `adapter_config.json` a converted adapter needs."""

    rank: int
    alpha: float
    """As GGUF means it: engines scale by alpha / rank."""


def parse_config(data: bytes) -> PeftConfig:
    """Read `adapter_config.json`.

    Raises:
        AdapterFormatError: Not a PEFT LoRA configuration, or an option that cannot be carried over, by its name.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise AdapterFormatError(f"adapter_config.json has more than {MAX_CONFIG_BYTES} bytes.")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AdapterFormatError(f"adapter_config.json is not valid JSON ({error}).") from None
    if not isinstance(config, dict):
        raise AdapterFormatError("adapter_config.json is not a JSON object.")
    _refuse_options(config)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise AdapterFormatError("adapter_config.json has no usable rank (r).")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha) or alpha == 0:
        raise AdapterFormatError("adapter_config.json has no usable lora_alpha.")
    # Rank-stabilised LoRA scales by alpha / sqrt(r) instead of alpha / r; only the alpha we write differs.
    return PeftConfig(rank, float(alpha) * (math.sqrt(rank) if config.get("use_rslora") else 1.0))


def _refuse_options(config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise AdapterFormatError(
            f"The adapter is of PEFT type {str(config.get('peft_type'))[:40]!r}; only LORA is taken."
        )
    for key, words in _REFUSED_WHEN_SET.items():
        if config.get(key):
            raise AdapterFormatError(f"The adapter uses {words}, which an adapter GGUF cannot carry. Merge it instead.")
    if config.get("bias", "none") != "none":
        raise AdapterFormatError("The adapter uses trained biases (bias), which an adapter GGUF cannot carry.")
    start = config.get("init_lora_weights")
    if isinstance(start, list | dict) or start not in _HARMLESS_INITS:
        raise AdapterFormatError(
            f"The adapter was started with init_lora_weights {str(start)[:40]!r}, which changes the base's own weights. "
            "Convert it to plain LoRA with PEFT first."
        )
    known = _CHANGES_NOTHING | _HANDLED | set(_REFUSED_WHEN_SET)
    for key in sorted(set(config) - known):
        if config[key]:
            raise AdapterFormatError(f"adapter_config.json sets {key[:60]!r}, an option this version does not know.")


@dataclass(frozen=True, slots=True, order=True)
class LoraFactor:
    """Which factor of which base tensor a PEFT tensor is."""

    block: int
    target: str
    """GGUF name of the projection, for example `attn_q`."""
    side: str
    """`a` or `b`."""

    @property
    def gguf_name(self) -> str:
        """Name in the adapter GGUF."""
        return f"blk.{self.block}.{self.target}.weight.lora_{self.side}"


def locate(name: str, architecture: str) -> LoraFactor:
    """Where a PEFT tensor goes in the adapter of a base of that architecture.

    Raises:
        AdapterFormatError: No LoRA factor of a projection we know there.
    """
    modules = MODULES.get(architecture)
    if modules is None:
        raise AdapterFormatError(
            f"PEFT adapters for the architecture {architecture[:40]!r} are not converted here (only "
            f"{', '.join(MODULES)}). Convert it with llama.cpp's convert_lora_to_gguf.py and share the GGUF."
        )
    if "lora_embedding_" in name or "embed_tokens" in name or "lm_head" in name:
        raise AdapterFormatError(
            f"The adapter changes the embedding or output ({name[:80]!r}), which is not converted."
        )
    match = _TENSOR.fullmatch(name)
    target = modules.get(match.group(2)) if match else None
    if match is None or target is None:
        raise AdapterFormatError(f"The tensor {name[:120]!r} is not a LoRA factor of a {architecture} projection.")
    return LoraFactor(int(match.group(1)), target, match.group(3).lower())
