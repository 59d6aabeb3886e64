"""What the estimator expected of local models beside what a bench measured; it learns from that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localfoundry.advice.processor import processor_of
from localfoundry.bench.expected import Expected, compared
from localfoundry.bench.others import Others
from localfoundry.cli import context
from localfoundry.config import Settings
from localfoundry.engines import llama_fit
from localfoundry.engines.llama_cpp import LlamaCpp
from localfoundry.hardware.survey import Probe, survey
from localfoundry.service import learning

if TYPE_CHECKING:
    from localfoundry.bench.outcome import Measurement, Outcome
    from localfoundry.cli.bench_local import Loaded


def expected(given: Settings, result: Measurement, loaded: Loaded | None, others: Others) -> list[Expected]:
    """Of every local model that the estimator knows enough of. Corrects the next estimates."""
    if loaded is None:
        return []
    share = others.share(account["pid"] for account in loaded.accounts.values())
    return [one for outcome in result.outcomes for one in _of(given, outcome, loaded, share)]


def _of(given: Settings, outcome: Outcome, loaded: Loaded, others: float) -> list[Expected]:
    candidate = outcome.candidate
    manifest = context.cached(given, candidate.model) if candidate.endpoint is None else None
    account = loaded.accounts.get(candidate.model)
    if manifest is None or account is None or account["engine_name"] != LlamaCpp.name:
        return []
    engine = LlamaCpp().version(given)
    processor = processor_of(survey(given.home, Probe.NEVER), native=engine.startswith("native "))
    shape = llama_fit.shape_of(manifest, context.store(given).main_file(manifest))
    if processor is None or shape is None:
        return []
    chosen = given.defaults_for((manifest.alias, manifest.name, manifest.id))
    size = int(account["context"])
    load = llama_fit.load_of(manifest.tasks, size, chosen.parallel or given.parallel, chosen.engine_arguments)
    subject = learning.subject_of(engine, manifest, shape)
    return compared(outcome, shape, load, processor, subject, given.home / learning.FILE, others)
