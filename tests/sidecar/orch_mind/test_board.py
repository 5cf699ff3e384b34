"""The list of what strangers share, the refs into it, and PEFT folders both ways."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from ollama_bridge.errors import AdapterFormatError
from sidecar.errors import CatalogueError, NotFound
from sidecar.orch_mind.board import Board
from sidecar.orch_mind.folders import ASSUMED_ALPHA, is_peft_folder, read_folder, write_config
from sidecar.orch_mind.messages import AdapterFacts, AdapterOffer
from tests.journeys.conftest import files as files

if TYPE_CHECKING:
    from pathlib import Path

ONE, OTHER = "a1" * 32, "b2" * 32
TOPICS = ["01" * 32, "02" * 32, "03" * 32]


def offer(name: str, checksum: str = ONE, size: int = 100, topic: str = TOPICS[0]) -> AdapterOffer:
    return AdapterOffer(name, size, checksum, topic)


def test_one_file_of_several_peers_is_one_adapter() -> None:
    board = Board({b"x": [offer("lora")], b"y": [offer("called otherwise", topic=TOPICS[1])]})
    (adapter,) = board.adapters
    assert (adapter.name, adapter.sources) == ("lora", ((b"x", TOPICS[0]), (b"y", TOPICS[1])))
    assert board.ref(adapter) == "orch-mind/lora"
    assert board.resolve(" Orch-Mind/LORA ") == adapter


def test_t06_who_lies_about_the_size_is_no_source_of_the_file() -> None:
    board = Board({b"x": [offer("lora")], b"y": [offer("lora", size=1 << 31)]})
    assert [len(adapter.sources) for adapter in board.adapters] == [1, 1]


def test_t10_a_name_that_two_files_have_picks_neither() -> None:
    board = Board({b"x": [offer("lora"), offer("lora", OTHER, topic=TOPICS[1])], b"y": [offer("third", "c3" * 32)]})
    with pytest.raises(CatalogueError, match="2 files"):
        board.resolve("orch-mind/lora")
    assert {board.ref(adapter) for adapter in board.adapters} == {
        "orch-mind/third",
        "orch-mind/a1a1a1a1a1a1",
        "orch-mind/b2b2b2b2b2b2",
    }
    assert {board.resolve(board.ref(adapter)) for adapter in board.adapters} == set(board.adapters)


def test_t10_a_name_cannot_stand_for_the_checksum_of_another_file() -> None:
    board = Board({b"x": [offer("lora", OTHER)], b"y": [offer("b2b2b2b2b2b2", ONE)]})
    named = board.resolve("orch-mind/b2b2b2b2b2b2")
    assert named is not None
    assert named.checksum == ONE
    assert {board.resolve(board.ref(adapter)) for adapter in board.adapters} == set(board.adapters)


@pytest.mark.parametrize("ref", ["lora", "c0ffee00/lora", "", "orch-mind"])
def test_refs_of_signed_entries_mean_nothing_here(ref: str) -> None:
    assert Board({b"x": [offer("lora")]}).resolve(ref) is None


@pytest.mark.parametrize("ref", ["orch-mind/", "orch-mind/other", "orch-mind/a1a1a1"])
def test_what_nobody_shares_is_not_found(ref: str) -> None:
    with pytest.raises(NotFound):
        Board({b"x": [offer("lora")]}).resolve(ref)


def test_t07_a_name_is_never_a_path() -> None:
    (adapter,) = Board({b"x": [offer("../../etc/cron.d/x")]}).adapters
    assert adapter.label == "etc-cron.d-x"


def test_our_folder_is_offered_with_what_others_need_and_without_a_path(files: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(files / "peft", tmp_path / "peft")
    config = json.loads((folder / "adapter_config.json").read_text())
    for said, told in [("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B"), ("/home/me/base", ""), ("./a/b", "")]:
        changed = config | {"base_model_name_or_path": said, "use_rslora": True}
        (folder / "adapter_config.json").write_text(json.dumps(changed))
        made, digest, table = read_folder(folder, name="n", base="b", topic=TOPICS[0])
        assert made.facts == AdapterFacts("b", told, "safetensors", 4, 16.0), "rank stabilisation is in the alpha"
        assert (made.checksum, made.chunks) == (digest.hex, table.count)


def test_a_folder_that_others_could_not_use_is_not_offered(files: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(files / "peft", tmp_path / "peft")
    assert is_peft_folder(folder)
    assert not is_peft_folder(files)
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_dora": 1})
    )
    with pytest.raises(AdapterFormatError, match="DoRA"):
        read_folder(folder, name="n", base="b", topic=TOPICS[0])


def test_t08_a_link_in_place_of_the_tensors_is_not_followed(files: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(files / "peft", tmp_path / "peft")
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.safetensors").symlink_to(files / "peft" / "adapter_model.safetensors")
    with pytest.raises(OSError, match=r".*"):
        read_folder(folder, name="n", base="b", topic=TOPICS[0])


def test_a_fetched_file_gets_its_own_rank_and_the_alpha_that_was_said(files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "quarantine"
    folder.mkdir()
    shutil.copy(files / "peft" / "adapter_model.safetensors", folder)
    for facts, alpha in [(AdapterFacts(), ASSUMED_ALPHA), (AdapterFacts(rank=4, alpha=8.0), 8.0)]:
        write_config(folder, facts)
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"]) == (4, alpha)
    with pytest.raises(AdapterFormatError, match="rank 8 and has rank 4"):
        write_config(folder, AdapterFacts(rank=8))
