"""The settings table, and how a `Settings` is read from it.

`Settings` is the one table: each field's name, type, default, unit and help feed the TOML file, the `OLLASWARM_*`
variables, the flags of `ollaswarm up` and docs/reference.md. A flag beats a variable, a variable beats the file.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from sidecar.errors import ConfigError
from sidecar.paths import DataPaths, default_data_dir

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.config import JsonDict
    from pydantic.fields import FieldInfo

ENVIRONMENT_PREFIX = "OLLASWARM_"
CONFIG_VARIABLE = "OLLASWARM_CONFIG"
SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)(?:/s)?")
DAY_MINUTES = 24 * 60
UNITS = {"": 1, "b": 1} | {
    letter + suffix: base**power
    for power, letter in enumerate("kmgt", start=1)
    # A bare "50G" means what df and du mean by it.
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
}


def parse_size(value: object) -> int:
    """Bytes from `50GiB`, `20 MB`, `512k`, `1048576`. KB MB GB TB count by 1000, the others by 1024.

    Raises:
        ValueError: Not a size. The message says what one looks like.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = SIZE.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if not found or found[2] not in UNITS:
        raise ValueError("a size looks like 50GiB, 500MB or 1048576")
    return int(float(found[1]) * UNITS[found[2]])


@dataclass(frozen=True, slots=True)
class HostPort:
    """A TCP address as people write it: `192.168.1.7:4000`, `[fe80::1]:4000`, `box.lan:4000`."""

    host: str
    port: int

    @classmethod
    def parse(cls, value: object) -> HostPort:
        """Raises ValueError with a message for the user."""
        if isinstance(value, HostPort):
            return value
        host, colon, port = str(value).strip().rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        # fullmatch against ASCII digits: int() would also take "+1", " 1" and other scripts' digits.
        if not colon or not bare or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            raise ValueError("an address looks like 192.168.1.7:4000 or [::1]:4000")
        if ":" in bare and bare == host:
            raise ValueError("an IPv6 address is written in brackets: [::1]:4000")
        return cls(bare, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect there. A name other than `localhost` could be anything."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _loopback(value: object) -> HostPort:
    address = HostPort.parse(value)
    if not address.is_loopback:
        raise ValueError("the control API answers on loopback only, for example 127.0.0.1:11470")
    return address


def _reachable(value: object) -> HostPort:
    address = HostPort.parse(value)
    if address.port == 0:
        raise ValueError("an address to connect to needs a port other than 0")
    return address


@dataclass(frozen=True, slots=True)
class DailyWindow:
    """Hours of the day in local time; one that ends before it begins goes over midnight."""

    begins: int
    """Minutes after midnight."""
    ends: int

    @classmethod
    def parse(cls, value: object) -> DailyWindow:
        """Raises ValueError with a message for the user."""
        if isinstance(value, DailyWindow):
            return value
        found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", str(value).strip(), re.ASCII)
        if found is None:
            raise ValueError("hours look like 22:00-06:00")
        numbers = [int(part) for part in found.groups()]
        return cls(numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3])

    def opens_in(self, minute: int) -> int:
        """Minutes from that minute of the day until the window is open; 0 while it is."""
        length = (self.ends - self.begins) % DAY_MINUTES or DAY_MINUTES
        since = (minute - self.begins) % DAY_MINUTES
        return 0 if since < length else DAY_MINUTES - since

    def __str__(self) -> str:
        return "-".join(f"{at // 60:02}:{at % 60:02}" for at in (self.begins, self.ends))


def _listed(value: object) -> object:
    """Variables hold lists as `a,b`."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _path(value: object) -> object:
    return Path(value).expanduser().absolute() if isinstance(value, str | Path) and str(value) else value


def _url(value: object) -> object:
    text = value.strip() if isinstance(value, str) else value
    if not isinstance(text, str) or not text or any(letter.isspace() for letter in text):
        raise ValueError("an Ollama address looks like http://127.0.0.1:11434")
    return text


Size = Annotated[int, BeforeValidator(parse_size)]
Address = Annotated[HostPort, BeforeValidator(HostPort.parse), PlainSerializer(str)]
LoopbackAddress = Annotated[HostPort, BeforeValidator(_loopback), PlainSerializer(str)]
RemoteAddress = Annotated[HostPort, BeforeValidator(_reachable), PlainSerializer(str)]
Window = Annotated[DailyWindow, BeforeValidator(DailyWindow.parse), PlainSerializer(str)]
Folder = Annotated[Path, BeforeValidator(_path)]
OllamaAddress = Annotated[str, BeforeValidator(_url)]


def _setting(default: Any, help_text: str, *, unit: str = "", flag: str = "", **bounds: Any) -> Any:
    """One row of the table. `flag` only where the flag of `up` is not the name with hyphens."""
    extra: JsonDict = {"unit": unit, "flag": flag}
    return Field(default, description=help_text, json_schema_extra=extra, validate_default=True, **bounds)


class Settings(BaseModel):
    """Everything that can be set. The order is the order of the documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)

    data_dir: Folder = Field(
        default_factory=default_data_dir,
        description="Folder for the identity, the journal, partial files and the API token.",
        json_schema_extra={"unit": "path", "flag": "", "shown": "the user's application data folder"},
    )
    ollama: OllamaAddress | None = _setting(
        None, "Ollama to work for. Else OLLAMA_HOST, else the local one.", unit="URL"
    )
    allow_remote_ollama: bool = _setting(
        False, "Work with an Ollama on another machine. It is sent every adapter that is installed, unencrypted."
    )
    store: Folder | None = _setting(None, "Ollama's model store. Else it is found.", unit="path")
    store_watch: Literal["auto", "polling"] = _setting(
        "auto", "How changes of the store are noticed; `polling` for network folders that send no notifications."
    )
    api: LoopbackAddress = _setting(
        "127.0.0.1:11470", "Where the control API listens; loopback only.", unit="host:port"
    )
    registry_port: int = _setting(
        11471,
        "Loopback port of the registry that `ollama pull` uses once `ollaswarm registry on` was said. It is part of the "
        "names of models. On Windows it is always 80.",
        unit="port",
        ge=0,
        le=65535,
    )
    metrics_open: bool = _setting(False, "Let /metrics be read without the token, by processes of this machine.")
    listen: Address | None = _setting(
        None,
        "Where peers of the local network connect, and the address the DHT's sockets are bound to. Else every address, on a "
        "port the system chooses.",
        unit="host:port",
    )
    peers: Annotated[tuple[RemoteAddress, ...], BeforeValidator(_listed)] = _setting(
        (), "Peers to connect to by address, beside those that are found.", unit="host:port", flag="--peer"
    )
    bootstrap: Annotated[tuple[RemoteAddress, ...], BeforeValidator(_listed)] = _setting(
        (),
        "DHT nodes to start from instead of the public ones, for a network of your own.",
        unit="host:port",
    )
    no_dht: bool = _setting(False, "Send nothing to the DHT: private rooms meet on the local network alone.")
    no_relay: bool = _setting(
        False,
        "Never pass on packets for members of your rooms that cannot reach each other. They are encrypted, and at most 1 MiB/s.",
    )
    no_mdns: bool = _setting(False, "Neither announce on the local network nor look there.")
    max_peers: int = _setting(64, "Connected peers at once.", unit="peers", ge=1, le=1000)
    upload_slots: int = _setting(8, "Peers served at once; the others wait their turn.", unit="peers", ge=1, le=64)
    download_limit: Size = _setting("0", "Cap for everything fetched together; 0 is none.", unit="bytes/s")
    upload_limit: Size = _setting("0", "Cap for everything provided together; 0 is none.", unit="bytes/s")
    room_download_limit: Size = _setting("0", "Cap for what is fetched in any one room; 0 is none.", unit="bytes/s")
    room_upload_limit: Size = _setting("0", "Cap for what is provided in any one room; 0 is none.", unit="bytes/s")
    peer_download_limit: Size = _setting("0", "Cap for what is fetched from any one peer; 0 is none.", unit="bytes/s")
    peer_upload_limit: Size = _setting("0", "Cap for what is provided to any one peer; 0 is none.", unit="bytes/s")
    lan_exempt: bool = _setting(False, "The caps do not count what stays in the local network.")
    quota: Size = _setting("50GiB", "Fetched data that may be kept in the data folder.", unit="bytes")
    reserve: Size = _setting(
        "2GiB", "Disk space that fetches leave free, or 5 % of the disk if that is less.", unit="bytes"
    )
    sync_quota: Size = _setting("50GiB", "Adapters that auto-sync may keep in Ollama.", unit="bytes")
    sync_window: Window | None = _setting(
        None, "Hours in which auto-sync fetches, in local time, such as 22:00-06:00. Else always.", unit="hours"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "What the log contains.")

    @property
    def paths(self) -> DataPaths:
        return DataPaths(self.data_dir)

    @property
    def ollama_is_local(self) -> bool:
        """Whether Ollama is on this machine, as far as its address tells. 0.0.0.0 is a server's way to say "here"."""
        text = (self.ollama or "").strip("\"' ")
        try:
            host = urlsplit(text if "://" in text else f"http://{text}").hostname or ""
        except ValueError:
            return False
        return host in ("", "0.0.0.0", "::") or HostPort(host, 0).is_loopback  # noqa: S104 - compared, not bound

    def reserve_bytes(self, disk_bytes: int) -> int:
        """Space to leave free on a disk of that size: small disks (and test file systems) keep 5 %."""
        return min(self.reserve, disk_bytes // 20)


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table as flags and documentation need it."""

    name: str
    type: Literal["text", "yes/no", "number", "list"]
    default: str
    unit: str
    help: str
    flag: str

    @property
    def variable(self) -> str:
        return ENVIRONMENT_PREFIX + self.name.upper()


def settings_table() -> tuple[Setting, ...]:
    """Every setting, in the order of documentation."""
    return tuple(_row(name, field) for name, field in Settings.model_fields.items())


def _row(name: str, field: FieldInfo) -> Setting:
    extra = cast("dict[str, str]", field.json_schema_extra)
    default = field.default
    if default in (None, ()) or field.default_factory is not None:
        shown = extra.get("shown", "none")
    else:
        shown = {True: "yes", False: "no"}.get(default, str(default)) if isinstance(default, bool) else str(default)
    kind: Literal["text", "yes/no", "number", "list"] = "text"
    if isinstance(default, bool):
        kind = "yes/no"
    elif isinstance(default, tuple):
        kind = "list"
    elif isinstance(default, int):
        kind = "number"
    return Setting(
        name, kind, shown, extra["unit"], field.description or "", extra["flag"] or "--" + name.replace("_", "-")
    )


def load_settings(
    flags: Mapping[str, object] | None = None,
    *,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings of this start.

    Args:
        flags: Values given on the command line, by setting name; None values were not given.
        config: TOML file; else `OLLASWARM_CONFIG`, else `config.toml` in the data folder if there is one.
        environment: For tests; else the process's.
    Raises:
        ConfigError: Unknown name or unusable value; says which, where it was set, and what comes close.
    """
    environment = os.environ if environment is None else environment
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    variables = _from_environment(environment)
    explicit = config or (Path(environment[CONFIG_VARIABLE]).expanduser() if environment.get(CONFIG_VARIABLE) else None)
    data_dir = Path(str(given.get("data_dir") or variables.get("data_dir") or default_data_dir())).expanduser()
    file = explicit or DataPaths(data_dir).config
    from_file = _from_file(file, must_exist=explicit is not None)
    if explicit is None and "data_dir" in from_file:
        raise ConfigError(
            f"data_dir is set in {file}, which is read because it lies in the data folder.",
            "Remove it there; choose the folder with --data-dir, OLLASWARM_DATA_DIR or a file given with --config.",
        )
    values: dict[str, object] = {}
    origin: dict[str, str] = {}
    for source, layer in ((str(file), from_file), ("the environment", variables), ("the command line", given)):
        values |= layer
        origin |= dict.fromkeys(layer, source)
    if "ollama" not in values and environment.get("OLLAMA_HOST", "").strip():
        values["ollama"], origin["ollama"] = environment["OLLAMA_HOST"], "OLLAMA_HOST"
    return _validated(values, origin)


def _validated(values: dict[str, object], origin: dict[str, str]) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = str(first["loc"][0])
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{name} in {origin[name]} cannot be used: {reason}.") from None


def _from_file(file: Path, *, must_exist: bool) -> dict[str, object]:
    try:
        with file.open("rb") as opened:
            found = tomllib.load(opened)
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(
                f"The settings file {file} does not exist.", "Check the path given with --config."
            ) from None
        return {}
    except OSError as error:
        raise ConfigError(f"The settings file {file} cannot be read: {error.strerror or error}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The settings file {file} is not valid TOML: {error}.") from None
    for name in found:
        if name not in Settings.model_fields:
            raise ConfigError(f"{file} sets {name!r}, which is not a setting.{_nearest(name, cutoff=0.5)}")
    return found


def _from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    """Values from `OLLASWARM_*`. A variable that resembles no setting is left alone: it may be another program's."""
    found: dict[str, object] = {}
    for variable, value in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == CONFIG_VARIABLE:
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name in Settings.model_fields:
            if value:
                found[name] = value
        elif nearest := _nearest(name, cutoff=0.8):
            raise ConfigError(f"The variable {variable} is not a setting.{nearest}")
    return found


def _nearest(name: str, *, cutoff: float) -> str:
    near = difflib.get_close_matches(name.lower().replace("-", "_"), Settings.model_fields, n=1, cutoff=cutoff)
    return f" Did you mean {near[0]}?" if near else ""
