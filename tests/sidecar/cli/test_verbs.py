"""Every verb as typed: what is asked of the daemon, what is printed, which exit code."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli.client import ApiClient
from sidecar.control_types import (
    DialResult,
    DoctorLine,
    ErrorInfo,
    GetOptions,
    PlanLine,
    RuleOptions,
    ShareOptions,
    Suggestion,
)
from tests.sidecar.api.fake_control import (
    CODE,
    CONSENT,
    DIGEST,
    KEY,
    REGISTRY_PREFIX,
    FakeControl,
    adapter_row,
    base_missing,
    lost_event,
)
from tests.sidecar.cli.conftest import Run

pytestmark = pytest.mark.usefixtures("daemon")


def as_json(text: str) -> Any:
    return json.loads(text.strip().split("\n")[-1])


def test_status(run: Run, control: FakeControl) -> None:
    told = run("status")
    assert told.exit_code == 0
    assert "0.34.2 at http://127.0.0.1:11434, installs by pull" in told.stdout
    assert "team (2 peers)" in told.stdout
    assert "2 (1 lan, 1 relayed)" in told.stdout
    assert "hole punching; 2 dials opened, failed: 3 silent; relays for 1 pairs of members" in told.stdout
    control.joined[0] = replace(control.joined[0], lan=1, relayed=1)
    assert "team (2 peers: 1 lan, 1 relayed)" in run("status").stdout
    assert as_json(run("status", "--json").stdout)["uptime_s"] == 75.0


def test_doctor_fails_when_a_line_fails(run: Run, control: FakeControl) -> None:
    told = run("doctor")
    assert told.exit_code == 0
    assert "warn  peers: None.\n      next: Wait." in told.stdout
    control.lines = (DoctorLine("store", "fail", "Gone.", "Find it."),)
    assert run("doctor").exit_code == 1
    assert as_json(run("doctor", "--json").stdout) == {"ok": False, "checks": [control.lines[0].to_json()]}


def test_doctor_of_a_room(run: Run, control: FakeControl) -> None:
    told = run("doctor", "--room", "team")
    assert told.exit_code == 1, "nobody is there"
    said = "warn  Nobody answers.\n      cause (likely): It ended.\n      next: Start it."
    assert said in told.stdout
    assert "docs/connections.md: stale-announce" in told.stdout
    assert control.calls == [("diagnose_room", "team")]


def test_doctor_of_a_peer(run: Run, control: FakeControl) -> None:
    assert run("doctor", "--peer", KEY).exit_code == 1
    told = run("doctor", "--peer", KEY, "--dial")
    assert "dial  failed after 4 s: Nobody got an answer." in told.stdout
    assert "Dialling" in told.stderr
    assert control.calls == [("diagnose_peer", KEY, False), ("diagnose_peer", KEY, True)]
    control.reached, control.dialled = True, DialResult(True, 2.0, "relayed")
    told = run("doctor", "--peer", KEY, "--dial")
    assert told.exit_code == 0
    assert "dial  connected through a member that relays after 2 s." in told.stdout
    answer = as_json(run("doctor", "--peer", KEY, "--dial", "--json").stdout)
    assert (answer["ok"], answer["findings"][0]["kind"], answer["dial"]["road"]) == (True, "stale-announce", "relayed")


@pytest.mark.parametrize("arguments", [("--room", "team", "--peer", KEY), ("--dial",)])
def test_doctor_is_asked_one_question(run: Run, arguments: tuple[str, ...]) -> None:
    assert run("doctor", *arguments).exit_code == 2


def test_room_create_tells_the_code_once(run: Run) -> None:
    told = run("room", "create", "lab")
    assert told.exit_code == 0
    assert CODE in told.stdout
    assert f"ollaswarm://room/{CODE}" in told.stdout
    assert CODE not in run("room", "list").stdout


def test_room_create_json(run: Run) -> None:
    made = as_json(run("room", "create", "--json").stdout)
    assert (made["ok"], made["code"], made["link"]) == (True, CODE, f"ollaswarm://room/{CODE}")


@pytest.mark.parametrize("argument", [CODE, "-"])
def test_room_join_by_argument_and_standard_input(run: Run, control: FakeControl, argument: str) -> None:
    told = run("room", "join", argument, "--label", "lab", answer=f"{CODE}\n")
    assert told.exit_code == 0, told.stderr
    assert control.calls == [("join_room", CODE, "lab", False)]


def test_room_join_of_orch_mind(run: Run, control: FakeControl) -> None:
    told = run("room", "join", "--orch-mind", "-", "--yes", answer="FAST-PEER-7\n")
    assert told.stdout.startswith("Joined theirs:")
    assert control.calls == [("join_room", "FAST-PEER-7", None, True)]


def test_t11_the_code_is_never_printed_by_join(run: Run) -> None:
    for words in (["room", "join", "-"], ["room", "join", "-", "--json"]):
        for code in (CODE, CODE.replace("able", "abel")):
            told = run(*words, answer=f"{code}\n")
            assert "ability" not in told.stdout + told.stderr


def test_room_join_without_a_room_and_nobody_to_ask(run: Run) -> None:
    told = run("room", "join")
    assert told.exit_code == 1
    assert "`-` to read the code" in told.stderr


def test_general_needs_consent(run: Run, control: FakeControl) -> None:
    refused = run("room", "join", "general")
    assert refused.exit_code == 1
    assert CONSENT in refused.stderr
    assert "--yes" in refused.stderr
    assert run("room", "join", "general", "--yes").exit_code == 0
    assert control.calls == [("join_room", "general", None, False), ("join_room", "general", None, True)]


def test_room_leave(run: Run) -> None:
    assert run("room", "leave", "team").stdout == "Left team.\n"
    gone = run("room", "leave", "team", "--json")
    assert gone.exit_code == 1
    assert as_json(gone.stdout)["error"]["code"] == "not-found"
    assert run("room", "list").stderr.startswith("In no room.")
    assert as_json(run("room", "list", "--json").stdout) == []


def test_adapters(run: Run, control: FakeControl) -> None:
    told = run("adapters", "--room", "team", "--fits", "--local")
    heads, row = told.stdout.splitlines()
    assert heads.split("\t")[:3] == ["REF", "VERSION", "PUBLISHER"]
    assert row.split("\t")[:6] == ["sql-lora", "7", KEY[:12], "6.2 MiB", "llama3.2:1b", "yes"]
    assert control.calls == [("adapters", "team", True, True)]
    listed = as_json(run("adapters", "--json").stdout)
    promised = {"ref", "name", "version", "publisher", "rooms", "digest", "size", "base", "fits", "sources"}
    assert promised | {"trust", "installed_as"} <= set(listed[0])


def test_share_a_model(run: Run, control: FakeControl) -> None:
    words = ["--room", "team", "--license", "mit", "--tag", "sql", "--tag", "b", "--description", "Good."]
    told = run("share", "me/sql-lora:v1", *words)
    assert told.exit_code == 0, told.stderr
    options = ShareOptions(description="Good.", license="mit", tags=("sql", "b"))
    assert control.calls == [("share", "me/sql-lora:v1", "team", options)]
    assert told.stdout == "Shared sql-lora version 7 (6.2 MiB) with team.\n"


def test_share_a_file_sends_its_absolute_path(
    run: Run, control: FakeControl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    for typed in ("a.gguf", "./a.gguf", "peft"):
        assert run("share", typed, "--base", "llama3.2:1b", "--room", "team").exit_code == 0
    assert [call[1] for call in control.calls] == [str(tmp_path / name) for name in ("a.gguf", "a.gguf", "peft")]


def test_share_of_a_missing_file_asks_nothing_of_the_daemon(run: Run, control: FakeControl) -> None:
    told = run("share", "./nothing.gguf", "--room", "team")
    assert (told.exit_code, control.calls) == (1, [])
    assert "There is no file" in told.stderr


def test_share_without_a_room_takes_the_only_one(run: Run, control: FakeControl) -> None:
    assert run("share", "sql-lora").exit_code == 0
    assert control.calls[0][2] == control.joined[0].id
    control.joined.append(replace(control.joined[0], label="lab", id="9" * 32))
    told = run("share", "sql-lora")
    assert told.exit_code == 1
    assert "--room: team, lab" in told.stderr


def test_share_and_unshare_everything(run: Run, control: FakeControl) -> None:
    assert "Every adapter of this Ollama is offered to team" in run("share", "*").stdout
    assert "everything" in run("room", "list").stdout
    assert "not offered to team any more" in run("unshare", "*").stdout
    assert control.calls == [("share_all", control.joined[0].id, on) for on in (True, False)]
    nothing_to_end = run("unshare", "*")
    assert (nothing_to_end.exit_code, len(control.calls)) == (1, 2)
    assert run("share", "*", "--room", "elsewhere").exit_code == 1
    assert "describe one" in run("share", "*", "--license", "mit").stderr


@pytest.mark.parametrize("verb", ["share", "unshare"])
def test_a_star_that_the_shell_expanded_is_explained(run: Run, control: FakeControl, verb: str) -> None:
    told = run(verb, "README.md", "setup.cfg", "--room", "team")
    assert (told.exit_code, control.calls) == (2, [])
    assert "quote it, as in '*'" in " ".join(told.stderr.replace("│", " ").split())


def test_unshare_trust_block_uninstall(run: Run, control: FakeControl) -> None:
    assert "from team" in run("unshare", "sql-lora").stdout
    assert "is trusted" in run("trust", KEY).stdout
    assert "is blocked" in run("block", KEY).stdout
    assert "is unknown now" in run("trust", KEY, "--forget").stdout
    assert ("forget_publisher", KEY) in control.calls
    assert run("trust", KEY, "--forget", "--as", "ada").exit_code == 2
    assert run("uninstall", "sql-lora").stdout == "Removed sql-lora.\n"
    assert run("uninstall", "llama3.2").exit_code == 1


def test_verify(run: Run, control: FakeControl, tmp_path: Path) -> None:
    assert run("verify", str(tmp_path / "good.gguf")).exit_code == 0
    bad = run("verify", str(tmp_path / "bad.gguf"), "--json")
    assert (bad.exit_code, as_json(bad.stdout)["ok"]) == (1, False)
    assert run("verify", str(tmp_path / "missing.gguf")).exit_code == 1


def test_peers_and_transfers(run: Run, control: FakeControl) -> None:
    assert KEY[:12] in run("peers").stdout
    assert run("transfers").stderr == "No transfers yet.\n"


def steps(count: int, end: Callable[[FakeControl], None]) -> list[Callable[[FakeControl], None]]:
    def advance_to(done_bytes: int) -> Callable[[FakeControl], None]:
        return lambda control: control.advance(done_bytes)

    return [*(advance_to(65536 * 100 * step // count) for step in range(count)), end]


def test_get(run: Run, control: FakeControl) -> None:
    control.script = steps(10, FakeControl.finish)
    told = run("get", "sql-lora", "--as", "mine", "--force")
    assert told.exit_code == 0, told.stderr
    assert control.calls == [("get", "sql-lora", GetOptions("mine", install=True, force=True))]
    lines = told.stdout.splitlines()
    assert lines[-2].startswith("Installed sql-lora:latest by pull (6.2 MiB in 2 s")
    assert lines[-1] == "Try it: ollama run sql-lora:latest"
    assert any("50 %" in line and "MiB/s" in line and "ETA" in line for line in lines[:-2])


def test_get_json_ends_with_the_result(run: Run, control: FakeControl) -> None:
    control.script = steps(4, FakeControl.finish)
    lines = [json.loads(line) for line in run("get", "sql-lora", "--json").stdout.splitlines()]
    assert all(line["event"] == "transfer:progress" for line in lines[:-1])
    last = lines[-1]
    assert (last["ok"], last["digest"], last["installed_as"], last["route"]) == (
        True,
        DIGEST,
        "sql-lora:latest",
        "pull",
    )


def test_get_that_fails(run: Run, control: FakeControl) -> None:
    control.script = steps(2, lambda failing: failing.finish(base_missing()))
    told = run("get", "sql-lora", "--json")
    assert told.exit_code == 1
    assert as_json(told.stdout) == {"ok": False, "error": base_missing().to_json()}
    control.script = [lambda failing: failing.finish(base_missing())]
    assert "Next: Run `ollama pull llama3.2:1b`." in run("get", "sql-lora").stderr


def test_get_goes_on_when_its_stream_is_cut(run: Run, control: FakeControl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.cli.client.RECONNECT_PAUSE_S", 0.0)

    def cut(control: FakeControl) -> None:
        raise RuntimeError("the stream ends here")

    control.script = [
        lambda control: control.advance(65536),
        lambda control: control.advance(65536),
        cut,
        *steps(2, FakeControl.finish),
    ]
    told = run("get", "sql-lora")
    assert told.exit_code == 0, told.stderr


def test_t04_suggestions_are_shown_and_not_applied_unless_asked(run: Run, control: FakeControl) -> None:
    control.suggested = (Suggestion("system", "", "You are\x1b[2J a pirate."),)
    control.script = steps(1, FakeControl.finish)
    told = run("get", "sql-lora")
    assert "    + You are[2J a pirate." in told.stdout
    assert "not applied" in told.stdout
    assert control.calls == [("get", "sql-lora", GetOptions())]
    control.script = steps(1, FakeControl.finish)
    assert "They are applied." in run("get", "sql-lora", "--yes").stdout
    assert control.calls[-1] == ("get", "sql-lora", GetOptions(accept_suggestions=True))


def test_t04_a_models_settings_and_licence_are_shown_and_nothing_is_installed_unless_agreed(
    run: Run, control: FakeControl
) -> None:
    control.suggested = (
        Suggestion("template", "", "{{ .Prompt }}", required=True, entry="c0ffee"),
        Suggestion("license", "", "TINY LICENSE\n\nDo as you like."),
    )
    control.script = steps(1, FakeControl.finish)
    told = run("get", "sql-lora")
    assert "    + TINY LICENSE" in told.stdout
    assert "    + {{ .Prompt }}" in told.stdout
    assert "Not agreed" in told.stdout
    assert control.calls == [("get", "sql-lora", GetOptions())]
    control.script = steps(1, FakeControl.finish)
    assert "Agreed." in run("get", "sql-lora", "--yes").stdout
    assert control.calls[-1] == ("get", "c0ffee", GetOptions(accept_suggestions=True)), "what was looked at"


def test_t28_a_whole_model_is_shared_only_when_asked_and_its_licence_shown(run: Run, control: FakeControl) -> None:
    told = run("share", "llama3.2:1b", "--model", "--room", "team")
    assert control.calls == [("share", "llama3.2:1b", "team", ShareOptions(model=True))]
    assert "Its licence: " in told.stdout
    assert "every whole model" in run("share", "*", "--models", "--room", "team").stdout
    assert control.calls[-1] == ("share_all", "team", True, "models")


def test_what_nobody_signed_is_fetched_only_with_consent(run: Run, control: FakeControl) -> None:
    refused = run("get", "orch-mind/lora")
    assert refused.exit_code == 1
    assert "Nobody signed it." in refused.stderr
    assert control.calls == [("get", "orch-mind/lora", GetOptions())]
    control.script = steps(1, FakeControl.finish)
    assert run("get", "orch-mind/lora", "--yes", "--base", "gemma3").exit_code == 0
    assert control.calls[-1] == ("get", "orch-mind/lora", GetOptions(base="gemma3", accept_unsigned=True))


def test_get_of_nothing(run: Run) -> None:
    told = run("get", "nothing")
    assert told.exit_code == 1
    assert told.stderr.startswith("Error: No adapter answers to 'nothing'.\n  Next: ")


def test_cancel(run: Run, control: FakeControl) -> None:
    control.script = steps(1, FakeControl.finish)
    run("get", "sql-lora")
    assert "sql-lora" in run("transfers").stdout
    assert run("transfers", "--cancel", "t1").stdout == "sql-lora: cancelled.\n"
    assert run("transfers", "--cancel", "../events").exit_code == 1


def test_t09_peer_text_cannot_touch_the_terminal(run: Run, control: FakeControl) -> None:
    hostile = "\x1b]0;owned\x07\x1b[31mred\x9b2J\u202egnp.exe\u2066\u200b\r\nfake\tline[bold]"
    control.offered = [adapter_row(name=hostile, ref=hostile, base=hostile, rooms=(hostile,), publisher_name=hostile)]
    for words in (["adapters"], ["adapters", "--json"]):
        told = run(*words)
        assert told.exit_code == 0
        hidden = [letter for letter in told.stdout if not letter.isprintable() and letter not in "\t\n"]
        assert hidden == []
        assert len(told.stdout.splitlines()) == (1 if "--json" in words else 2)


@pytest.mark.parametrize(
    "words", [["adapters", "--colour"], ["get"], ["nonsense"], ["room"], ["events", "--since", "-1"]]
)
def test_usage_errors_are_2(run: Run, words: list[str]) -> None:
    assert run(*words).exit_code == 2


def test_events_are_printed_until_the_daemon_stops(
    run: Run, control: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        control.emit(lost_event())
    streamed = ApiClient.stream

    def two(self: ApiClient, path: str, **query: int | None) -> Any:
        for number, event in enumerate(streamed(self, path, **query), start=1):
            yield event
            if number == 2:
                return

    monkeypatch.setattr(ApiClient, "stream", two)
    told = run("events", "--since", "0", "--json")
    assert [json.loads(line)["number"] for line in told.stdout.splitlines()] == [1, 2]
    assert "ollama:lost" in run("events", "--since", "0").stdout


def test_sync_add_list_remove(run: Run, control: FakeControl) -> None:
    added = run("sync", "add", "--publisher", KEY, "--max-size", "2MiB", "--rate", "3")
    assert added.exit_code == 0, added.stderr
    assert f"install what {control.joined[0].id} offers, by {KEY[:12]}" in added.stdout
    options = RuleOptions("fetch", control.joined[0].id, KEY, max_bytes=2 << 20, per_hour=3)
    assert control.calls == [("sync_add", options)]
    assert "0a1b2c3d" in run("sync", "list").stdout
    assert run("sync", "remove", "0a1b2c3d").exit_code == 0
    assert run("sync", "add", "--max-size", "much").exit_code == 2


def test_sync_run_prints_each_line_and_the_cost(run: Run, control: FakeControl) -> None:
    control.planned = [
        PlanLine("evict", "team/old:v1", "team", "r", "Makes room.", "team/old:v1", 1024),
        PlanLine("install", "sql-lora", "team", "r", "Version 7.", "team/sql-lora:v7", 2048),
        PlanLine("wait", "other", "team", "r", "Not trusted."),
    ]
    said = run("sync", "run", "--dry-run")
    assert said.exit_code == 0
    assert "install sql-lora as team/sql-lora:v7, fetching 2.0 KiB. Version 7." in said.stdout
    assert "evict   team/old:v1, freeing 1.0 KiB" in said.stdout
    assert "would be fetched" in said.stdout
    failed = ErrorInfo("ollama", "Ollama is away.", "Start it.")
    control.planned = [PlanLine("install", "sql-lora", "team", "r", "Version 7.", error=failed)]
    ran = run("sync", "run")
    assert ran.exit_code == 1
    assert "Failed: Ollama is away. Next: Start it." in ran.stdout
    assert run("sync", "rollback", "sql-lora", "--to", "4").stdout.startswith("team/sql-lora is version 4 now.")


def test_export_and_import(run: Run, control: FakeControl, tmp_path: Path) -> None:
    file = tmp_path / "sql.bundle"
    assert "sql-lora version 7 with its base" in run("export", "sql-lora", str(file), "--with-base").stdout
    done = run("import", str(file), "--as", "mine")
    assert done.exit_code == 0, done.stderr
    assert "Installed sql-lora:latest" in done.stdout
    assert "llama3.2:1b" in done.stdout
    assert control.calls == [
        ("export_bundle", "sql-lora", str(file), True, False),
        ("import_bundle", str(file), GetOptions(as_name="mine")),
    ]


def test_rotate_asks_first_and_shows_the_new_code(run: Run, control: FakeControl) -> None:
    refused = run("room", "rotate", "team")
    assert refused.exit_code == 1
    assert "--yes" in refused.stderr
    assert control.calls == []
    assert CODE in run("room", "rotate", "team", "--yes").stdout
    assert run("room", "policy", "team", "enforce").stdout == "The policy of team is enforce.\n"
    assert run("room", "policy", "team", "perhaps").exit_code == 2
    assert control.calls == [("rotate_room", "team"), ("set_policy", "team", "enforce")]


def test_trust_with_a_name(run: Run, control: FakeControl) -> None:
    assert run("trust", KEY, "--as", "alice", "--replace").exit_code == 0
    assert control.calls == [("trust", KEY, "alice", True)]


def test_block_lists(run: Run, control: FakeControl) -> None:
    assert KEY[:12] in run("blocklist", "list").stdout
    assert "version 4" in run("blocklist", "publish", "--room", "team").stdout
    assert "1 keys" in run("blocklist", "follow", KEY).stdout
    assert run("blocklist", "unfollow", KEY).exit_code == 0
    assert control.calls == [
        ("publish_blocks", "team"),
        ("follow_blocks", KEY, True),
        ("follow_blocks", KEY, False),
    ]


def test_registry_says_what_to_pull_and_who_can_read_the_secret(daemon: FakeControl, run: Run) -> None:
    assert "The registry is off" in run("registry").output
    on = run("registry", "on")
    assert f"ollama pull --insecure {REGISTRY_PREFIX}ROOM.NAME" in on.output
    assert f"ollama push --insecure {REGISTRY_PREFIX}ROOM.NAME" in on.output
    assert "whoever may call this Ollama can read it" in on.output
    assert run("registry").output.splitlines()[0] == "The registry is on at 127.0.0.1:11471."
    assert (
        f"ollama pull --insecure {REGISTRY_PREFIX}team.sql-lora:latest" in run("registry", "show", "--entries").output
    )
    assert run("registry", "on", "--new-secret", "--no-push", "--models").exit_code == 0
    assert json.loads(run("registry", "off", "--json").output)["on"] is False
    calls = [
        ("set_registry", True, False, None, None),
        ("set_registry", True, True, False, True),
        ("set_registry", False, False, None, None),
    ]
    assert daemon.calls == calls


def test_registry_without_its_port_says_so(daemon: FakeControl, run: Run) -> None:
    daemon.registered = replace(daemon.registered, cause="Port 11471 of 127.0.0.1 cannot be used: Address in use.")
    said = run("registry", "on").output
    assert "does not listen. Port 11471" in said
    assert "registry_port" in said
