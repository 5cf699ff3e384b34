from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht.crypto import KeyPair
from sidecar.catalogue.entry import (
    MAX_BLOB_BYTES,
    MAX_CARD_CHARS,
    MAX_DESCRIPTION_CHARS,
    AdapterFacts,
    Suggestions,
    build_entry,
    parse_entry,
    sign_entry,
    suggest_name,
)
from sidecar.catalogue.entry_blobs import LICENSE_MEDIA_TYPE, MAX_LICENSES, MAX_TEXT_BLOB_BYTES
from sidecar.catalogue.fields import unix_seconds
from sidecar.catalogue.limits import CLOCK_SKEW_S, MAX_RAW_BYTES
from sidecar.catalogue.text import clean_line, clean_text
from sidecar.catalogue.withdrawal import build_withdrawal, parse_withdrawal, sign_withdrawal
from sidecar.errors import EntryInvalid, EntryKindUnknown
from tests.sidecar.catalogue.made import ENTRY, MODEL, blob, entry

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "entry.json").read_text("utf-8"))
KEY_PAIR = KeyPair.from_seed(bytes.fromhex(VECTORS["seed"]))
RAW = VECTORS["entry"]["raw"].encode()
VALUE: dict[str, Any] = json.loads(RAW)
MODEL_RAW = VECTORS["model"]["raw"].encode()
MODEL_VALUE: dict[str, Any] = json.loads(MODEL_RAW)
MISSING = object()


def changed(path: str, value: object) -> bytes:
    """The vector's entry with one field set, or removed."""
    return _changed(RAW, path, value)


def changed_model(path: str, value: object) -> bytes:
    """The same of the vector's model."""
    return _changed(MODEL_RAW, path, value)


def _changed(raw: bytes, path: str, value: object) -> bytes:
    document = json.loads(raw)
    *parents, last = path.split(".")
    target = document
    for part in parents:
        target = target[int(part)] if part.isdigit() else target[part]
    if value is MISSING:
        del target[last]
    else:
        target[last] = value
    return json.dumps(document).encode()


def test_published_entry_parses_signs_and_renders_alike() -> None:
    signed = sign_entry(RAW, KEY_PAIR)
    vector = VECTORS["entry"]
    assert signed.signature.hex() == vector["signature"]
    assert signed.publisher.hex() == vector["publisher"]
    assert signed.id.hex() == vector["id"]
    assert signed.raw_digest == vector["raw_digest"]
    assert build_entry(signed.entry) == RAW
    assert signed.ref == vector["publisher"][:12] + "/sql-lora"


def test_published_model_parses_signs_and_renders_alike() -> None:
    signed = sign_entry(MODEL_RAW, KEY_PAIR)
    vector = VECTORS["model"]
    assert signed.signature.hex() == vector["signature"]
    assert signed.id.hex() == vector["id"]
    assert build_entry(signed.entry) == MODEL_RAW
    found = signed.entry
    assert found.is_model
    assert found.adapter is None
    assert found.blob.size == 1_321_082_688
    assert (found.base.name, found.base.digest) == ("llama3.2:1b", found.blob.digest)
    assert found.size == sum(each["size"] for each in MODEL_VALUE["blobs"])


def test_a_model_is_built_and_parsed_with_its_blobs_in_order() -> None:
    weights, *texts = MODEL.blobs
    turned = replace(MODEL, blobs=(*texts, weights))
    assert parse_entry(build_entry(turned)) == turned
    assert turned.blob == weights


def test_published_withdrawal_parses_signs_and_renders_alike() -> None:
    vector = VECTORS["withdrawal"]
    signed = sign_withdrawal(build_withdrawal("sql-lora", 8, "2026-11-24T12:00:00Z"), KEY_PAIR)
    assert signed.raw == vector["raw"].encode()
    assert signed.signature.hex() == vector["signature"]
    assert signed.id.hex() == vector["id"]
    assert (signed.name, signed.version) == ("sql-lora", 8)


def test_build_and_parse_are_inverse() -> None:
    full = replace(
        ENTRY,
        expires="2027-01-01T00:00:00Z",
        previous="sha256:" + "aa" * 32,
        card="# Title\n\n\tcode",
        suggest=Suggestions("{{ .Prompt }}", "Be brief.\n", {"temperature": 0.5, "stop": ("a", "b"), "mirostat": 1}),
    )
    assert parse_entry(build_entry(full)) == full


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("v", 2),
        ("v", True),
        ("v", "1"),
        ("extra", 1),
        ("base.extra", 1),
        ("adapter.extra", 1),
        ("blobs.0.extra", 1),
        ("suggest.extra", 1),
        ("name", MISSING),
        ("expires", MISSING),
        ("suggest", MISSING),
        ("name", ""),
        ("name", "../up"),
        ("name", "a/b"),
        ("name", "a:b"),
        ("name", ".hidden"),
        ("name", "a" * 81),
        ("name", "\u00e9tude"),
        ("name", "a\u202eb"),
        ("name", "a\n"),
        ("name", 7),
        ("version", 0),
        ("version", 2**53),
        ("version", 1.0),
        ("version", True),
        ("version", "7"),
        ("created", "2026-11-23"),
        ("created", "2026-13-23T12:00:00Z"),
        ("created", "2026-11-23T12:00:00+00:00"),
        ("created", "\u0662026-11-23T12:00:00Z"),
        ("created", None),
        ("expires", "2026-11-23T12:00:00Z"),
        ("previous", "11" * 32),
        ("previous", "sha256:" + "AA" * 32),
        ("description", "x" * (MAX_DESCRIPTION_CHARS + 1)),
        ("description", None),
        ("description", "\ud800"),
        ("license", "x" * 129),
        ("card", "x" * (MAX_CARD_CHARS + 1)),
        ("tags", ["a"] * 2),
        ("tags", [f"t{n}" for n in range(17)]),
        ("tags", ["Upper"]),
        ("tags", [1]),
        ("tags", "sql"),
        ("kind", "model"),
        ("base", []),
        ("base.name", "a/b/c/d e"),
        ("base.name", ""),
        ("base.digest", "sha256:../../../../etc/passwd"),
        ("base.architecture", "Llama!"),
        ("adapter.format", "safetensors"),
        ("adapter.rank", 0),
        ("adapter.rank", 65_537),
        ("adapter.rank", 8.0),
        ("adapter.alpha", "16"),
        ("adapter.alpha", -1),
        ("adapter.alpha", True),
        ("adapter.tensors", 0),
        ("adapter.tensors", 2**40),
        ("adapter.shapes", "33"),
        ("blobs", []),
        ("blobs", [VALUE["blobs"][0]] * 2),
        ("blobs", [1]),
        ("blobs.0.size", 0),
        ("blobs.0.size", -1),
        ("blobs.0.size", MAX_BLOB_BYTES + 1),
        ("blobs.0.size", 1e6),
        ("blobs.0.digest", "44" * 32),
        ("blobs.0.media_type", "application/vnd.ollama.image.model"),
        ("blobs.0.chunks", "sha256:" + "55" * 32),
        ("suggest.template", "x" * 16_385),
        ("suggest.system", 1),
        ("suggest.parameters", []),
        ("suggest.parameters", {"Bad Key": 1}),
        ("suggest.parameters", {f"k{'_' * n}": 1 for n in range(33)}),
        ("suggest.parameters", {"stop": ["a"] * 17}),
        ("suggest.parameters", {"stop": [1]}),
        ("suggest.parameters", {"stop": {"a": 1}}),
        ("suggest.parameters", {"stop": None}),
        ("suggest.parameters", {"seed": 2**53}),
        ("suggest.parameters", {"stop": "x" * 257}),
    ],
)
def test_t06_t16_each_field_is_exact_and_bounded(path: str, value: object) -> None:
    with pytest.raises(EntryInvalid) as refused:
        parse_entry(changed(path, value))
    assert refused.value.cause


ADAPTER_BLOB = VALUE["blobs"][0]
LICENSE_BLOB = {"size": 10, "media_type": LICENSE_MEDIA_TYPE, "chunks": "55" * 32}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("base", VALUE["base"]),
        ("adapter", VALUE["adapter"]),
        ("suggest", VALUE["suggest"]),
        ("config", {}),
        ("model", MISSING),
        ("model.extra", 1),
        ("model.digest", "sha256:" + "22" * 32),
        ("model.remote_host", "https://example.com"),
        ("model.name", "a/b/c/d e"),
        ("model.format", "safetensors"),
        ("model.architecture", "../llama"),
        ("model.parameters", 0),
        ("model.parameters", 1.5),
        ("model.quantization", "Q4\u202eK"),
        ("model.tensors", 0),
        ("model.shapes", "33"),
        ("blobs", []),
        ("blobs", MODEL_VALUE["blobs"][1:]),
        ("blobs", [ADAPTER_BLOB]),
        ("blobs", [*MODEL_VALUE["blobs"], ADAPTER_BLOB]),
        ("blobs", [*MODEL_VALUE["blobs"], MODEL_VALUE["blobs"][0] | {"digest": "sha256:" + "aa" * 32}]),
        ("blobs", [*MODEL_VALUE["blobs"], MODEL_VALUE["blobs"][1] | {"digest": "sha256:" + "aa" * 32}]),
        ("blobs", [*MODEL_VALUE["blobs"], MODEL_VALUE["blobs"][3]]),
        (
            "blobs",
            [
                MODEL_VALUE["blobs"][0],
                *(LICENSE_BLOB | {"digest": f"sha256:{n:064x}"} for n in range(MAX_LICENSES + 1)),
            ],
        ),
        ("blobs.1.size", MAX_TEXT_BLOB_BYTES + 1),
        ("blobs.1.size", 0),
        ("blobs.0.size", MAX_BLOB_BYTES + 1),
    ],
)
def test_t06_t16_a_model_is_exact_and_bounded_too(path: str, value: object) -> None:
    with pytest.raises(EntryInvalid):
        parse_entry(changed_model(path, value))


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.ollama.image.projector",
        "application/vnd.ollama.image.draft",
        "application/vnd.ollama.image.messages",
        "application/vnd.ollama.image.tensor",
        "application/vnd.ollama.image.json",
        "application/vnd.ollama.image.prompt",
    ],
)
def test_t04_no_other_part_of_a_model_can_even_be_offered(media_type: str) -> None:
    with pytest.raises(EntryInvalid, match="media_type"):
        parse_entry(changed_model("blobs.1.media_type", media_type))


def test_a_kind_of_a_later_version_is_told_from_a_malformed_entry() -> None:
    with pytest.raises(EntryKindUnknown):
        parse_entry(json.dumps(VALUE | {"kind": "dataset", "rows": 7}).encode())
    with pytest.raises(EntryInvalid) as refused:
        parse_entry(json.dumps(VALUE | {"kind": "no such kind"}).encode())
    assert not isinstance(refused.value, EntryKindUnknown)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b"{" * 30_000,
        b"[" * 60_000,
        b"\xff" + RAW,
        b"\xef\xbb\xbf" + RAW,
        RAW[:-1],
        RAW + b"{}",
        RAW.replace(b'"version":7', b'"version":7,"version":8'),
        RAW.replace(b'"rank":8', b'"rank":8,"rank":9'),
        RAW.replace(b"16.0", b"NaN"),
        RAW.replace(b"16.0", b"Infinity"),
        RAW.replace(b"16.0", b"1e999"),
        RAW.replace(b'"version":7', b'"version":' + b"9" * 10_000),
        RAW + b" " * MAX_RAW_BYTES,
    ],
)
def test_t16_only_one_reading_of_the_bytes_is_possible(raw: bytes) -> None:
    with pytest.raises(EntryInvalid):
        parse_entry(raw)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_entry_or_raise_entry_invalid(raw: bytes) -> None:
    for parse in (parse_entry, parse_withdrawal):
        with pytest.raises(EntryInvalid):
            parse(raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(VALUE)), json_values)
def test_any_json_in_any_field_parses_or_raises_entry_invalid(key: str, value: object) -> None:
    try:
        raw = json.dumps({**VALUE, key: value}).encode()
        parsed = parse_entry(raw)
    except EntryInvalid:
        return
    build_entry(parsed)


def test_t09_control_and_bidi_characters_do_not_survive_parsing() -> None:
    nasty = "a\x1b[31mred\x07 \u202egnp.exe\u2066x\u200b\ufeff\U000e0041\x9b1m"
    parsed = parse_entry(
        changed("description", nasty + "\nsecond\tline ").replace(
            b'"license": "apache-2.0"', json.dumps({"license": nasty})[1:-1].encode()
        )
    )
    assert parsed.description == "a[31mred gnp.exex1m second line"
    assert parsed.license == "a[31mred gnp.exex1m"
    card = parse_entry(changed("card", "# T\r\n\x1b]0;title\x07\n\tx")).card
    assert card == "# T\n]0;title\n\tx"
    suggested = parse_entry(changed("suggest.system", "be\u202e kind\n")).suggest
    assert suggested.system == "be kind\n"
    stop = parse_entry(changed("suggest.parameters", {"stop": ["\x1bq"]})).suggest.parameters
    assert stop["stop"] == ("q",)


@given(st.text())
def test_t09_cleaned_text_is_printable_and_stays_clean(text: str) -> None:
    line = clean_line(text)
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0x202A <= ord(c) <= 0x202E for c in line)
    assert clean_line(line) == line
    assert clean_text(clean_text(text)) == clean_text(text)


def test_card_may_be_left_out_and_nothing_else() -> None:
    assert parse_entry(changed("card", MISSING)).card == ""
    for key in VALUE.keys() - {"card"}:
        with pytest.raises(EntryInvalid, match="missing"):
            parse_entry(changed(key, MISSING))


def test_expiry_has_two_hours_of_tolerance() -> None:
    limited = entry(expires="2026-12-01T00:00:00Z").entry
    end = unix_seconds("2026-12-01T00:00:00Z")
    assert not limited.is_expired(end + CLOCK_SKEW_S)
    assert limited.is_expired(end + CLOCK_SKEW_S + 1)
    assert not entry().entry.is_expired(end * 100)


def test_we_do_not_sign_what_peers_would_refuse() -> None:
    for bad in (
        replace(ENTRY, name="a b"),
        replace(ENTRY, blobs=()),
        replace(ENTRY, blobs=(blob("1"), blob("2"))),
        replace(ENTRY, description="\ud800"),
        replace(ENTRY, adapter=AdapterFacts("gguf", 8, float("nan"), 64, "33" * 32)),
    ):
        with pytest.raises(EntryInvalid):
            build_entry(bad)
    with pytest.raises(EntryInvalid):
        sign_entry(b"{}", KEY_PAIR)
    with pytest.raises(EntryInvalid):
        build_withdrawal("a/b", 1, ENTRY.created)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sql-lora:latest", "sql-lora"),
        ("me/sql:v2", "me-sql-v2"),
        ("/home/me/My Adapter.gguf", "home-me-My-Adapter.gguf"),
        ("\u2603", "adapter"),
        ("x" * 200, "x" * 80),
    ],
)
def test_suggested_names_are_valid(text: str, name: str) -> None:
    assert suggest_name(text) == name
    assert parse_entry(changed("name", suggest_name(text))).name == name
