"""One table, three sources, and errors that say where the bad value was."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config import DailyWindow, HostPort, Setting, Settings, load_settings, parse_size, settings_table
from sidecar.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return file


def load(folder: Path, environment: dict[str, str] | None = None, **flags: object) -> Settings:
    return load_settings({"data_dir": folder} | flags, environment=environment or {})


def test_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert str(settings.api) == "127.0.0.1:11470"
    assert settings.quota == 50 * 1024**3
    assert settings.ollama is None
    assert settings.peers == ()
    assert settings.paths.root == tmp_path


def test_flag_beats_variable_beats_file(tmp_path: Path) -> None:
    write(tmp_path, 'quota = "1GiB"\nupload_slots = 3\nno_dht = true\npeers = ["10.0.0.1:1", "[::1]:2"]')
    settings = load(tmp_path, {"OLLASWARM_QUOTA": "2GiB", "OLLASWARM_UPLOAD_SLOTS": "4"}, quota="3GiB")
    assert (settings.quota, settings.upload_slots, settings.no_dht) == (3 * 1024**3, 4, True)
    assert settings.peers == (HostPort("10.0.0.1", 1), HostPort("::1", 2))


def test_values_not_given_on_the_command_line_do_not_hide_others(tmp_path: Path) -> None:
    assert load(tmp_path, {"OLLASWARM_NO_MDNS": "1"}, no_mdns=None).no_mdns


@pytest.mark.parametrize("row", settings_table(), ids=lambda row: row.name)
def test_every_setting_can_come_from_every_source(tmp_path: Path, row: Setting) -> None:
    values = {
        "data_dir": str(tmp_path / "elsewhere"),
        "store": str(tmp_path),
        "ollama": "http://localhost:1",
        "store_watch": "polling",
        "log_level": "debug",
        "api": "[::1]:5000",
        "listen": "0.0.0.0:5000",
        "peers": "10.0.0.1:4000",
        "bootstrap": "10.0.0.1:4000",
        "sync_window": "22:00-06:00",
    }
    text = values.get(row.name, {"yes/no": "true", "number": "7"}.get(row.type, "7MiB"))
    by_variable = load_settings({}, environment={row.variable: text})
    by_flag = load_settings({row.name: text}, environment={})
    toml = text if row.type in ("yes/no", "number") else f'["{text}"]' if row.type == "list" else f'"{text}"'
    by_file = load_settings({}, config=write(tmp_path, f"{row.name} = {toml}"), environment={})
    found = [getattr(settings, row.name) for settings in (by_variable, by_flag, by_file)]
    assert found[0] == found[1] == found[2] != getattr(load(tmp_path / "empty"), row.name)


def test_ollama_host_is_the_last_resort(tmp_path: Path) -> None:
    assert load(tmp_path, {"OLLAMA_HOST": "box:1"}).ollama == "box:1"
    assert load(tmp_path, {"OLLAMA_HOST": "box:1", "OLLASWARM_OLLAMA": "http://other:2"}).ollama == "http://other:2"


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("http://127.0.0.1:11434", True),
        ("localhost", True),
        ("0.0.0.0", True),
        (":11434", True),
        ("[::1]:11434", True),
        ("http://10.0.0.9:11434", False),
        ("https://ollama.example", False),
        ("127.0.0.1.evil.example", False),
        ("http://127.0.0.1@evil.example", False),
        ("http://[bad", False),
    ],
)
def test_t25_ollama_elsewhere_is_noticed(tmp_path: Path, text: str, local: bool) -> None:
    assert load(tmp_path, ollama=text).ollama_is_local is local


def test_unknown_key_in_the_file_names_the_nearest(tmp_path: Path) -> None:
    file = write(tmp_path, "quotas = 5")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert str(file) in caught.value.cause
    assert "'quotas'" in caught.value.cause
    assert "Did you mean quota?" in caught.value.cause


def test_mistyped_variable_is_refused_and_a_foreign_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"OLLASWARM_QOUTA.*Did you mean quota"):
        load(tmp_path, {"OLLASWARM_QOUTA": "1GiB"})
    load(tmp_path, {"OLLASWARM_OF_ANOTHER_PROGRAM": "1", "OLLASWARM_CONFIG": ""})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quota", "a lot"),
        ("quota", "-1"),
        ("quota", "5 XiB"),
        ("quota", True),
        ("api", "0.0.0.0:11470"),
        ("api", "192.168.1.7:11470"),
        ("api", "ollaswarm.example:11470"),
        ("api", "127.0.0.1"),
        ("api", "127.0.0.1:70000"),
        ("listen", "::1:4000"),
        ("listen", "host:"),
        ("listen", "host:+1"),
        ("peers", "10.0.0.1:0"),
        ("peers", "10.0.0.1:1,nonsense"),
        ("upload_slots", 0),
        ("upload_slots", "many"),
        ("max_peers", 10**9),
        ("log_level", "loud"),
        ("no_dht", "perhaps"),
        ("ollama", "http://a b"),
    ],
)
def test_unusable_values_say_which_and_where(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({"data_dir": tmp_path, name: value}, environment={})
    assert caught.value.cause.startswith(f"{name} in the command line cannot be used: ")
    with pytest.raises(ConfigError, match=f"{name} in the environment"):
        load(tmp_path, {f"OLLASWARM_{name.upper()}": "x y" if isinstance(value, bool | int) else str(value)})


@pytest.mark.parametrize("content", [b"quota = ", b"\xff\xfe", b"[quota]\nx=1", b"quota = 1\nquota = 2"])
def test_a_broken_file_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.toml"):
        load(tmp_path)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_settings({}, config=tmp_path / "none.toml", environment={})
    with pytest.raises(ConfigError, match="does not exist"):
        load_settings({}, environment={"OLLASWARM_CONFIG": str(tmp_path / "none.toml")})


def test_the_data_folders_own_file_cannot_move_the_folder(tmp_path: Path) -> None:
    write(tmp_path, 'data_dir = "/elsewhere"')
    with pytest.raises(ConfigError, match="data_dir is set in"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", 1048576),
        ("50GiB", 50 << 30),
        ("50 gib", 50 << 30),
        ("50G", 50 << 30),
        ("50GB", 50 * 10**9),
        ("1.5KiB", 1536),
        ("20MB/s", 20 * 10**6),
        ("7b", 7),
        (9, 9),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@given(st.text(max_size=20))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert parse_size(text) >= 0


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = HostPort.parse(text)
    except ValueError:
        return
    assert HostPort.parse(str(address)) == address


def test_reserve_is_smaller_on_small_disks(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.reserve_bytes(1000 << 30) == 2 << 30
    assert settings.reserve_bytes(1 << 30) == (1 << 30) // 20


@pytest.mark.parametrize(
    ("text", "minute", "opens_in"),
    [
        ("22:00-06:00", 23 * 60, 0),
        ("22:00-06:00", 6 * 60, 16 * 60),
        ("22:00-06:00", 5 * 60 + 59, 0),
        ("09:30-17:00", 9 * 60, 30),
        ("09:30-17:00", 17 * 60, 16 * 60 + 30),
        ("00:00-00:00", 700, 0),
    ],
)
def test_daily_window(text: str, minute: int, opens_in: int) -> None:
    window = DailyWindow.parse(text)
    assert window.opens_in(minute) == opens_in
    assert str(window) == text


@pytest.mark.parametrize("text", ["", "22-6", "24:00-01:00", "22:00-06:60", "22:00", "22:00-06:0\u0966"])
def test_what_is_no_window_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="hours look like"):
        DailyWindow.parse(text)
