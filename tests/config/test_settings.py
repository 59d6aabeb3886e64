"""Settings: who wins, who is blamed, and a file that is replaced whole or not at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry import config
from localfoundry.errors import DiskError, InvalidSetting


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "settings"
    folder.mkdir()
    return folder


def env(home: Path, **names: str) -> dict[str, str]:
    return {"FOUNDRY_HOME": str(home)} | names


def write(home: Path, text: str) -> None:
    (home / "settings.json").write_text(text)


def test_flag_over_environment_over_file_over_default(home: Path) -> None:
    assert config.load({}, env(home)).port == 8000
    write(home, '{"port": 1111}')
    assert config.load({}, env(home)).port == 1111
    assert config.load({}, env(home, FOUNDRY_PORT="2222")).port == 2222
    assert config.load({"port": 3333}, env(home, FOUNDRY_PORT="2222")).port == 3333
    assert config.load({"port": None}, env(home, FOUNDRY_PORT="2222")).port == 2222
    assert config.load({}, env(home, FOUNDRY_PORT="")).port == 1111


@pytest.mark.parametrize(
    ("overrides", "environ", "file", "blamed"),
    [
        ({"port": 70000}, {}, "{}", ("port", "70000", "the command line")),
        ({}, {"FOUNDRY_PORT": "http"}, "{}", ("port", "'http'", "FOUNDRY_PORT")),
        ({}, {}, '{"port": "x"}', ("port", "'x'", "settings.json")),
        ({}, {}, '{"port": true}', ("port", "True", "settings.json")),
        ({}, {"FOUNDRY_HOST": "http://localhost"}, "{}", ("host", "http://localhost", "FOUNDRY_HOST")),
        ({}, {"FOUNDRY_ALLOWED_ORIGINS": "*"}, "{}", ("allowedOrigins", "'*'", "FOUNDRY_ALLOWED_ORIGINS")),
        ({}, {}, '{"allowedOrigins": ["https://a.example/"]}', ("allowedOrigins", "a.example/", "settings.json")),
        ({}, {"FOUNDRY_ALLOWED_HOSTS": "a.example:80"}, "{}", ("allowedHosts", "a.example:80")),
        ({}, {"FOUNDRY_ALLOWED_SOURCES": "file"}, "{}", ("allowedSources", "'file'")),
        ({}, {"FOUNDRY_REQUIRE_KEY": "never"}, "{}", ("requireKey", "'never'")),
        ({}, {"FOUNDRY_OFFLINE": "maybe"}, "{}", ("offline", "maybe", "FOUNDRY_OFFLINE")),
        ({"log_level": "loud"}, {}, "{}", ("defaultLogLevel", "loud", "the command line")),
        ({}, {}, '{"cacheDirectoryPath": 7}', ("cacheDirectoryPath", "7", "settings.json")),
        ({}, {}, '{"llamaServer": ["a"]}', ("llamaServer", "['a']", "settings.json")),
        ({}, {}, '{"prot": 1}', ("'prot'", "settings.json")),
        ({}, {}, "[1]", ("list", "settings.json")),
        ({}, {}, "{", ("not JSON", "settings.json")),
    ],
)
def test_a_wrong_value_names_key_value_and_source(
    home: Path, overrides: dict[str, object], environ: dict[str, str], file: str, blamed: tuple[str, ...]
) -> None:
    write(home, file)
    with pytest.raises(InvalidSetting) as caught:
        config.load(overrides, env(home, **environ))
    for word in blamed:
        assert word in caught.value.message


def test_a_settings_file_that_is_no_text_is_named(home: Path) -> None:
    """Bytes that are not UTF-8 once ended in a traceback."""
    (home / "settings.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(InvalidSetting, match=r"settings\.json"):
        config.load({}, env(home))


def test_a_settings_file_that_is_a_folder_is_named(home: Path) -> None:
    (home / "settings.json").mkdir()
    with pytest.raises(InvalidSetting, match=r"settings\.json"):
        config.load({}, env(home))


@pytest.mark.parametrize("word", ["1", "true", "YES", "on"])
def test_offline_as_the_hub_library_spells_it(home: Path, word: str) -> None:
    assert config.load({}, env(home, HF_HUB_OFFLINE=word)).offline
    assert config.load({}, env(home, FOUNDRY_OFFLINE=word)).offline


def test_paths_are_absolute_and_know_the_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    assert config.load({"cache_dir": "models-here"}, env(home)).models_dir == home / "models-here"
    assert config.load({"cache_dir": "~/there"}, env(home)).models_dir == home / "there"
    assert config.load({}, env(home)).models_dir == home / "models"


def test_every_option_is_documented_and_distinct() -> None:
    options = config.options()
    for name in ("key", "env"):
        assert len({o.metadata[name] for o in options}) == len(options)
    assert all(o.metadata["env"].startswith("FOUNDRY_") for o in options)
    assert all(o.metadata["help"].endswith(".") for o in options)


def test_saving_changes_what_is_named_and_keeps_the_rest(home: Path) -> None:
    file = home / "settings.json"
    config.save(file, {"port": 5273, "cache_dir": home / "m"})
    config.save(file, {"log_level": "debug"})
    document = {"port": 5273, "cacheDirectoryPath": str(home / "m"), "defaultLogLevel": "debug"}
    assert json.loads(file.read_text()) == document
    config.save(file, {"port": None})
    assert "port" not in json.loads(file.read_text())
    assert [p.name for p in home.iterdir() if p.is_file()] == ["settings.json"]


def test_a_bad_value_is_refused_and_the_file_stays(home: Path) -> None:
    file = home / "settings.json"
    config.save(file, {"port": 5273})
    before = file.read_bytes()
    with pytest.raises(InvalidSetting):
        config.save(file, {"model_ttl_s": 5, "port": 99999})
    assert file.read_bytes() == before
    assert [p.name for p in home.iterdir() if p.is_file()] == ["settings.json"]


def test_a_file_that_cannot_be_written_is_a_disk_error(home: Path) -> None:
    (home / "file").write_text("")
    with pytest.raises(DiskError, match=r"settings\.json"):
        config.save(home / "file" / "settings.json", {"port": 1})


def test_an_interrupted_save_leaves_the_old_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home / "settings.json"
    config.save(file, {"port": 5273})
    before = file.read_bytes()

    def fail(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DiskError):
        config.save(file, {"port": 1})
    assert file.read_bytes() == before


def test_settings_cannot_be_changed(home: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.load({}, env(home)).port = 1  # type: ignore[misc]


@given(st.integers() | st.text() | st.booleans() | st.none() | st.floats() | st.lists(st.integers()))
def test_any_value_of_any_kind_is_taken_or_refused(value: object) -> None:
    """Whatever stands in the file, the answer is a setting or InvalidSetting, never another error."""
    for option in config.options():
        try:
            config.load({option.name: value}, {})
        except InvalidSetting as exc:
            assert option.metadata["key"] in exc.message
