"""`foundry compare` as it is typed: real services with fake models, and an endpoint that is not ours."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil

from bench.clock_server import ClockServer, Script
from harness import Foundry, private_services
from localfoundry import config
from localfoundry.bench.candidates import Candidate
from localfoundry.cli.bench_local import Loaded
from localfoundry.cli.compare_services import Services
from localfoundry.config import profiles
from localfoundry.config.profiles import Profile
from localfoundry.errors import InsufficientMemory
from localfoundry.results import place
from localfoundry.results.db import Results
from localfoundry.service.tuned import sha256_of
from localfoundry.store.store import Store

QUICK = ("--rounds", "3", "--max-tokens", "12")


def test_models_are_measured_compared_reported_and_not_measured_twice(
    foundry: Foundry, fake_model: Callable[..., str], tmp_path: Path
) -> None:
    fake_model("one", tokens_per_second=400)
    fake_model("two", tokens_per_second=60)
    page, table = tmp_path / "out.html", tmp_path / "out.csv"
    line = ("compare", "one", "two", *QUICK, "--eval", "--items", "2")
    first = foundry.ok(*line, "--report", str(page), "--csv", str(table), "--md", str(tmp_path / "out.md"))
    assert "Model Comparison Results:" in first.out
    assert "Recommendation for development: one: of 2 measured it is shown to answer faster" in first.out
    assert "two has " in first.out and "times the answer time of one" in " ".join(first.out.split())
    assert "Recommendation for production: no winner" in " ".join(first.out.split())
    assert page.read_text().count("<svg") >= 3
    assert "latency_s" in table.read_text()
    again = foundry.ok(*line, "--json")
    assert "measured already" in again.err
    document = again.json
    assert [run["kind"] for run in document["runs"]] == ["bench", "eval"]
    assert document["recommendations"][0]["development"]["label"] == "one"
    with Results(config.load().home / "results.db") as results:
        assert len(results.runs()) == 2
    # The runs are those of `foundry bench`, and can be read from any time.
    runs = [run["id"] for run in document["runs"]]
    told = foundry.ok("compare", "--from", runs[0], "--from", runs[1], "--json").json
    assert told["recommendations"] == document["recommendations"]
    assert foundry.ok("bench", "show", runs[0]).code == 0


def test_items_that_were_not_answered_are_asked_and_the_others_are_not(
    foundry: Foundry, fake_model: Callable[..., str]
) -> None:
    """A comparison that was cut short goes on with the next one like it, in the same run."""
    fake_model("one", tokens_per_second=400)
    fake_model("two", tokens_per_second=400)
    line = ("compare", "one", "two", *QUICK, "--eval", "--items", "2", "--json")
    [_, answered] = foundry.ok(*line).json["runs"]
    path = config.load().home / "results.db"
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE run SET status = 'interrupted' WHERE id = ?", (answered["id"],))
        file.execute("DELETE FROM item WHERE label = 'two' AND rowid = (SELECT max(rowid) FROM item)")
        before = dict(file.execute("SELECT label || item, raw FROM item"))
    assert len(before) == 3
    [_, again] = foundry.ok(*line).json["runs"]
    assert (again["id"], again["status"]) == (answered["id"], "finished")
    with closing(sqlite3.connect(path)) as file:
        after = dict(file.execute("SELECT label || item, raw FROM item"))
    assert len(after) == 4 and before.items() <= after.items()


def test_versions_of_a_model_are_compared_by_their_numbers(foundry: Foundry, fake_model: Callable[..., str]) -> None:
    fake_model("one", tokens_per_second=400)
    fake_model("one", tokens_per_second=60)
    document = foundry.ok("compare", "one@v1", "one:2", *QUICK, "--json").json
    rows = {row["label"]: row["model_id"] for row in document["candidates"]}
    assert rows == {"one@v1": "one:1", "one:2": "one:2"}
    assert len({row["file_sha256"] for row in document["candidates"]}) == 2
    gone = foundry("compare", "one@v1", "one@v7", *QUICK)
    assert (
        gone.code != 0 and "one has no version 7 on this disk" in gone.err and "foundry model versions one" in gone.err
    )
    twice = foundry("compare", "one@v2", "one:2", *QUICK)
    assert twice.code == 2 and "are the same candidate" in twice.err


def test_one_model_is_compared_with_itself_in_other_settings(foundry: Foundry, fake_model: Callable[..., str]) -> None:
    """Each setting is loaded in a service of its own, which is gone when the comparison ends."""
    fake_model("one", tokens_per_second=400)
    document = foundry.ok("compare", "one", "one@ctx=1024", "one@ctx=768", *QUICK, "--json").json
    contexts = {row["label"]: row["context"] for row in document["candidates"]}
    assert contexts["one@ctx=1024"] == 1024 and contexts["one@ctx=768"] == 768
    assert contexts["one"] not in (768, 1024)
    assert [row["rounds"] for row in document["results"]] == [3, 3, 3]
    assert private_services() == []


def test_a_tuned_model_is_compared_with_itself_as_it_was_before(
    foundry: Foundry, fake_model: Callable[..., str]
) -> None:
    fake_model("one", tokens_per_second=400)
    given = config.load()
    store = Store(given.models_dir)
    [manifest] = store.manifests()
    refused = foundry("compare", "one@tuned=no", "one", *QUICK)
    assert (
        refused.code == 2 and "one has no profile on this machine" in refused.err and "foundry tune one" in refused.err
    )
    profiles.save(given.home, Profile(
        machine=place.machine_id(), sha256=sha256_of(store, manifest), purpose="chat", model=manifest.id,
        tuned_at="2026-11-23T10:00:00+00:00", engine="fake", engine_version="1", ratio=1.5, low=1.4, high=1.6,
        arguments=("--threads", "2"),
    ))  # fmt: skip
    document = foundry.ok("compare", "one@tuned=no", "one", *QUICK, "--json").json
    versions = {row["label"]: row["engine_version"] for row in document["candidates"]}
    assert versions["one"].endswith("--threads 2") and "--threads" not in versions["one@tuned=no"]


def test_a_candidate_that_fails_is_a_row_and_the_others_are_compared(
    foundry: Foundry, fake_model: Callable[..., str]
) -> None:
    fake_model("one", tokens_per_second=400)
    fake_model("two", tokens_per_second=60)
    fake_model("broken", fail_load="no such tensor")
    done = foundry.ok("compare", "one", "broken", "two", *QUICK)
    assert "broken:            failed:" in done.out
    words = " ".join(done.out.split("Recommendation for development: ")[1].split("Recommendation for")[0].split())
    # Three rounds on a busy machine do not show even this difference.
    assert words.startswith(("one: of 2 measured", "no winner: one and two are")), done.out
    assert "broken" not in words


def test_models_that_do_not_fit_together_are_compared_one_after_the_other(
    foundry: Foundry, fake_model: Callable[..., str]
) -> None:
    """In turns each request loaded its model anew, and the seconds of that were told as the time of an answer."""
    most = int(psutil.virtual_memory().available * 0.6)
    for name in ("first", "second"):
        fake_model(name, memory_bytes=most, takes_bytes=most, tokens_per_second=400)
    done = foundry.ok("compare", "first", "second", *QUICK, "--eval", "--items", "2", "--json")
    assert "was measured after the others and not in turns" in done.err
    assert [row["rounds"] for row in done.json["results"]] == [3, 3]
    log = (config.load().home / "logs" / "service.log").read_text()
    assert log.count("INFO localfoundry.service.service: loaded ") <= 5, "two to try, one to measure, two for the items"
    with Results(config.load().home / "results.db") as results:
        bench, asked = (results.run(run["id"]) for run in done.json["runs"])
        labels = [row.label for row in results.samples(bench.id)]
        items = [(row.label, json.loads(row.raw)["error"]) for row in results.items(asked.id)]
    assert labels == ["second"] * 3 + ["first"] * 3
    assert sorted(items) == [("first", None)] * 2 + [("second", None)] * 2
    assert items[0][0] == items[1][0], "and so are items"


async def test_another_services_models_go_where_one_has_no_room() -> None:
    """Each setting of a model has a service of its own, and none can unload what another one holds."""
    loads: list[str] = []

    class Held(Loaded):
        def __init__(self, name: str, others: list[Held]) -> None:
            self.name, self.others = name, others
            self.accounts = {}
            others.append(self)

        async def load(self, candidate: Candidate) -> float:
            await self.ready(candidate, retain=False)
            return 1.0

        async def ready(self, candidate: Candidate, *, retain: bool) -> None:
            if any(other.accounts for other in self.others if other is not self):
                raise InsufficientMemory("it does not fit")
            loads.append(self.name)
            self.accounts[candidate.model] = {"id": candidate.model}

        async def resident(self) -> set[str]:
            return set(self.accounts)

        async def unload(self) -> None:
            self.accounts.clear()

    every: list[Held] = []
    services = Services({"m": Held("usual", every), "m@ctx=512": Held("own", every)}, {"m": "m", "m@ctx=512": "m"})
    usual, own = Candidate("m", "m"), Candidate("m@ctx=512", "m", settings={"context": 512})
    await services.load(usual)
    assert await services.load(own) == 1.0
    assert await services.resident() == {"m@ctx=512"}
    await services.ready(usual, alone=True)
    assert await services.resident() == {"m"}
    assert loads == ["usual", "own", "usual"]


async def test_an_endpoint_stands_in_the_same_table_with_its_costs(
    foundry: Foundry, fake_model: Callable[..., str], tmp_path: Path
) -> None:
    await asyncio.to_thread(fake_model, "one", tokens_per_second=400)
    async with ClockServer({"cloud": Script(ttft_s=0.02, gap_s=0.001)}).running() as server:
        line = ("compare", "one", "--endpoint", server.url, "--model", "cloud", "--price-in", "1", "--price-out", "2")
        done = await asyncio.to_thread(foundry.ok, *line, *QUICK)
    assert "cloud@127.0.0.1" in done.out and "Cost/1,000" in done.out


def test_what_cannot_be_compared_is_refused_before_anything_is_measured(
    foundry: Foundry, fake_model: Callable[..., str], tmp_path: Path
) -> None:
    fake_model("one")
    fake_model("two")
    for line, words in (
        (("one",), "1 candidates; a comparison needs at least 2"),
        (("one", "one"), "are the same candidate"),
        (("one@ctx=512", "one@ctx=512,ctx=512"), "are the same candidate"),
        (("one", "one@ctx=many"), "'ctx=many' is no setting"),
        (("one", "two", "--from", "last"), "either models are measured or runs are read"),
        (("--from", "nothing"), "no run is called 'nothing'"),
        (("one", "two", "--report", str(tmp_path / "absent" / "x.html")), "there is no folder"),
        (("one", "two", "--concurrency", "many"), "a list such as 1,2,4"),
    ):
        done = foundry("compare", *line)
        assert done.code != 0 and words in done.err, (line, done.err)
    assert foundry.ok("bench", "list").out == ""
