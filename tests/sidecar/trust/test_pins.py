from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.catalogue.journal import Journal
from sidecar.catalogue.rows import Standing
from sidecar.trust.pins import Pins, look
from sidecar.trust.warnings import warnings_about
from tests.sidecar.catalogue.made import ALICE, BOB, NOW, entry

if TYPE_CHECKING:
    from pathlib import Path

ROOM, OTHER = b"r" * 16, b"o" * 16
A, B = ALICE.public_key, BOB.public_key


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.open(tmp_path, now=lambda: NOW)


def test_t14_first_use_pins_and_survives_a_restart(journal: Journal) -> None:
    pins = Pins(journal)
    pins.pin([ROOM], "SQL-lora", A, 1.0)
    pins.pin([ROOM], "sql-lora", B, 2.0)
    again = Pins(journal)
    assert again.holder([OTHER, ROOM], "sql-LORA") == A
    assert again.holder([OTHER], "sql-lora") is None


def test_t14_another_key_under_a_known_name_is_an_alarm_until_it_is_trusted(journal: Journal) -> None:
    pins = Pins(journal)
    pins.pin([ROOM], "sql-lora", A, 1.0)
    posing = entry(key_pair=BOB)
    (text,) = warnings_about(posing, [ROOM], pins, Standing.UNKNOWN, own=False)
    assert A.hex()[:12] in text
    assert B.hex()[:12] in text
    assert warnings_about(posing, [ROOM], pins, Standing.TRUSTED, own=False) == ()
    assert warnings_about(posing, [ROOM], pins, Standing.UNKNOWN, own=True) == ()
    assert warnings_about(posing, [OTHER], pins, Standing.UNKNOWN, own=False) == ()
    assert warnings_about(entry(), [ROOM], pins, Standing.UNKNOWN, own=False) == ()


@pytest.mark.parametrize("name", ["sq1-lora", "sql_lora", "sqllora", "SQI-l0ra", "5ql.lora"])
def test_t10_name_that_looks_like_a_known_one_is_a_warning(journal: Journal, name: str) -> None:
    pins = Pins(journal)
    pins.pin([ROOM], "sql-lora", A, 1.0)
    (text,) = warnings_about(entry(name, key_pair=BOB), [ROOM], pins, Standing.UNKNOWN, own=False)
    assert "looks like sql-lora" in text
    assert warnings_about(entry(name), [ROOM], pins, Standing.UNKNOWN, own=False) == (), "the same publisher may"


def test_t10_names_that_only_share_letters_are_not_warned_of(journal: Journal) -> None:
    pins = Pins(journal)
    pins.pin([ROOM], "sql-lora-2", A, 1.0)
    for name in ("sql-lora", "sql-lora-3", "python-lora"):
        assert warnings_about(entry(name, key_pair=BOB), [ROOM], pins, Standing.UNKNOWN, own=False) == ()


def test_letters_that_look_alike_are_one() -> None:
    assert look("rnodern") == look("modem")
    assert look("a-b_c.d") == look("abcd")
