"""PEFT to GGUF: the same numbers, the same bytes each time, refusals by name, limits that hold (T27)."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest

from ollama_bridge.adapters import peft
from ollama_bridge.adapters.gguf import BASE_LIMITS, GgufHeader, read_gguf
from ollama_bridge.adapters.inspect import describe_adapter
from ollama_bridge.adapters.peft import ConvertLimits, convert_peft
from ollama_bridge.adapters.peft_rules import MODULES, locate, parse_config
from ollama_bridge.errors import AdapterFormatError, ConversionFailed
from tests.fixtures.gguf_bytes import UINT32, Tensor, gguf_bytes, key, text_key, u32

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PREFIX = "base_model.model.model.layers"


@pytest.fixture
def folder(fixture_files: Path, tmp_path: Path) -> Path:
    return shutil.copytree(fixture_files / "peft", tmp_path / "peft")


def set_option(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def tensors_of(path: Path) -> dict[str, NDArray[Any]]:
    return {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}


def save(folder: Path, tensors: dict[str, NDArray[Any]], **config: object) -> None:
    from safetensors.numpy import save_file

    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4} | config))


def base_header(architecture: str, tensors: list[Tensor], **changes: bytes) -> GgufHeader:
    keys = {
        "heads": key(f"{architecture}.attention.head_count", UINT32, u32(4)),
        "kv_heads": key(f"{architecture}.attention.head_count_kv", UINT32, u32(2)),
    } | changes
    general = [text_key("general.type", "model"), text_key("general.architecture", architecture)]
    return read_gguf(io.BytesIO(gguf_bytes([*general, *keys.values()], tensors)), limits=BASE_LIMITS)


def test_fixture_converts_to_exactly_the_adapter(fixture_files: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    out = convert_peft(
        fixture_files / "peft",
        fixture_files / "base.gguf",
        tmp_path / "out.gguf",
        progress=lambda *step: steps.append(step),
    )
    made, wanted = tensors_of(out), tensors_of(fixture_files / "adapter.gguf")
    assert made.keys() == wanted.keys()
    for name, values in wanted.items():
        assert np.array_equal(made[name], values), name
    with out.open("rb") as file, (fixture_files / "adapter.gguf").open("rb") as other:
        assert describe_adapter(file) == describe_adapter(other)
    assert steps == [(i, 16) for i in range(1, 17)]
    assert os.listdir(tmp_path) == ["out.gguf"]


def test_same_folder_gives_the_same_bytes(fixture_files: Path, tmp_path: Path) -> None:
    first = convert_peft(fixture_files / "peft", fixture_files / "base.gguf", tmp_path / "a.gguf")
    second = convert_peft(fixture_files / "peft", fixture_files / "base.gguf", tmp_path / "b.gguf")
    assert first.read_bytes() == second.read_bytes()


def test_half_precision_stays_and_bfloat_becomes_exact_floats(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.0, 0.25, 3.0]] * 2, np.float32)
    as_bf16 = (values.view(np.uint32) >> 16).astype("<u2")
    stem, data = f"{PREFIX}.0.self_attn.v_proj", as_bf16.tobytes() + values.T.astype("<f2").tobytes()
    header = {
        f"{stem}.lora_A.weight": {"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, 16]},
        f"{stem}.lora_B.weight": {"dtype": "F16", "shape": [4, 2], "data_offsets": [16, 32]},
    }
    text = json.dumps(header).encode()
    save(tmp_path / "peft", {})
    (tmp_path / "peft" / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    base = base_header("qwen2", [Tensor("blk.0.attn_v.weight", (4, 4))])
    made = tensors_of(convert_peft(tmp_path / "peft", base, tmp_path / "out.gguf"))
    assert made["blk.0.attn_v.weight.lora_a"].dtype == np.float32
    assert np.array_equal(made["blk.0.attn_v.weight.lora_a"], values)
    assert made["blk.0.attn_v.weight.lora_b"].dtype == np.float16
    assert np.array_equal(made["blk.0.attn_v.weight.lora_b"], values.T)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "gemma2", "gemma3"])
def test_other_families_keep_the_order_of_rows(tmp_path: Path, architecture: str) -> None:
    a, b = np.ones((2, 8), np.float32), np.arange(16, dtype=np.float32).reshape(8, 2)
    save(tmp_path / "peft", {f"{PREFIX}.0.self_attn.q_proj.lora_{s}.weight": m for s, m in (("A", a), ("B", b))})
    base = base_header(architecture, [Tensor("blk.0.attn_q.weight", (8, 8))])
    made = tensors_of(convert_peft(tmp_path / "peft", base, tmp_path / "out.gguf"))
    assert np.array_equal(made["blk.0.attn_q.weight.lora_b"], b)


def test_phi3_fused_projections(tmp_path: Path) -> None:
    a, qkv, up = np.ones((2, 8), np.float32), np.ones((16, 2), np.float32), np.ones((32, 2), np.float32)
    stems = {"self_attn.qkv_proj": qkv, "mlp.gate_up_proj": up}
    tensors = {}
    for stem, b in stems.items():
        tensors[f"{PREFIX}.0.{stem}.lora_A.weight"], tensors[f"{PREFIX}.0.{stem}.lora_B.weight"] = a, b
    save(tmp_path / "peft", tensors)
    base = base_header("phi3", [Tensor("blk.0.attn_qkv.weight", (8, 16)), Tensor("blk.0.ffn_up.weight", (8, 32))])
    made = tensors_of(convert_peft(tmp_path / "peft", base, tmp_path / "out.gguf"))
    assert {name: made[name].shape for name in made} == {
        "blk.0.attn_qkv.weight.lora_a": (2, 8),
        "blk.0.attn_qkv.weight.lora_b": (16, 2),
        "blk.0.ffn_up.weight.lora_a": (2, 8),
        "blk.0.ffn_up.weight.lora_b": (32, 2),
    }


def test_names_agree_with_llama_cpp() -> None:
    architectures = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    for architecture, modules in MODULES.items():
        table = gguf.get_tensor_name_map(architectures[architecture], 2)
        for module, target in modules.items():
            assert table.get_name(f"model.layers.1.{module}") == f"blk.1.{target}"
            assert (
                locate(f"{PREFIX}.1.{module}.lora_B.weight", architecture).gguf_name == f"blk.1.{target}.weight.lora_b"
            )


def test_language_part_of_a_gemma3_with_vision() -> None:
    for prefix in ("base_model.model.language_model.model.layers", "base_model.model.model.language_model.layers"):
        assert locate(f"{prefix}.3.mlp.up_proj.lora_A.weight", "gemma3").gguf_name == "blk.3.ffn_up.weight.lora_a"


@pytest.mark.parametrize(
    ("name", "architecture", "words"),
    [
        (f"{PREFIX}.0.self_attn.q_proj.lora_A.weight", "mamba", "'?mamba"),
        (f"{PREFIX}.0.self_attn.q_proj.lora_A.weight", "phi3", "not a LoRA factor"),
        (f"{PREFIX}.0.self_attn.qkv_proj.lora_A.weight", "llama", "not a LoRA factor"),
        (f"{PREFIX}.0.mlp.experts.3.up_proj.lora_A.weight", "llama", "not a LoRA factor"),
        (f"{PREFIX}.0.self_attn.q_proj.lora_magnitude_vector", "llama", "not a LoRA factor"),
        (f"{PREFIX}.0.self_attn.q_proj.base_layer.bias", "llama", "not a LoRA factor"),
        ("base_model.model.model.vision_tower.layers.0.mlp.fc1.lora_A.weight", "gemma3", "not a LoRA factor"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "llama", "embedding or output"),
        ("base_model.model.lm_head.lora_A.weight", "llama", "embedding or output"),
    ],
)
def test_tensors_we_do_not_do_right_are_refused_by_name(name: str, architecture: str, words: str) -> None:
    with pytest.raises(AdapterFormatError, match=words):
        locate(name, architecture)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"use_dora": True}, "DoRA"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"layer_replication": [[0, 4]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": [1]}, "alora"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"use_qalora": True}, "QA-LoRA"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"init_lora_weights": ["x"]}, "init_lora_weights"),
        ({"some_new_option": True}, "some_new_option"),
        ({"r": 0}, "rank"),
        ({"r": True}, "rank"),
        ({"r": "8"}, "rank"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"lora_alpha": 1e999}, "lora_alpha"),
        ({"r": 8}, "rank 8"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_options_we_do_not_carry_are_refused_by_name(
    folder: Path, fixture_files: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    set_option(folder, **changes)
    with pytest.raises(AdapterFormatError, match=words):
        convert_peft(folder, fixture_files / "base.gguf", tmp_path / "out.gguf")
    assert os.listdir(tmp_path) == ["peft"]


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b" " * (2 << 20)])
def test_configurations_that_are_none(data: bytes) -> None:
    with pytest.raises(AdapterFormatError):
        parse_config(data)


def test_rank_stabilised_lora_only_changes_alpha(folder: Path, fixture_files: Path, tmp_path: Path) -> None:
    set_option(folder, use_rslora=True)
    with convert_peft(folder, fixture_files / "base.gguf", tmp_path / "out.gguf").open("rb") as file:
        info = describe_adapter(file)
    assert info.alpha / info.rank == pytest.approx(8 / math.sqrt(4))


def test_t05_adapter_for_another_base_is_refused(folder: Path, tmp_path: Path) -> None:
    base = base_header("llama", [Tensor(f"blk.0.{t}.weight", (64, 64)) for t in ("attn_q", "attn_k", "attn_v")])
    with pytest.raises(AdapterFormatError, match="does not fit the base"):
        convert_peft(folder, base, tmp_path / "out.gguf")
    assert os.listdir(tmp_path) == ["peft"]


def test_head_counts_that_differ_by_block_are_refused(folder: Path, tmp_path: Path) -> None:
    counts = key("llama.attention.head_count_kv", 9, u32(UINT32) + struct.pack("<QII", 2, 2, 4))
    with pytest.raises(AdapterFormatError, match="one number of attention heads"):
        convert_peft(folder, base_header("llama", [], kv_heads=counts), tmp_path / "out.gguf")


def test_t03_pickles_are_never_opened(folder: Path, fixture_files: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "boom"),)

    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(AdapterFormatError, match="pickle"):
        convert_peft(folder, fixture_files / "base.gguf", tmp_path / "out.gguf")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_folder_that_is_no_peft_folder(folder: Path, fixture_files: Path, tmp_path: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(AdapterFormatError, match="no PEFT folder"):
        convert_peft(folder, fixture_files / "base.gguf", tmp_path / "out.gguf")


@pytest.mark.skipif(sys.platform == "win32", reason="the system limits are POSIX's")
@pytest.mark.parametrize(
    ("limits", "words"),
    [
        pytest.param(
            ConvertLimits(memory_bytes=48 << 20),
            "48 MiB",
            marks=pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no address space limit"),
        ),
        (ConvertLimits(cpu_s=0), "processor time"),
        (ConvertLimits(timeout_s=0.01), "longer than 0.01 s"),
        (ConvertLimits(output_bytes=20_000), "larger than the 20000 bytes"),
    ],
    ids=["memory", "cpu", "time", "output"],
)
def test_t27_exceeded_limits_are_clean_errors(
    fixture_files: Path, tmp_path: Path, limits: ConvertLimits, words: str
) -> None:
    with pytest.raises(ConversionFailed, match=words):
        convert_peft(fixture_files / "peft", fixture_files / "base.gguf", tmp_path / "out.gguf", limits=limits)
    assert os.listdir(tmp_path) == []


def test_t27_missing_extra_says_how_to_install_it(
    fixture_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty" / "gguf").mkdir(parents=True)
    (tmp_path / "empty" / "gguf" / "__init__.py").write_text("raise ModuleNotFoundError('no', name='gguf')\n")
    path = [str(tmp_path / "empty"), *sys.path]
    monkeypatch.setattr(peft, "_worker_environment", lambda: {**os.environ, "PYTHONPATH": os.pathsep.join(path)})
    with pytest.raises(ConversionFailed, match=r"pip install 'ollaswarm\[convert\]'"):
        convert_peft(fixture_files / "peft", fixture_files / "base.gguf", tmp_path / "out.gguf")


def test_t27_worker_is_not_given_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "secret")
    assert "secret" not in peft._worker_environment().values()


CONFINED = """
import os, socket, sys
from ollama_bridge.adapters.peft_worker import _confine
_confine({"memory_bytes": 1 << 31, "cpu_s": 10, "output_bytes": 1 << 20})
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5)
    print(os.readlink("/proc/self/ns/net"))
except OSError:
    print("unreachable")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_t27_worker_gives_up_the_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        done = subprocess.run([sys.executable, "-c", CONFINED, port], capture_output=True, text=True, check=True)
    if done.stdout.strip() == os.readlink("/proc/self/ns/net"):
        pytest.skip("this system forbids network namespaces to users")
    assert done.stdout.strip() == "unreachable"


def test_cancelling_ends_the_worker_and_leaves_nothing(fixture_files: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_peft(fixture_files / "peft", fixture_files / "base.gguf", tmp_path / "out.gguf", progress=stop)
    assert os.listdir(tmp_path) == []
