"""The texts of a model: what they may be, and that what is shown is what is there (T4, T9)."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.catalogue.entry_blobs import (
    LICENSE_MEDIA_TYPE,
    PARAMS_MEDIA_TYPE,
    SYSTEM_MEDIA_TYPE,
    TEMPLATE_MEDIA_TYPE,
)
from sidecar.errors import ModelRefused
from sidecar.models.texts import MAX_ITEMS, MAX_PARAMETERS, MAX_VALUE_CHARS, ModelTexts, read_texts
from sidecar.models.words import SHOWN_LICENSE_CHARS, model_settings

SETTINGS = (TEMPLATE_MEDIA_TYPE, SYSTEM_MEDIA_TYPE)


def test_all_texts_are_read() -> None:
    texts = read_texts(
        [
            (TEMPLATE_MEDIA_TYPE, b"{{ .System }}\r\n{{ .Prompt }}"),
            (SYSTEM_MEDIA_TYPE, "Sois bref. \u2581".encode()),
            (
                PARAMS_MEDIA_TYPE,
                b'{"stop":["</s>","\\n\\n"],"temperature":0.5,"num_ctx":4096,"penalize_newline":true}\n',
            ),
            (LICENSE_MEDIA_TYPE, b"\n  TINY LICENSE\x1b[2J  \nDo as you like."),
            (LICENSE_MEDIA_TYPE, b"\xff\xfe second"),
        ]
    )
    assert texts.template == "{{ .System }}\n{{ .Prompt }}"
    assert texts.license_title == "TINY LICENSE[2J"
    assert len(texts.licenses) == 2
    assert dict(texts.settings) == {
        "template": "{{ .System }}\n{{ .Prompt }}",
        "system": "Sois bref. \u2581",
        "parameters.stop": '["</s>", "\\n\\n"]',
        "parameters.temperature": "0.5",
        "parameters.num_ctx": "4096",
        "parameters.penalize_newline": "true",
    }


def test_nothing_but_licences_is_nothing_to_agree_to() -> None:
    assert read_texts([(LICENSE_MEDIA_TYPE, b"MIT")]).settings == ()
    assert read_texts([]) == ModelTexts()


@pytest.mark.parametrize("media_type", SETTINGS)
@pytest.mark.parametrize("data", [b"\xff", b"a\x00b", "a\u202eb".encode(), "\ufeffa".encode(), "\U000e0041".encode()])
def test_t04_t09_a_text_that_is_not_what_is_seen_is_refused(media_type: str, data: bytes) -> None:
    with pytest.raises(ModelRefused):
        read_texts([(media_type, data)])


@pytest.mark.parametrize(
    "value",
    [
        "",
        "null",
        "[]",
        '{"stop":',
        '{"stop":"a","stop":"b"}',
        '{"stop":"a","Stop":"b"}',
        '{"Stop":"a"}',
        '{"../x":1}',
        '{"stop":null}',
        '{"stop":{}}',
        '{"stop":[1]}',
        '{"stop":[["a"]]}',
        '{"stop":"a\\u202eb"}',
        '{"stop":["\\ud800"]}',
        '{"seed":NaN}',
        '{"seed":Infinity}',
        '{"seed":9007199254740993}',
        "[" * 100_000,
        json.dumps({"stop": ["a"] * (MAX_ITEMS + 1)}),
        json.dumps({"stop": "a" * (MAX_VALUE_CHARS + 1)}),
        json.dumps({f"p_{'x' * n}": 1 for n in range(MAX_PARAMETERS + 1)}),
    ],
)
def test_t04_parameters_are_one_plain_object(value: str) -> None:
    with pytest.raises(ModelRefused):
        read_texts([(PARAMS_MEDIA_TYPE, value.encode())])


@given(st.binary(max_size=300))
def test_t04_any_bytes_are_read_or_refused(data: bytes) -> None:
    for media_type in (*SETTINGS, PARAMS_MEDIA_TYPE, LICENSE_MEDIA_TYPE):
        with suppress(ModelRefused):
            read_texts([(media_type, data)])


def test_a_long_licence_is_shown_by_its_beginning() -> None:
    (short,) = model_settings(ModelTexts(licenses=("MIT",)), "id")
    assert (short.field, short.suggested, short.required, short.entry) == ("license", "MIT", False, "id")
    (long,) = model_settings(ModelTexts(licenses=("x" * (SHOWN_LICENSE_CHARS + 7),)), "id")
    assert "7 more characters" in long.suggested
