"""Whether a saved profile decides how a version is loaded, and if not, why: facts in, one value out.

Precedence: what a caller asks > what is chosen for the model in the settings > the profile > the settings of all
models. A profile was measured as a whole, so it is used as a whole: an engine, a device or arguments that somebody
asked for set it aside. It is a first candidate and no more: one that does not fit or fails gives way to the usual one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from localfoundry.config import Settings, profiles
from localfoundry.config.profiles import Profile
from localfoundry.engines import choice, engines, llama_builds
from localfoundry.engines.base import Engine
from localfoundry.engines.choice import Candidate, Wish
from localfoundry.errors import FoundryError, InvalidSetting
from localfoundry.results import place
from localfoundry.service import choosing, drafts
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store

FAILED_AS = "tuned profile"  # what a load by a profile is called among those that failed: its engine may do without it
_DEVICE = "CPU"  # where profiles are measured


@dataclass(frozen=True, slots=True)
class Tuned:
    """A profile with what it names. `why_not`: it is set aside; then `candidate` is None."""

    profile: Profile
    candidate: Candidate | None = None
    why_not: str | None = None
    arguments: tuple[str, ...] = ()  # the profile's, with its draft model as it is called here

    @property
    def words(self) -> str:
        return f"{self.profile.words}; not used: {self.why_not}" if self.why_not else self.profile.words


def find(store: Store, manifest: Manifest, settings: Settings, wish: Wish) -> Tuned | None:
    """The profile for this file on this machine, if there is one. A file of profiles that is damaged holds none."""
    try:
        known = profiles.read(settings.home)
    except InvalidSetting:
        return None
    if not known:
        return None
    machine, sha256 = place.machine_id(), sha256_of(store, manifest)
    profile = profiles.matching(known, machine, sha256, wish.profile)
    if profile is None and wish.seen:  # nobody chose it: what was tuned for something else is still better than nothing
        profile = profiles.matching(known, machine, sha256)
    return None if profile is None else _judged(store, manifest, profile, settings, wish)


def sha256_of(store: Store, manifest: Manifest) -> str:
    """What a version is known by: the sum of its main file, of a folder the first one's."""
    main = store.main_file(manifest).name
    return next((f for f in manifest.files if f.name == main), manifest.files[0]).sha256


def _judged(store: Store, manifest: Manifest, profile: Profile, settings: Settings, wish: Wish) -> Tuned:
    try:
        engine = choice.named(profile.engine, engines())
    except FoundryError:
        return Tuned(profile, why_not=f"no engine is called {profile.engine}")
    runs = manifest if profile.runs_sha256 is None else _version(store, profile, manifest)
    why_not = _against(engine, wish)
    if why_not is None and runs is None:
        again = f"tune {manifest.alias} --for {profile.purpose}"
        target = (profile.runs_target or "").lower()
        command = f"model reencode {manifest.alias} --to {target}" if target else again
        why_not = f"{profile.runs} is not on this disk: foundry {command}"
    arguments = profile.arguments
    if why_not is None and profile.draft is not None:
        draft = next((m for m in store.manifests() if sha256_of(store, m) == profile.draft_sha256), None)
        if draft is None:
            why_not = f"{profile.draft}, its draft model, is not on this disk: {_fetched(manifest, profile)}"
        else:
            arguments = drafts.renamed(arguments, draft.id)
    if why_not is None and runs is not None:
        why_not = llama_builds.why_not(settings, profile.build) if profile.build else engine.missing()
        why_not = why_not or engine.takes(choosing.facts_of(store, runs))
    if why_not is not None or runs is None:
        return Tuned(profile, why_not=why_not)
    candidate = Candidate(engine, profile.words, None if runs is manifest else runs.id, build=profile.build)
    return Tuned(profile, candidate, arguments=arguments)


def _fetched(manifest: Manifest, profile: Profile) -> str:
    """The command that brings the draft model of a profile back."""
    if profile.draft_target:
        return f"foundry model quantize {manifest.alias} --to {profile.draft_target}"
    return f"foundry model download {(profile.draft or '').rpartition(':')[0]}"


def _against(engine: Engine, wish: Wish) -> str | None:
    """What was asked for that speaks against a profile for this engine."""
    if wish.engine is not None and choice.named(wish.engine, engines()).name != engine.name:
        return f"the engine {wish.engine} is asked for"
    if wish.arguments:
        return "the model has engineArguments of its own"
    if wish.device is not None and wish.device.upper() != _DEVICE:
        return f"the device {wish.device} is asked for, and it was measured on the {_DEVICE}"
    if wish.keep_state and not engine.saves_state:
        return f"its state is to be kept, which {engine.name} cannot"
    failed = wish.failed.get(FAILED_AS) or wish.failed.get(engine.name)
    return f"a load by it failed: {failed}" if failed else None


def _version(store: Store, profile: Profile, manifest: Manifest) -> Manifest | None:
    """The version that the profile was measured with: the same bytes, or the same re-encoding of these ones."""
    here: Iterable[Manifest] = store.manifests()
    same = next((m for m in here if sha256_of(store, m) == profile.runs_sha256), None)
    if same is not None or profile.runs_target is None:
        return same
    wanted = sha256_of(store, manifest), profile.runs_target
    return next((m for m in here if m.recipe and (m.recipe.source_sha256, m.recipe.target) == wanted), None)
