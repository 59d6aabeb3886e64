"""Does one thing to a store again and again, killed one step later each time: `kill_points.py OPERATION FOLDER`.

A step is a call that changes names on the disk or makes them last. After each kill the store must verify and be as
before or as after; then the same operation is done again and must end as if nothing had happened. Prints the number of
kills. One process that forks, because starting Python for each of some hundred steps would take minutes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from localfoundry import config
from localfoundry.config import Settings
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.store import move, refs, update
from localfoundry.store.pull import pull
from localfoundry.store.store import Store
from localfoundry.store.verify import verify
from tiny_gguf import tiny_gguf

STEPS = ("replace", "rename", "fsync", "unlink", "link", "rmdir", "mkdir", "truncate")
MOST_KILLS = 400


class World:
    """A home with a model of two versions and another with the same bytes as the second."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = folder.with_name("made")
        self.source = folder / "m.gguf"
        self.settings = config.load(environ={"FOUNDRY_HOME": str(folder / "home")})

    def make(self) -> None:
        """Pull it all the first time; then copy what that came to, with the same links, which takes a tenth as long."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if not self.made.exists():
            self.folder.mkdir(parents=True)
            self.add("m", 1)
            self.add("m", 2)
            self.add("twin", 2)
            self.folder.rename(self.made)
        copies: dict[int, str] = {}

        def copy(source: str, target: str) -> None:
            inode = Path(source).stat().st_ino
            if inode in copies:
                os.link(copies[inode], target)
            else:
                copies[inode] = shutil.copy2(source, target)

        shutil.copytree(self.made, self.folder, copy_function=copy)

    def add(self, name: str, seed: int) -> None:
        self.source.write_bytes(tiny_gguf(seed=seed))
        plan = PullPlan(name, None, name, f"file:{self.source}", "gguf",
                        (PlannedFile("m.gguf", local=self.source),))  # fmt: skip
        asyncio.run(pull(self.store, plan))

    @property
    def now(self) -> Settings:
        return config.load(environ={"FOUNDRY_HOME": str(self.settings.home)})

    @property
    def store(self) -> Store:
        return Store(self.now.models_dir)

    def meant(self) -> int:
        found = self.store.find("m")
        assert found is not None
        return found.version


def update_it(world: World) -> None:
    world.source.write_bytes(tiny_gguf(seed=3))
    found = world.store.find("m")
    assert found is not None

    async def work() -> None:
        asked = await update.ask(found, settings=world.now)
        if asked.state == "changed":
            await update.carry_out(world.store, asked)

    asyncio.run(work())


def remove_it(world: World) -> None:
    found = world.store.find("m:2")
    if found is not None:
        world.store.remove(found)


def roll_back(world: World) -> None:
    if world.meant() == 2:
        refs.rollback(world.store, "m")


def move_it(world: World, copy: bool = False) -> None:
    target = world.folder / "elsewhere"
    if world.store.root == target and not (target / "moving.json").exists():
        return
    plan = move.plan_move(world.store, target)
    if copy:
        plan = dataclasses.replace(plan, links=False)
    move.execute(plan, lambda to: config.save(world.settings.file, {"cache_dir": to}))


def copy_it(world: World) -> None:
    move_it(world, copy=True)


# Operation: what is done, the versions that `m` may mean meanwhile, and the one it means in the end.
OPERATIONS: dict[str, tuple[Callable[[World], None], set[int], int]] = {
    "update": (update_it, {2, 3}, 3),
    "remove": (remove_it, {2, 1}, 1),
    "rollback": (roll_back, {2, 1}, 1),
    "move": (move_it, {2}, 2),
    "copy": (copy_it, {2}, 2),
}


def arm(at: int) -> None:
    """Let this process kill itself before the `at`th step. Waiting for the disk itself is left out: it takes long."""
    left = at

    def stepping(name: str) -> None:
        real = getattr(os, name)

        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return None if name == "fsync" else real(*arguments, **options)

        setattr(os, name, step)

    for name in STEPS:
        stepping(name)


def killed_at(step: int, act: Callable[[World], None], world: World) -> bool:
    """Whether the operation was killed before it came to its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            arm(step)
            act(world)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"step {step}: exit status {status}"
    return os.WIFSIGNALED(status)


def check(world: World, step: int, allowed: set[int]) -> None:
    store = world.store
    manifests, damaged = store.contents()
    assert damaged == [], f"step {step}: {damaged}"
    bad = [checked for checked in verify(store, manifests) if not checked.is_healthy]
    assert bad == [], f"step {step}: {bad}"
    assert {m.name for m in manifests} == {"m", "twin"}, f"step {step}: {manifests}"
    assert world.meant() in allowed, f"step {step}: m means version {world.meant()}"


def check_end(world: World, step: int) -> None:
    """Nothing is left that clean-up would not find, and nothing that is needed is in its plan."""
    store = world.store
    store.execute(store.plan_clean())
    referenced = {f.sha256 for m in store.manifests() for f in m.files}
    assert {p.name.partition(".")[0] for p in store.blobs.iterdir()} == referenced, f"step {step}"
    left = [p.name for p in store.tmp.iterdir()] if store.tmp.exists() else []
    assert left == [], f"step {step}: {left}"
    assert not (store.root / "moving.json").exists()
    if store.root != world.settings.models_dir:
        assert not world.settings.models_dir.exists(), f"step {step}: the old place is still there"


def main() -> None:
    act, allowed, final = OPERATIONS[sys.argv[1]]
    os.fsync = lambda _: None  # type: ignore[assignment]  # for the preparations, too
    for step in range(MOST_KILLS):
        world = World(Path(sys.argv[2]) / "world")
        world.make()
        killed = killed_at(step, act, world)
        check(world, step, allowed)
        act(world)
        check(world, step, {final})
        check_end(world, step)
        if not killed:
            print(step)
            return
    raise AssertionError(f"still killed after {MOST_KILLS} steps")


if __name__ == "__main__":
    main()
