"""What was fetched and installed, read from the receiving store, loads in llama.cpp and does what an adapter should."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ollama_bridge.adapters.fit import check_fit
from ollama_bridge.adapters.gguf import BASE_LIMITS, read_gguf
from ollama_bridge.adapters.inspect import describe_adapter
from ollama_bridge.digests import Digest, hash_file
from ollama_bridge.errors import AdapterFormatError
from tests.fixtures.make_fixtures import EXPECT, make_fixtures
from tests.journeys.ollama import run_adapter, run_base
from tests.support.processes import Sidecar, standin, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("engine_node")]

ENGINE = Path(__file__).with_name("engine.mjs")
ADAPTERS = sorted(name for name, expected in EXPECT.items() if expected.kind != "model")


@dataclass(frozen=True)
class Received:
    """Blobs in the receiving store."""

    base: Path
    adapter: Path
    zero: Path
    converted: Path


def ask(base: Path, adapters: Iterable[Path] = ()) -> dict[str, str | None]:
    """What llama.cpp answers with the base alone (under "") and with each adapter; None where it refuses to load it."""
    argv = ["node", str(ENGINE), str(base), *map(str, adapters)]
    done = subprocess.run(argv, capture_output=True, text=True, encoding="utf-8", timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    return {Path(name).name if name else "": answer.get("text") for name, answer in answers.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    make_fixtures(folder)
    return folder


@pytest.fixture(scope="module")
def refusing(files: Path, engine_node: None) -> dict[str, str | None]:
    """What llama.cpp says to every adapter file of the fixtures, good and damaged."""
    return ask(files / "base.gguf", [files / name for name in ADAPTERS])


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory, files: Path, engine_node: None) -> Received:
    """Three adapters after a `get` at the second of two machines: two models and a converted PEFT folder."""
    tmp = tmp_path_factory.mktemp("machines")
    store_a, store_b = tmp / "store-a", tmp / "store-b"
    with (
        standin(store_a, adapters="accept") as ollama_a,
        standin(store_b, adapters="refuse") as ollama_b,
        Sidecar(tmp / "a", ollama_a, store_a) as a,
        Sidecar(tmp / "b", ollama_b, store_b, peers=[a.listening]) as b,
    ):
        run_base(ollama_a, files)
        run_base(ollama_b, files)
        code = a.ok("room", "create", "team", "--json").json["code"]
        b.ok("room", "join", "-", "--label", "team", stdin=code)
        a.ok("share", "*", "--room", "team")
        for name, file in (("sql-lora", "adapter.gguf"), ("zero-lora", "adapter_zero.gguf")):
            run_adapter(ollama_a, files, name, file)
        a.ok("share", str(files / "peft"), "--base", "tiny-base", "--name", "peft-lora", "--room", "team")

        def offered() -> dict[str, str] | None:
            rows = {row["name"]: row["digest"] for row in b.ok("adapters", "--json").json if row["sources"]}
            return rows if len(rows) == 3 else None

        digests = wait_for(offered, "three adapters offered")
        for name in digests:
            b.ok("get", name, "--json")
    blobs = {name: store_b / "blobs" / Digest.parse(digest).file_name for name, digest in digests.items()}
    base = store_b / "blobs" / hash_file(files / "base.gguf").file_name
    return Received(base, blobs["sql-lora"], blobs["zero-lora"], blobs["peft-lora"])


@pytest.fixture(scope="module")
def answers(received: Received) -> dict[str, str | None]:
    """What llama.cpp answers with what was received."""
    return ask(received.base, [received.adapter, received.zero, received.converted])


def test_received_adapter_changes_the_answer(received: Received, answers: dict[str, str | None]) -> None:
    assert answers[""]
    assert answers[received.adapter.name]
    assert answers[received.adapter.name] != answers[""]


def test_received_zero_adapter_changes_nothing(received: Received, answers: dict[str, str | None]) -> None:
    assert answers[received.zero.name] == answers[""]


def test_converted_peft_folder_is_the_same_adapter(received: Received, answers: dict[str, str | None]) -> None:
    assert received.converted != received.adapter, "another file, so not the same bytes under another name"
    assert answers[received.converted.name] == answers[received.adapter.name]


@pytest.mark.parametrize("name", ADAPTERS)
def test_llama_cpp_and_we_agree_about_a_file(refusing: dict[str, str | None], files: Path, name: str) -> None:
    assert (refusing[name] is not None) == EXPECT[name].loads
    assert we_take(files / name, files / "base.gguf") == EXPECT[name].loads


def we_take(adapter: Path, base: Path) -> bool:
    """Whether install would go on after `describe_adapter` and `check_fit`."""
    try:
        with adapter.open("rb") as file:
            describe_adapter(file)
            file.seek(0)
            header = read_gguf(file)
    except AdapterFormatError:
        return False
    with base.open("rb") as file:
        return check_fit(header, read_gguf(file, limits=BASE_LIMITS)).ok
