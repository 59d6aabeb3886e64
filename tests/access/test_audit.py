"""The audit log: whole lines from many writers, bounded, private, and not to be pushed out by strangers."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from localfoundry.access import audit
from localfoundry.access.audit import Audit


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "audit.log").read_text().splitlines()]


def test_a_line_says_when_and_what(tmp_path: Path) -> None:
    Audit(tmp_path / "logs").record("key created", by="owner", key="a", model=None, path="x" * 5000)
    (line,) = lines(tmp_path / "logs")
    assert str(line.pop("time")).endswith("+00:00")
    assert line == {"action": "key created", "by": "owner", "key": "a", "path": "x" * 300}
    assert (tmp_path / "logs" / "audit.log").stat().st_mode & 0o777 == 0o600


def test_many_writers_and_the_rotation_lose_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_BYTES", 2000)
    monkeypatch.setattr(audit, "KEPT", 50)

    def write(who: int) -> None:
        one = Audit(tmp_path)
        for n in range(20):
            one.record("x", by=f"{who}-{n}")

    work = [threading.Thread(target=write, args=(n,)) for n in range(5)]
    for one in work:
        one.start()
    for one in work:
        one.join()
    seen = [json.loads(line)["by"] for file in tmp_path.glob("audit.log*") for line in file.read_text().splitlines()]
    assert sorted(seen) == sorted(f"{who}-{n}" for who in range(5) for n in range(20))
    assert all(file.stat().st_size < 2200 for file in tmp_path.glob("audit.log*"))


def test_only_so_many_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_BYTES", 100)
    one = Audit(tmp_path)
    for n in range(30):
        one.record("x", by=str(n))
    assert len(list(tmp_path.glob("audit.log*"))) == audit.KEPT + 1
    assert lines(tmp_path)[-1]["by"] == "29"


def test_strangers_cannot_push_out_what_happened(tmp_path: Path) -> None:
    """Whoever may not do anything could once write a line each time, until the rotation had removed the rest."""
    one = Audit(tmp_path)
    for _ in range(1000):
        one.refused(by="nobody", status=401)
    assert [line["action"] for line in lines(tmp_path)] == ["refused"]
    one._told -= 60
    one.refused(by="nobody", status=401)
    assert lines(tmp_path)[-1]["count"] == 1000


def test_a_disk_that_says_no_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    Audit(tmp_path / "file" / "logs").record("x")
    assert "audit log" in caplog.text
