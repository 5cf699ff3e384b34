from __future__ import annotations

import math
import secrets
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import RoomError
from sidecar.identity import bip39_words
from sidecar.rooms.code import generate_code, normalise_code, room_link, room_qr

CODE = "legal-winner-thank-year-wave-sausage-worth-useful"


def test_t11_a_code_holds_88_bits_from_the_system_source() -> None:
    assert len(set(bip39_words())) == 2048
    assert 8 * math.log2(len(bip39_words())) == 88


def test_t11_every_word_is_drawn_evenly() -> None:
    draws = Counter(word for _ in range(4_000) for word in generate_code().split("-"))
    assert len(draws) == 2048
    assert max(draws.values()) < 50  # 15.6 expected; 50 is nine standard deviations off


def test_t11_codes_come_from_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    words = iter(CODE.split("-"))
    monkeypatch.setattr(secrets, "choice", lambda _: next(words))
    assert generate_code() == CODE


def test_generated_codes_are_accepted() -> None:
    for _ in range(200):
        code = generate_code()
        assert normalise_code(code) == code


@pytest.mark.parametrize(
    "text",
    [
        CODE.upper(),
        CODE.replace("-", " "),
        CODE.replace("-", "  -  "),
        CODE.replace("-", "_"),
        CODE.replace("-", ", "),
        CODE.replace("-", "\N{EN DASH}"),
        f"\n {CODE}\t\n",
        room_link(CODE),
        room_link(CODE).upper(),
        room_link(CODE) + "/",
    ],
)
def test_input_is_forgiven(text: str) -> None:
    assert normalise_code(text) == CODE


@given(st.lists(st.sampled_from([" ", "-", "_", ",", "\n", " - "]), min_size=7, max_size=7), st.data())
def test_any_separators_and_case_normalise_to_one_code(separators: list[str], data: st.DataObject) -> None:
    words = CODE.split("-")
    cased = [data.draw(st.sampled_from([word, word.upper(), word.title()])) for word in words]
    text = cased[0] + "".join(separator + word for separator, word in zip(separators, cased[1:], strict=True))
    assert normalise_code(text) == CODE


def test_mistyped_word_is_named_with_its_neighbours_and_the_rest_is_not_repeated() -> None:
    with pytest.raises(RoomError) as refused:
        normalise_code(CODE.replace("sausage", "sausgae"))
    assert "Word 6" in refused.value.cause
    assert "sausage" in refused.value.cause
    assert "winner" not in refused.value.cause


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has 8 words, this has 0"),
        ("-".join(CODE.split("-")[:7]), "has 8 words, this has 7"),
        (CODE + "-zoo", "has 8 words, this has 9"),
        ("zoo-" * 8, "repeats words"),
        ("zoo-zero-" * 4, "repeats words"),
        ("abandon ability able about above absent absorb abstract", "follow each other"),
        ("abstract absorb absent above about able ability abandon", "follow each other"),
        ("our house our house our house our house", "not a code word|repeats words"),
        ("our team room 2026 is very secret indeed", "is not a code word"),
        ("abandon " * 200, "this text has"),
    ],
)
def test_t11_short_and_invented_codes_are_refused(text: str, reason: str) -> None:
    with pytest.raises(RoomError, match=reason):
        normalise_code(text)


@given(st.text(max_size=600))
def test_any_text_is_a_code_or_a_room_error(text: str) -> None:
    try:
        code = normalise_code(text)
    except RoomError:
        return
    assert len(code.split("-")) == 8


def test_qr_is_printable_text() -> None:
    drawn = room_qr(CODE)
    assert len(drawn.splitlines()) > 10
    assert "legal" not in drawn
