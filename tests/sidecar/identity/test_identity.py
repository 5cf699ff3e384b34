from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hyperdht.crypto import KeyPair
from sidecar.errors import ConfigError
from sidecar.identity import FILE_NAME, Identity, bip39_words, load_or_create_identity, relay_key_pair

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "keys.json").read_text())["identity"]
posix = pytest.mark.skipif(os.name != "posix", reason="file modes mean nothing here")


def test_first_start_makes_an_identity_and_the_next_finds_it(tmp_path: Path) -> None:
    first = load_or_create_identity(tmp_path)
    assert load_or_create_identity(tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@posix
def test_file_is_private(tmp_path: Path) -> None:
    load_or_create_identity(tmp_path)
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


@posix
def test_t14_readable_by_others_is_refused_and_kept(tmp_path: Path) -> None:
    load_or_create_identity(tmp_path)
    path = tmp_path / FILE_NAME
    before = path.read_bytes()
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="other users") as refused:
        load_or_create_identity(tmp_path)
    assert "chmod 600" in refused.value.next_step
    assert path.read_bytes() == before


def test_modes_are_not_looked_at_where_they_mean_nothing(tmp_path: Path) -> None:
    first = load_or_create_identity(tmp_path)
    (tmp_path / FILE_NAME).chmod(0o644)
    assert load_or_create_identity(tmp_path, check_modes=False) == first


@pytest.mark.parametrize(
    "content", [b"", b"ollaswarm identity v1\n", b"ollaswarm identity v2\n" + b"0" * 64, b"\xff" * 99]
)
def test_t14_damaged_file_is_an_error_not_a_new_identity(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="damaged"):
        load_or_create_identity(tmp_path)
    assert path.read_bytes() == content


@posix
def test_symlink_is_refused(tmp_path: Path) -> None:
    load_or_create_identity(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / FILE_NAME).symlink_to(tmp_path / FILE_NAME)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_or_create_identity(other)


def test_two_starts_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        identities = set(pool.map(lambda _: load_or_create_identity(tmp_path).fingerprint, range(16)))
    assert len(identities) == 1


def test_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert load_or_create_identity(tmp_path) == load_or_create_identity(tmp_path)


def test_relay_key_matches_the_vector() -> None:
    key_pair = relay_key_pair(KeyPair.from_seed(bytes.fromhex(VECTORS["seed"])))
    assert key_pair.public_key.hex() == VECTORS["relay_public_key"]


def test_forms_people_see_match_the_vectors() -> None:
    identity = Identity.of(KeyPair.from_seed(bytes.fromhex(VECTORS["seed"])))
    assert identity.fingerprint == VECTORS["public_key"]
    assert identity.short == VECTORS["public_key"][:12]
    assert identity.words == tuple(bip39_words()[index] for index in VECTORS["word_indexes"])


def test_repr_shows_no_secret() -> None:
    key_pair = KeyPair.from_seed(b"s" * 32)
    assert repr(Identity.of(key_pair)) == f"Identity({key_pair.public_key.hex()[:12]})"
