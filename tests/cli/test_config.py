"""`foundry config`: read, changed, listed, edited; what is wrong is refused and nothing is lost."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness import Foundry
from localfoundry import config


def document() -> Any:
    return json.loads(config.load().file.read_text(encoding="utf-8"))


def write(text: str) -> Path:
    file = config.load().file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def editor(folder: Path, script: str) -> dict[str, str]:
    """An editor that runs a Python script with the file as its argument."""
    program = folder / "an editor"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\nfile = Path(sys.argv[-1])\n{script}\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"VISUAL": f"'{program}' --wait"}


def test_alone_it_prints_what_is_in_force(foundry: Foundry) -> None:
    assert foundry.ok("config").json == foundry.ok("service", "set", "--show").json
    assert foundry.ok("config", "--json").json == foundry.ok("config", "-o", "json").json


def test_set_get_and_unset(foundry: Foundry) -> None:
    assert foundry.ok("config", "set", "contextLength", "4096").out == "contextLength = 4096\n"
    assert foundry.ok("config", "get", "context_length").out == "4096\n"
    assert foundry.ok("config", "get", "contextLength", "--json").json == 4096
    foundry.ok("config", "set", "offline=true", "log-level=debug")
    assert document() == {"contextLength": 4096, "offline": True, "defaultLogLevel": "debug"}
    assert foundry.ok("config", "set", "--unset", "contextLength", "--unset", "offline").out.splitlines() == [
        "contextLength = 0", "offline = false",
    ]  # fmt: skip
    assert document() == {"defaultLogLevel": "debug"}
    assert foundry.ok("config", "path").out.strip() == str(config.load().file)


def test_choices_for_a_model(foundry: Foundry) -> None:
    """A name may hold dots; a value may begin with a minus; lists are JSON or words."""
    foundry.ok("config", "set", "models.qwen2.5-7b.presencePenalty", "-1.5")
    foundry.ok("config", "set", "models.qwen2.5-7b.engineArguments=--threads 4", "models.qwen2.5-7b.keep_state=yes")
    foundry.ok("config", "set", "models.Qwen2.5-7B.stop", '["a b", "\\n"]')
    chosen = {"presencePenalty": -1.5, "engineArguments": ["--threads", "4"], "keepState": True, "stop": ["a b", "\n"]}
    assert document() == {"models": {"qwen2.5-7b": chosen}}
    shown = foundry.ok("config", "get", "models.qwen2.5-7b").json
    assert shown == chosen
    assert foundry.ok("config", "get", "models").json == {"qwen2.5-7b": chosen}
    assert foundry.ok("config").json["models"] == {"qwen2.5-7b": chosen}
    assert foundry.ok("config", "get", "models.qwen2.5-7b.stop", "--json").json == ["a b", "\n"]
    foundry.ok("config", "set", *(word for key in chosen for word in ("--unset", f"models.qwen2.5-7b.{key}")))
    assert document() == {}


def test_what_is_chosen_is_in_model_info(foundry: Foundry, fake_model: Callable[..., str]) -> None:
    """Under the alias and the id together, as a request would get it."""
    alias = fake_model("fake")
    assert foundry.ok("model", "info", alias, "--json").json["chosen"] == {}
    foundry.ok("config", "set", f"models.{alias}.temperature=0.5", f"models.{alias}.ttl=60", f"models.{alias}:1.ttl=0")
    assert foundry.ok("model", "info", alias, "--json").json["chosen"] == {"ttl": 0, "temperature": 0.5}
    assert "ttl 0, temperature 0.5" in foundry.ok("model", "info", alias).out


def test_a_model_of_no_known_name_is_noted(foundry: Foundry) -> None:
    assert "no model is called phi-5" in foundry.ok("config", "set", "models.phi-5.ttl", "0").err
    assert foundry.ok("config", "set", "models.phi-4-mini.ttl", "0").err == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["get", "prot"], ("'prot'", "did you mean: port,")),
        (["set", "prot", "1"], ("'prot'", "did you mean: port,")),
        (["set", "port", "http"], ("port", "'http'", "a whole number")),
        (["set", "models.phi-4-mini.temperature", "9"], ("models.phi-4-mini.temperature", "'9'", "from 0 to 2")),
        (["set", "models.phi-4-mini.temprature", "1"], ("models.phi-4-mini.temprature", "temperature")),
        (["set", "models.phi-4-mini.engineArguments", "--host 0.0.0.0"], ("--host", "may not be used")),
        (["set", "home", "/elsewhere"], ("home", "FOUNDRY_HOME")),
        (["set", "models.\udc80.ttl", "1"], ("not Unicode text",)),
        (["set", "port"], ("'port' is not KEY=VALUE",)),
        (["set", "--prot=1", "port=1"], ("'--prot=1' is not KEY=VALUE",)),
        (["set"], ("nothing to set", "foundry config set KEY VALUE")),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(
    foundry: Foundry, words: list[str], said: tuple[str, ...]
) -> None:
    done = foundry("config", *words)
    assert done.code == 2
    for word in said:
        assert word in done.err
    assert not config.load().file.exists()


def test_list_says_where_a_value_comes_from(foundry: Foundry) -> None:
    foundry.ok("config", "set", "contextLength=4096", "models.phi-4-mini.temperature=0.2")
    rows = {row["key"]: row for row in foundry.ok("config", "list", "--json").json}
    assert rows["contextLength"]["source"] == "file"
    assert (
        rows["contextLength"] | {"value": 4096, "unit": "tokens", "takes_effect": "next load"} == rows["contextLength"]
    )
    assert rows["port"]["source"] == "environment"
    assert rows["maxBodyBytes"]["source"] == "default"
    assert rows["models.phi-4-mini.temperature"]["value"] == 0.2
    assert set(rows) > {option.metadata["key"] for option in config.options()}
    assert "contextLength" in foundry.ok("config", "list").out


def test_what_wins_over_the_file_is_said(foundry: Foundry) -> None:
    done = foundry.ok("config", "set", "port", "5273")
    assert done.out == "port = 0\n"
    assert "FOUNDRY_PORT in the environment wins" in done.err


def test_many_sets_at_once_lose_none(foundry: Foundry) -> None:
    """Each reads the file, changes it and writes it: without a lock the last writer took the others' changes away."""
    changes = {"contextLength": 512, "parallelRequests": 3, "maxBodyBytes": 5000, "downloadConnections": 2}
    changes |= {f"models.m{number}.ttl": number for number in range(4)}
    with ThreadPoolExecutor(len(changes)) as pool:
        done = list(pool.map(lambda change: foundry("config", "set", change[0], str(change[1])), changes.items()))
    assert [one.code for one in done] == [0] * len(changes)
    found = document()
    assert found.pop("models") == {f"m{number}": {"ttl": number} for number in range(4)}
    assert found == {key: value for key, value in changes.items() if not key.startswith("models")}


def test_edit_replaces_the_file_with_what_was_written(foundry: Foundry, tmp_path: Path) -> None:
    write('{"contextLength": 4096}')
    env = editor(tmp_path, "file.write_text(file.read_text().replace('4096', '2048'))")
    assert "saved" in foundry.ok("config", "edit", env=env).out
    assert document() == {"contextLength": 2048}
    assert "nothing was changed" in foundry.ok("config", "edit", env=editor(tmp_path, "")).out
    assert [p.name for p in config.load().home.iterdir() if p.is_file()] == ["settings.json"]


def test_edit_without_a_file_begins_with_an_empty_one(foundry: Foundry, tmp_path: Path) -> None:
    foundry.ok("config", "edit", env=editor(tmp_path, "assert file.read_text() == '{\\n}\\n'"))
    assert not config.load().file.exists()
    foundry.ok("config", "edit", env=editor(tmp_path, """file.write_text('{"offline": true}')"""))
    assert document() == {"offline": True}


def test_a_text_that_is_wrong_is_refused_and_kept(foundry: Foundry, tmp_path: Path) -> None:
    file = write('{"contextLength": 4096}')
    done = foundry("config", "edit", env=editor(tmp_path, """file.write_text('{"contextLength": -7}')"""))
    assert done.code == 2
    for word in ("contextLength", "-7", "a whole number", "settings.edited.json"):
        assert word in done.err
    assert document() == {"contextLength": 4096}
    assert file.with_name("settings.edited.json").read_text() == '{"contextLength": -7}'
    again = foundry.ok("config", "edit", env=editor(tmp_path, "file.write_text(file.read_text().replace('-7', '7'))"))
    assert "going on with the text from last time" in again.err
    assert document() == {"contextLength": 7}
    assert not file.with_name("settings.edited.json").exists()


def test_a_file_that_changed_while_it_was_edited_is_not_overwritten(foundry: Foundry, tmp_path: Path) -> None:
    file = write('{"contextLength": 4096}')
    script = f"""file.write_text('{{"offline": true}}'); Path({str(file)!r}).write_text('{{"port": 1}}')"""
    done = foundry("config", "edit", env=editor(tmp_path, script))
    assert done.code == 2
    assert "changed by somebody else" in done.err
    assert document() == {"port": 1}
    assert file.with_name("settings.edited.json").exists()


@pytest.mark.parametrize(
    ("environment", "said"),
    [({"VISUAL": "no-such-editor"}, "not a program here"), ({"EDITOR": "false"}, "ended with status 1")],
)
def test_an_editor_that_fails_changes_nothing(foundry: Foundry, environment: dict[str, str], said: str) -> None:
    write('{"offline": true}')
    done = foundry("config", "edit", env=environment)
    assert done.code == 2
    assert said in done.err
    assert document() == {"offline": True}


def test_edit_mends_a_file_that_is_not_valid(foundry: Foundry, tmp_path: Path) -> None:
    """With a file that nothing can load, the command that mends it must still work."""
    write('{"port": ')
    foundry.ok("config", "edit", env=editor(tmp_path, """file.write_text('{"port": 5}')"""))
    assert document() == {"port": 5}


def test_a_key_that_stands_twice_is_refused(foundry: Foundry) -> None:
    """JSON readers take the last one in silence, which is seldom the one that was meant."""
    file = write('{"port": 1, "port": 2}')
    assert "'port' twice" in foundry("config", "get", "port").err
    file.unlink()


def test_a_settings_file_in_a_folder_without_permission(foundry: Foundry, isolated: Path) -> None:
    (isolated / "file").write_text("")
    done = foundry("config", "set", "port", "1", env={"FOUNDRY_HOME": str(isolated / "file" / "x")})
    assert done.code == 4
    assert "cannot write" in done.err
    assert os.environ["FOUNDRY_HOME"] not in done.err
