"""The files and engines to start from: how the service would load a model now, what else is cached, what can be made.

Reads manifests and headers; makes nothing. Which engine reads which file faithfully is `engines/faithful.py`'s to say:
one that would re-quantize a file in silence is not a way of loading it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from localfoundry.build import importance, llama_tools, quantize, reencode
from localfoundry.build.quantize import QuantPlan
from localfoundry.build.reencode import Plan
from localfoundry.config import Settings
from localfoundry.engines import engines, faithful, llama_builds
from localfoundry.engines.base import Engine
from localfoundry.engines.llama_cpp import LlamaCpp
from localfoundry.engines.openvino import OpenVino
from localfoundry.errors import FoundryError
from localfoundry.service import choosing
from localfoundry.service.tuned import sha256_of
from localfoundry.store.manifest import Manifest
from localfoundry.store.progress import Progress
from localfoundry.store.store import Store
from localfoundry.tuning.space import Setting

_Q8 = "Q8_0"
_WIDE = "BF16"
_SMALLER = [_Q8, "Q4_0", "Q4_K_M"]  # the first two with kernels of their own in llama.cpp, then the usual compromise
# What has a smaller type in a mixture of Q8_0, four tenths of the starter's weights; docs/benchmarks.md, "Tuning".
_MIXED = "ffn_(gate|up)"
_ALSO_BUNDLED = 2  # files that the bundled llama.cpp is tried with where a native one is in use: it is seldom faster

Made = Plan | QuantPlan


def default(store: Store, manifest: Manifest, settings: Settings) -> tuple[Setting, str | None]:
    """How the service would load it without any profile; and the type it would be re-encoded to first, if any.

    Raises NotRunnable, InvalidRequest.
    """
    chosen = settings.defaults_for((manifest.alias, manifest.name, manifest.id))
    choice = choosing.choose(store, manifest, settings, choosing.wish_of(manifest, settings))
    first = choice.candidates[0]
    runs = (store.find(first.runs) if first.runs else None) or manifest
    build = _builds(first.engine, settings)[0]
    made = Setting(first.engine.name, runs.id, _file(runs), chosen.engine_arguments, chosen.parallel, build=build)
    return made, first.reencode_to


def others(
    store: Store, manifest: Manifest, settings: Settings, only: Engine | None, quants: Collection[str] = ()
) -> list[Setting]:
    """Every engine that is here with every cached version of the model that it reads faithfully, re-encodings first.

    Of llama.cpp both builds that `llama_builds.here` names, side by side; a bundled one that is not in use with few.
    `only`: this engine alone; `quants`: these quantizations alone, and the model's own.
    """
    chosen = settings.defaults_for((manifest.alias, manifest.name, manifest.id))
    found = [
        Setting(engine.name, version.id, _file(version), (), chosen.parallel, build=build)
        for version in versions(store, manifest, quants)
        for engine in engines()
        if only in (None, engine) or (only is not None and engine.name == only.name)
        if _runs(store, engine, version)
        for build in _builds(engine, settings)
    ]
    seldom = [one for one in found if one.build == llama_builds.BUNDLED != _builds(LlamaCpp(), settings)[0]]
    return _told_apart([one for one in found if one not in seldom[_ALSO_BUNDLED:]])


def versions(store: Store, manifest: Manifest, quants: Collection[str] = ()) -> list[Manifest]:
    """Cached versions of the same model, re-encodings of these bytes first; of each name the newest.

    What was compiled or quantized of them comes later: a short search is not to spend its time on what may lose.
    """
    wanted = {word.upper() for word in quants}
    same = {m.name: m for m in store.manifests() if m.alias == manifest.alias and m.tasks == manifest.tasks}
    same[manifest.name] = manifest
    sha256 = sha256_of(store, manifest)

    def rank(version: Manifest) -> bool:
        made = version.recipe
        return not (made is not None and made.source_sha256 == sha256 and made.stands_in)

    kept = [m for m in same.values() if not wanted or m is manifest or (m.quantization or m.format).upper() in wanted]
    return sorted(kept, key=rank)


def to_make(
    store: Store, manifest: Manifest, settings: Settings, only: Engine | None, quants: Collection[str] = (),
    *, wide: bool = False,
) -> list[Made]:  # fmt: skip
    """What engines here would gain from and that is not here yet, as far as the disk has room. Reads headers.

    Re-encodings, which lose next to nothing. A mixture of types, and of weights that are not quantized yet smaller
    types: of others they lose more than a guard lets through, so those are made only where `quants` names them.
    `wide`: BF16 too, twice the bytes of Q8_0 and nothing to take apart, where arithmetic is all that counts.
    """
    wanted = [word.upper() for word in quants]
    plans: list[Made | None] = []
    if only is None or only.name == OpenVino.name:
        plans.append(_reencoded(store, manifest, reencode.OPENVINO) if OpenVino().missing() is None else None)
    if only is None or only.name != OpenVino.name:
        again = _reencoded(store, manifest, _Q8) if not wanted or _Q8 in wanted else None
        named = [kind for kind in wanted if again is None or kind != _Q8]
        plans.append(again)
        asked = [_asked_for(store, manifest, settings, kind) for kind in named]
        plans += asked if wanted else _smaller(store, manifest, settings, again)
        plans += [_asked_for(store, manifest, settings, _WIDE)] if wide and not wanted else []
    return [plan for plan in plans if plan is not None and plan.present is None and plan.fits]


def make(store: Store, made: Made, progress: Progress) -> Manifest:
    """Blocking. Raises what re-encoding and quantizing do."""
    if isinstance(made, QuantPlan):
        return quantize.make(store, made, progress=progress)
    return reencode.carry_out(store, made, progress)


def _reencoded(store: Store, manifest: Manifest, target: str) -> Plan | None:
    if target == reencode.OPENVINO and OpenVino().takes(choosing.facts_of(store, manifest)) is not None:
        return None
    try:
        return reencode.plan(store, manifest, target)
    except FoundryError:  # nothing to do, or nothing that can be done
        return None


def _asked_for(store: Store, manifest: Manifest, settings: Settings, type: str) -> QuantPlan | None:
    """A type whatever it loses, also of weights that are quantized already. Raises UsageError for no type."""
    if manifest.format != "gguf":
        return None
    origin = quantize.best_source(store, manifest)
    made = quantize.plan(store, origin, type, settings, allow_requantize=True)
    return None if made.why_not else made


def _smaller(store: Store, manifest: Manifest, settings: Settings, again: Plan | None) -> list[QuantPlan]:
    """Smaller types and a mixture, of weights that are not quantized yet; of others the mixture that loses least.

    `again`: what its weights are re-encoded to in Q8_0; where there is something to gain, less than that may be enough.
    """
    if manifest.format != "gguf":
        return []
    origin = quantize.best_source(store, manifest)
    weighed = llama_tools.find(importance.PROGRAM, settings) is not None
    plans = []
    if quantize.plan(store, origin, "Q4_0", settings).why_not is None:
        plans = [quantize.plan(store, origin, kind, settings) for kind in _SMALLER]
        plans.append(_mixture(store, origin, settings, "IQ4_NL" if weighed else "Q4_0", weighed))
    elif again is not None and weighed:
        plans = [_mixture(store, origin, settings, "Q5_0", weighed)]
    return [made for made in plans if not made.why_not]


def _mixture(store: Store, origin: Manifest, settings: Settings, type: str, weighed: bool) -> QuantPlan:
    """Q8_0 with a part in a smaller type; `weighed`: by an importance matrix, which halves what four bits lose."""
    return quantize.plan(store, origin, _Q8, settings, imatrix=weighed, tensor_types=((_MIXED, type),))


def _runs(store: Store, engine: Engine, version: Manifest) -> bool:
    facts = choosing.facts_of(store, version)
    return (
        version.format in engine.formats
        and engine.missing() is None
        and engine.takes(facts) is None
        and not faithful.misread(engine.name, facts.tensor_types)
    )


def _builds(engine: Engine, settings: Settings) -> Sequence[str | None]:
    """Of an engine, by name, the one in use first; `(None,)` where there is one."""
    return llama_builds.here(settings) if engine.name == LlamaCpp.name else (None,)


def _file(version: Manifest) -> str:
    """What tables call a version behind its engine: its quantization, and that it is a folder where it is one."""
    if version.format == "gguf":
        mixed = version.recipe is not None and "tensor-type" in version.recipe.options
        return f"{version.quantization or version.name}{' mixed' if mixed else ''}"
    return f"folder {version.quantization or ''}".strip() if version.format in ("onnx", "openvino") else version.format


def _told_apart(settings: Sequence[Setting]) -> list[Setting]:
    """With the version's id where two would be called the same."""
    labels = [setting.label for setting in settings]
    return [_named(s) if labels.count(s.label) > 1 else s for s in settings]


def _named(setting: Setting) -> Setting:
    return msgspec.structs.replace(setting, file=setting.version)


def left_out(store: Store, manifest: Manifest) -> Iterable[str]:
    """Why engines of its format have no part in it; a command that changes that stands at the end."""
    for engine in engines():
        why = engine.missing() if manifest.format in engine.formats else None
        if why is not None:
            yield f"{engine.name}: {why}"
