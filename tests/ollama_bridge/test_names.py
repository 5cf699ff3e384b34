"""Names: Ollama's rules, and no name that leads out of the store."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_bridge.errors import NameInvalid
from ollama_bridge.names import ModelName

PIECES = [*"aZ09_-.:/\\ ~%$\0\n\u202e\u2025\uff0e\u0301\u00e9", "..", "CON", "NUL", "://", "C:", "host/ns/", "@sha256:"]
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("llama3.2", ("registry.ollama.ai", "library", "llama3.2", "latest")),
        ("llama3.2:1b", ("registry.ollama.ai", "library", "llama3.2", "1b")),
        ("me/sql:v1", ("registry.ollama.ai", "me", "sql", "v1")),
        ("127.0.0.1:5000/p2p/x:t", ("127.0.0.1:5000", "p2p", "x", "t")),
        ("localhost:5000/p2p/x", ("localhost:5000", "p2p", "x", "latest")),
        ("http://host/ns/m:t", ("host", "ns", "m", "t")),
        ("hf.co/Org/Model-GGUF:Q4_K_M", ("hf.co", "Org", "Model-GGUF", "Q4_K_M")),
        ("_x:_y", ("registry.ollama.ai", "library", "_x", "_y")),
    ],
)
def test_parse(text: str, parts: tuple[str, ...]) -> None:
    name = ModelName.parse(text)
    assert name.path_parts == parts
    assert ModelName.parse(name.display) == name
    assert ModelName.from_path_parts(parts) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "/",
        "a/",
        "/a",
        "a:",
        ":a",
        "a b",
        ".a",
        "-a",
        "a:.b",
        "n.s/m",
        "127.0.0.1:5000/m",
        "a/b/c/d",
        "x@sha256:" + "0" * 64,
        "m\u00e9",
        "a\n",
        "m" * 81,
        "m:" + "t" * 81,
        "x" * 700,
    ],
)
def test_t07_names_ollama_refuses_are_refused(text: str) -> None:
    with pytest.raises(NameInvalid):
        ModelName.parse(text)
    assert not ModelName.is_valid(text)


def test_display_drops_only_the_defaults() -> None:
    assert ModelName.parse("registry.ollama.ai/library/m").display == "m:latest"
    assert ModelName.parse("registry.ollama.ai/me/m:1").display == "me/m:1"
    assert ModelName.parse("other/library/m:1").display == "other/library/m:1"


def test_case_is_kept_but_ollama_ignores_it() -> None:
    upper, lower = ModelName.parse("Me/Model:Tag"), ModelName.parse("me/model:tag")
    assert upper != lower
    assert upper.folded == lower.folded


@pytest.mark.parametrize(("tag", "reserved"), [("cloud", True), ("7b-CLOUD", True), ("local", True), ("v1", False)])
def test_source_markers_are_known(tag: str, reserved: bool) -> None:
    assert ModelName.parse(f"m:{tag}").has_reserved_tag is reserved


@given(HOSTILE)
def test_t07_no_name_leads_out_of_the_store(text: str) -> None:
    try:
        name = ModelName.parse(text)
    except NameInvalid:
        return
    root = Path("/store/manifests")
    path = root.joinpath(*name.path_parts)
    assert path.is_relative_to(root)
    assert len(PurePosixPath(*name.path_parts).parts) == 4
    for part in name.path_parts:
        assert part not in {".", ".."}
        assert part.isascii()
        assert part.isprintable()
        assert not set(part) & set("/\\ ~%$")
    # Only a host may hold a colon, which on Windows makes no valid folder but never another drive.
    assert PureWindowsPath("s:/m", *name.path_parts[1:]).is_relative_to("s:/m")
    assert ModelName.parse(name.display) == name
