"""`foundry.lock`: exactly which bytes, from which commit, run by which engine, with which settings.

TOML, because people read it in diffs and may leave comments in it, and Python reads it without another library. It is
written here and not by a library since the form is fixed: one key a line, models by name, files in their order, so
that two runs give the same text and a changed model is a few changed lines. Comments are not kept.

What differs between a lock and a store is pure (`differences`); pulling is `store/pull.py`, held to the lock's sums.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from localfoundry.config.profiles import Profile
from localfoundry.errors import ChecksumMismatch, InvalidLock, SourceRefused
from localfoundry.sources.names import relative_name, sha256_hex, variant_name
from localfoundry.sources.plan import PlannedFile, PullPlan
from localfoundry.store.manifest import Manifest, StoredFile

FORMAT = 1
_HEAD = (
    "# Written by `foundry lock`. `foundry sync --locked` makes a machine hold exactly this, or says what differs.\n"
)
_MAX_BYTES = 16_000_000


class LockedModel(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version as it must be. `version` is this store's number: the same bytes may have another one elsewhere."""

    alias: str
    name: str
    version: int
    source: str
    format: str
    commit: str | None = None
    license: str | None = None
    quantization: str | None = None
    template_sha256: str | None = None
    tasks: tuple[str, ...] = ("chat",)
    engine: str | None = None
    engine_version: str | None = None
    file: tuple[StoredFile, ...] = ()

    @property
    def sums(self) -> dict[str, str]:
        return {f.name: f.sha256 for f in self.file}


class Lock(msgspec.Struct, frozen=True):
    """The whole file. `settings` are those that change answers or speed, by their key in `settings.json`; `profile` are
    those of the locked models, without their evidence: for machines of the kind they were tuned on.
    """

    format: int
    settings: dict[str, int]
    model: tuple[LockedModel, ...] = ()
    profile: tuple[Profile, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as locked; `here` None: not there at all."""

    model: str  # alias, or `settings`
    what: Literal["model", "file", "ref", "template", "license", "engine", "setting", "profile"]
    locked: str
    here: str | None
    subject: str | None = None
    hint: str | None = None


def locked(manifest: Manifest, engine: tuple[str, str] | None) -> LockedModel:
    """What a version looks like in a lock; `engine`: name and version of what runs it here. Pure."""
    return LockedModel(
        alias=manifest.alias,
        name=manifest.name,
        version=manifest.version,
        source=manifest.source,
        format=manifest.format,
        commit=manifest.commit,
        license=manifest.license,
        quantization=manifest.quantization,
        template_sha256=manifest.chat_template_sha256,
        tasks=manifest.tasks,
        engine=engine[0] if engine else None,
        engine_version=engine[1] if engine else None,
        file=manifest.files,
    )


def text_of(lock: Lock) -> str:
    """The file as text; the same for the same lock. Pure."""
    parts = [_HEAD, f"format = {lock.format}\n", "\n[settings]\n"]
    parts += [f"{key} = {_value(value)}\n" for key, value in sorted(lock.settings.items())]
    for model in sorted(lock.model, key=lambda m: (m.name.lower(), m.version)):
        fields = msgspec.to_builtins(model)
        files = fields.pop("file", [])
        parts.append("\n[[model]]\n")
        parts += [f"{key} = {_value(value)}\n" for key, value in fields.items()]
        for file in files:
            parts.append("\n[[model.file]]\n")
            parts += [f"{key} = {_value(value)}\n" for key, value in file.items()]
    for profile in sorted(lock.profile, key=lambda p: p.key):
        fields = msgspec.to_builtins(msgspec.structs.replace(profile, evidence={}))
        parts.append("\n[[profile]]\n")
        parts += [f"{key} = {_value(value)}\n" for key, value in fields.items()]
    return "".join(parts)


def _value(value: object) -> str:
    """A JSON string is a TOML string but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def read(path: Path) -> Lock:
    """The lock in a file. Raises InvalidLock: no such file, no TOML, wrong fields, names or sums that are refused."""
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise InvalidLock(f"cannot read {path}: {exc.strerror}", hint="foundry lock writes one") from exc
    if len(raw) > _MAX_BYTES:
        raise InvalidLock(f"{path} has {len(raw)} bytes, more than the {_MAX_BYTES} of any lock")
    try:
        document = tomllib.loads(raw.decode())
        lock = msgspec.convert(document, Lock)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.MsgspecError, RecursionError) as exc:
        raise InvalidLock(f"{path} is not a lock file: {exc}", hint="foundry lock writes one") from exc
    if lock.format != FORMAT:
        raise InvalidLock(f"{path} has the format {lock.format}, this version reads {FORMAT}", hint="foundry --version")
    for model in lock.model:
        variant_name(model.name)
        for file in model.file:
            relative_name(file.name)
            sha256_hex(file.sha256)
        if not model.file:
            raise InvalidLock(f"{path}: {model.name} has no files")
    return lock


def matching(model: LockedModel, manifests: Iterable[Manifest]) -> Manifest | None:
    """The version of that name with exactly the locked bytes; the highest, where there are several. Pure."""
    found = [m for m in manifests if m.name == model.name and {f.name: f.sha256 for f in m.files} == model.sums]
    return max(found, key=lambda m: (m.version == model.version, m.version), default=None)


def differences(
    model: LockedModel, manifests: Sequence[Manifest], current: Manifest | None, engine: tuple[str, str] | None
) -> list[Difference]:
    """What is not as locked of one model. `current`: the version that its name means here. Pure."""
    found = matching(model, manifests)
    if found is None:
        return _missing(model, current)
    differing = []
    if current is not None and current != found:
        hint = f"foundry sync --locked, or: foundry model pin {found.id}"
        differing.append(Difference(model.alias, "ref", found.id, current.id, model.name, hint))
    for what, wanted, here in (
        ("template", model.template_sha256, found.chat_template_sha256),
        ("license", model.license, found.license),
    ):
        if wanted is not None and wanted != here:
            differing.append(Difference(model.alias, what, wanted, here))  # type: ignore[arg-type]
    if model.engine is not None:
        wanted = f"{model.engine} {model.engine_version}"
        here = f"{engine[0]} {engine[1]}" if engine else None
        if wanted != here:
            differing.append(Difference(model.alias, "engine", wanted, here))
    return differing


def _missing(model: LockedModel, current: Manifest | None) -> list[Difference]:
    if current is None:
        return [
            Difference(model.alias, "model", f"{model.name} from {model.source}", None, hint="foundry sync --locked")
        ]
    here = {f.name: f.sha256 for f in current.files}
    names = [*model.sums, *(n for n in here if n not in model.sums)]
    return [
        Difference(model.alias, "file", model.sums.get(n, "no such file"), here.get(n), n, "foundry sync --locked")
        for n in names
        if model.sums.get(n) != here.get(n)
    ]


def setting_differences(lock: Lock, here: Mapping[str, int]) -> list[Difference]:
    """Settings that are not as locked; unknown ones count as different. Pure."""
    return [
        Difference("settings", "setting", str(value), None if key not in here else str(here[key]), key)
        for key, value in sorted(lock.settings.items())
        if here.get(key) != value
    ]


def profiles_for(lock: Lock, machine: str) -> list[Profile]:
    """The locked profiles that are for this machine, of models that the lock has. Pure."""
    sums = {file.sha256 for model in lock.model for file in model.file}
    return [profile for profile in lock.profile if profile.machine == machine and profile.sha256 in sums]


def profile_differences(lock: Lock, machine: str, here: Sequence[Profile]) -> list[Difference]:
    """Profiles for this machine that are not as locked. Pure."""
    found = {profile.key: _way(profile) for profile in here}
    return [
        Difference(profile.model, "profile", _way(profile), found.get(profile.key), profile.purpose,
                   "foundry sync --locked")
        for profile in profiles_for(lock, machine)
        if found.get(profile.key) != _way(profile)
    ]  # fmt: skip


def _way(profile: Profile) -> str:
    """How a profile loads its model, in one line."""
    parallel = [f"parallel {profile.parallel}"] if profile.parallel else []
    return " ".join((profile.engine_words, *([profile.runs] if profile.runs else []), *profile.arguments, *parallel))


def held_to(plan: PullPlan, model: LockedModel) -> PullPlan:
    """A plan that can only give the locked bytes. Raises ChecksumMismatch and SourceRefused naming what differs. Pure.

    Files that the plan has and the lock has not are left out: the lock says what the version is.
    """
    planned = {f.name: f for f in plan.files}
    if len(plan.files) == len(model.file) == 1 and plan.files[0].member is not None:
        planned = {model.file[0].name: plan.files[0]}
    return msgspec.structs.replace(
        plan,
        name=model.name,
        version=None,
        alias=model.alias,
        license=model.license,
        quantization=model.quantization,
        tasks=model.tasks,
        files=tuple(_held(planned.get(f.name), f, model) for f in model.file),
    )


def _held(planned: PlannedFile | None, wanted: StoredFile, model: LockedModel) -> PlannedFile:
    if planned is None:
        raise SourceRefused(f"{model.source} has no {wanted.name}, which is locked with the SHA-256 {wanted.sha256}")
    promised = planned.member.sha256 if planned.member else planned.sha256
    if promised is not None and promised.lower() != wanted.sha256:
        raise ChecksumMismatch(
            f"{wanted.name} of {model.source} has the SHA-256 {promised}, but {wanted.sha256} is locked",
            hint="the source changed what it holds; a new lock takes it as it is: foundry lock",
        )
    if planned.member is not None:
        member = msgspec.structs.replace(planned.member, sha256=wanted.sha256, size_bytes=wanted.size_bytes)
        return msgspec.structs.replace(planned, name=wanted.name, member=member)
    return msgspec.structs.replace(planned, name=wanted.name, sha256=wanted.sha256, size_bytes=wanted.size_bytes)
