"""Settings: one frozen object, each option declared once.

The flag of `service set`, the environment name, the key in `settings.json` and the row in docs/settings.md all come
from the declaration below. Order of precedence: flag, environment, file, default. A wrong value stops the start and
names key, value and source. Our own code and not a settings library: the ones made for this import a validation
framework that costs more start-up time and memory than the rest of the command line together.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localfoundry.errors import DiskError, InvalidSetting


def _integer(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(f"a whole number from {low} to {high}")
        try:
            number = int(value)
        except ValueError:
            raise ValueError(f"a whole number from {low} to {high}") from None
        if not low <= number <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return number

    return parse


def _boolean(value: object) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise ValueError("true or false")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text")
    return value


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value).strip():
        raise ValueError("a path")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError:  # `~name` of nobody
        raise ValueError("a path") from None


def _optional_path(value: object) -> Path | None:
    return None if value in (None, "") else _path(value)


def _loopback(value: object) -> str:
    if value not in ("127.0.0.1", "localhost", "::1"):
        raise ValueError("127.0.0.1, localhost or ::1 (other addresses need API keys, which this version lacks)")
    return str(value)


def _level(value: object) -> str:
    levels = ("trace", "debug", "information", "warning", "error")
    if isinstance(value, str) and value.lower() in levels:
        return value.lower()
    raise ValueError("one of " + ", ".join(levels))


def _one_of(*words: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if isinstance(value, str) and value.lower() in words:
            return value.lower()
        raise ValueError("one of " + ", ".join(words))

    return parse


def _collector(value: object) -> str:
    """`auto`, `off`, or the address of a collector."""
    if isinstance(value, str):
        if value.lower() in ("auto", "off"):
            return value.lower()
        if value.startswith(("http://", "https://")) and value.partition("://")[2].strip("/"):
            return value
    raise ValueError("auto, off, or an address such as http://127.0.0.1:4318")


def option(default: Any, key: str, env: str, parse: Callable[[object], Any], help: str, unit: str = "") -> Any:
    """Declare one setting: its key in `settings.json`, its environment name, how it is read and what it means."""
    metadata = {"key": key, "env": env, "parse": parse, "help": help, "unit": unit}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def _home() -> Path:
    return Path("~/.localfoundry").expanduser()


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a person can choose. Made by `load`; passed down, never looked up."""

    home: Path = option(
        _home, "home", "FOUNDRY_HOME", _path, "Folder for settings, logs, state and (by default) models."
    )
    cache_dir: Path | None = option(
        None,
        "cacheDirectoryPath",
        "FOUNDRY_CACHE_DIR",
        _optional_path,
        "Folder that holds the models; `<home>/models` when not set.",
    )
    host: str = option("127.0.0.1", "host", "FOUNDRY_HOST", _loopback, "Address the service listens on.")
    port: int = option(
        8000, "port", "FOUNDRY_PORT", _integer(0, 65535), "Port the service listens on; 0 picks a free one."
    )
    model_ttl_s: int = option(
        600,
        "defaultSecondsForModelTTL",
        "FOUNDRY_MODEL_TTL",
        _integer(0, 31_536_000),
        "Unload a model that was idle for so long; 0 never.",
        "seconds",
    )
    idle_timeout_s: int = option(
        0,
        "idleTimeoutSeconds",
        "FOUNDRY_IDLE_TIMEOUT",
        _integer(0, 31_536_000),
        "Stop the service after so long without a request; 0 never.",
        "seconds",
    )
    context_length: int = option(
        0,
        "contextLength",
        "FOUNDRY_CONTEXT_LENGTH",
        _integer(0, 10_000_000),
        "Context to load models with; 0 takes the model's own, at most 8192.",
        "tokens",
    )
    parallel: int = option(
        8,
        "parallelRequests",
        "FOUNDRY_PARALLEL",
        _integer(1, 256),
        "Requests one model answers at the same time, sharing its context memory.",
    )
    load_timeout_s: int = option(
        600,
        "loadTimeoutSeconds",
        "FOUNDRY_LOAD_TIMEOUT",
        _integer(1, 86_400),
        "Give up on a model that is not ready by then.",
        "seconds",
    )
    drain_timeout_s: int = option(
        10,
        "drainTimeoutSeconds",
        "FOUNDRY_DRAIN_TIMEOUT",
        _integer(0, 3600),
        "How long a stopping service waits for answers in flight.",
        "seconds",
    )
    max_body_bytes: int = option(
        32_000_000,
        "maxBodyBytes",
        "FOUNDRY_MAX_BODY_BYTES",
        _integer(1000, 2_000_000_000),
        "Largest request body that is read.",
        "bytes",
    )
    llama_server: str = option(
        "auto",
        "llamaServer",
        "FOUNDRY_LLAMA_SERVER",
        _text,
        "`auto` (one on the PATH, else the bundled worker), `bundled`, or a path.",
    )
    catalog_file: Path | None = option(
        None,
        "catalogFile",
        "FOUNDRY_CATALOG",
        _optional_path,
        "A catalog file whose models are added to the built-in ones, and win.",
    )
    offline: bool = option(
        False, "offline", "FOUNDRY_OFFLINE", _boolean, "Use no network; `HF_HUB_OFFLINE=1` does the same."
    )
    download_connections: int = option(
        4,
        "downloadConnections",
        "FOUNDRY_DOWNLOAD_CONNECTIONS",
        _integer(1, 16),
        "Connections to fetch one file with, where the server can deliver parts of it.",
    )
    memory_limit_bytes: int = option(
        0,
        "memoryLimitBytes",
        "FOUNDRY_MEMORY_LIMIT",
        _integer(0, 2**50),
        "Memory that models and all other processes may use together; 0 takes what the machine or container has.",
        "bytes",
    )
    memory_reserve_bytes: int = option(
        512_000_000,
        "memoryReserveBytes",
        "FOUNDRY_MEMORY_RESERVE",
        _integer(0, 2**50),
        "Memory that loads leave free.",
        "bytes",
    )
    retain_models: bool = option(
        False,
        "retainModels",
        "FOUNDRY_RETAIN_MODELS",
        _boolean,
        "Keep other models loaded, as far as memory allows, when another one is asked for.",
    )
    keep_state: bool = option(
        False,
        "keepState",
        "FOUNDRY_KEEP_STATE",
        _boolean,
        "Save a model's conversations to disk when it is unloaded for another one, and go on from there.",
    )
    queue_length: int = option(
        256,
        "queueLength",
        "FOUNDRY_QUEUE_LENGTH",
        _integer(1, 100_000),
        "Requests that may wait for one model; more are refused with status 429.",
    )
    queue_timeout_s: int = option(
        600,
        "queueTimeoutSeconds",
        "FOUNDRY_QUEUE_TIMEOUT",
        _integer(1, 86_400),
        "Refuse a request that has waited so long for its model, its load included.",
        "seconds",
    )
    hang_timeout_s: int = option(
        300,
        "hangTimeoutSeconds",
        "FOUNDRY_HANG_TIMEOUT",
        _integer(1, 86_400),
        "Replace a worker that has given no sign of life for so long.",
        "seconds",
    )
    log_level: str = option(
        "information", "defaultLogLevel", "FOUNDRY_LOG_LEVEL", _level, "What the service writes to its log."
    )
    log_format: str = option(
        "text",
        "logFormat",
        "FOUNDRY_LOG_FORMAT",
        _one_of("text", "json"),
        "Form of the service's log: `text` lines, or one `json` object a line.",
    )
    access_log: bool = option(
        False, "accessLog", "FOUNDRY_ACCESS_LOG", _boolean, "Write a line to the service's log for every request."
    )
    traces: str = option(
        "auto",
        "traces",
        "FOUNDRY_TRACES",
        _collector,
        "OpenTelemetry collector (OTLP over HTTP) that gets a trace of every request; `off`; or `auto`: the one that "
        "`OTEL_EXPORTER_OTLP_ENDPOINT` names, if it does. Needs `localfoundry[otel]`.",
    )

    @property
    def models_dir(self) -> Path:
        return self.cache_dir or self.home / "models"

    @property
    def run_dir(self) -> Path:
        return self.home / "run"

    @property
    def log_dir(self) -> Path:
        return self.home / "logs"

    @property
    def file(self) -> Path:
        return self.home / "settings.json"


def options() -> tuple[dataclasses.Field[Any], ...]:
    """Every declared option, in the order of the documentation."""
    return dataclasses.fields(Settings)


def load(overrides: Mapping[str, object] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from flags (`overrides`, by field name, None meaning not given), environment, file and defaults.

    Raises InvalidSetting naming key, value and source.
    """
    values: dict[str, Any] = {}
    by_field = {f.name: f for f in options()}
    home = _parse(by_field["home"], environ["FOUNDRY_HOME"], "FOUNDRY_HOME") if environ.get("FOUNDRY_HOME") else _home()
    values["home"] = home
    settings_file = home / "settings.json"
    for name, value in read_file(settings_file).items():
        values[name] = _parse(by_field[name], value, str(settings_file))
    for f in options():
        text = environ.get(f.metadata["env"])
        if text:
            values[f.name] = _parse(f, text, f.metadata["env"])
    if environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        values["offline"] = True
    for name, given in (overrides or {}).items():
        if given is not None:
            values[name] = _parse(by_field[name], given, "the command line")
    return Settings(**values)


def read_file(path: Path) -> dict[str, object]:
    """Raw values of `settings.json` by field name; empty where there is no file. Raises InvalidSetting."""
    try:
        raw = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as exc:
        raise InvalidSetting(f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidSetting(f"{path} is not UTF-8 text: {exc}", hint=f"correct or remove {path}") from exc
    try:
        document = json.loads(raw)
    except json.JSONDecodeError as exc:
        raise InvalidSetting(f"{path} is not JSON: {exc}", hint=f"correct or remove {path}") from exc
    keys = {f.metadata["key"]: f.name for f in options() if f.name != "home"}
    if not isinstance(document, dict):
        raise InvalidSetting(f"{path} holds {type(document).__name__}, not an object of settings")
    unknown = sorted(set(document) - set(keys))
    if unknown:
        raise InvalidSetting(f"{path} has the unknown key {unknown[0]!r}", hint="keys are listed in docs/settings.md")
    return {keys[key]: value for key, value in document.items()}


def save(path: Path, changes: Mapping[str, object]) -> None:
    """Change keys in `settings.json` (by field name; None removes) and replace the file in one step.

    Raises InvalidSetting for a value that could not be loaded again, DiskError where the file cannot be written.
    """
    by_field = {f.name: f for f in options()}
    values = read_file(path)
    for name, value in changes.items():
        if value is None:
            values.pop(name, None)
        else:
            parsed = _parse(by_field[name], value, "the command line")
            values[name] = str(parsed) if isinstance(parsed, Path) else parsed
    document = {by_field[name].metadata["key"]: value for name, value in values.items()}
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(document, indent=2) + "\n")
            stream.flush()
            os.fsync(stream.fileno())  # a power failure must not leave an empty file in place of the old settings
        temporary.replace(path)
    except OSError as exc:
        raise DiskError(
            f"cannot write {path}: {exc.strerror}", hint="set FOUNDRY_HOME to a folder you may write to"
        ) from exc


def _parse(f: dataclasses.Field[Any], value: object, source: str) -> Any:
    try:
        return f.metadata["parse"](value)
    except ValueError as exc:
        raise InvalidSetting(f"{f.metadata['key']} = {value!r} (from {source}) is not valid: expected {exc}") from None
