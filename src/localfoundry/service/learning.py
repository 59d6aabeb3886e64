"""What loads taught about the estimate: each real one is compared with it, and the next one starts from there.

Compared is what the engine says it allocated, since that does not depend on how far a model has been used; of an engine
that does not say it all, what its process holds once it is ready. Each engine has its own corrections.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from localfoundry import fit
from localfoundry.advice.machine import measured_as
from localfoundry.advice.processor import processor_of
from localfoundry.config import Settings
from localfoundry.engines import llama_builds, llama_fit
from localfoundry.engines.llama_cpp import LlamaCpp
from localfoundry.fit.calibration import Calibration, Subject, note_load
from localfoundry.fit.interval import Interval
from localfoundry.fit.speed import kernel
from localfoundry.formats.shape import ModelShape
from localfoundry.hardware.machine import Machine
from localfoundry.hardware.survey import Probe, survey
from localfoundry.service.ledger import CPU, Bytes
from localfoundry.service.loading import LoadedModel
from localfoundry.store.manifest import Manifest

FILE = "calibration.json"


def file_of(engine: str) -> str:
    """The name of the file in the home with what was learned of an engine; `FILE` for llama.cpp."""
    return FILE if engine == LlamaCpp.name else f"calibration-{engine}.json"


class Learned:
    """The calibrations of one home, for the loads of its service."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._calibrations: dict[str, Calibration] = {}
        self._versions: dict[str, str] = {}  # of engines at their last load; before any, notes of every version count

    def _calibration(self, engine: str) -> Calibration:
        if engine not in self._calibrations:
            self._calibrations[engine] = Calibration(self._home / file_of(engine))
        return self._calibrations[engine]

    def corrected(self, engine: str, manifest: Manifest, predicted: Bytes) -> Bytes:
        """Bytes by device, as predicted for any load of this version, times what its loads here came to."""
        if CPU not in predicted or manifest.shape is None:
            return predicted
        size = predicted[CPU]
        subject = subject_of(self._versions.get(engine, ""), manifest, manifest.shape)
        found = self._calibration(engine).corrected("memory", Interval(size, size, size), subject)
        return {**predicted, CPU: int(found.value)} if found.source == "measured here" else predicted

    def note(self, model: LoadedModel, file: Path, settings: Settings) -> None:
        """Compare one load. Blocking; a model whose shape or buffers are not known teaches nothing."""
        manifest = model.runs
        shape = llama_fit.shape_of(manifest, file) if manifest.format == "gguf" else None
        if shape is None or model.resident.plan.device != "CPU" or model.resident.plan.draft is not None:
            return  # of two models in one process the log does not say whose a buffer is
        version = self._versions[model.engine.name] = model.engine.version(
            llama_builds.chosen(settings, model.resident.plan.build)
        )
        subject = subject_of(version, manifest, shape)
        if model.engine.name == LlamaCpp.name:
            self._note_llama(model, shape, subject)
        else:
            self._note_other(model, file, subject)

    def _note_other(self, model: LoadedModel, file: Path, subject: Subject) -> None:
        plan = model.resident.plan
        predicted = model.engine.memory(model.runs, file, plan.context, plan.parallel, plan.engine_arguments)
        note_load(self._calibration(model.engine.name), subject, sum(predicted.values()), model.measure()[CPU])

    def _note_llama(self, model: LoadedModel, shape: ModelShape, subject: Subject) -> None:
        if "compute" not in model.memory:
            return
        manifest, plan = model.runs, model.resident.plan
        load = llama_fit.load_of(manifest.tasks, plan.context, plan.parallel, plan.engine_arguments)
        predicted = fit.memory(shape, load)
        processor = processor_of(self._machine, native=subject.engine.startswith("native "))
        expected = fit.load_time(shape, load, processor, predicted["rearranged"])
        # What the engine does not tell of is taken as predicted.
        stated = sum(model.memory.values()) + predicted["process"] + predicted["checkpoints"]
        note_load(self._calibration(LlamaCpp.name), subject, predicted.total, stated, expected.value, model.load_s)

    @cached_property
    def _machine(self) -> Machine:
        return survey(self._home, Probe.NEVER)


def subject_of(engine: str, manifest: Manifest, shape: ModelShape) -> Subject:
    """What a measurement of this version here is about; `engine` with its version, empty for whichever it was."""
    return Subject(engine, measured_as(), kernel(shape), manifest.files[0].sha256)


def subject_of_shape(engine: str, shape: ModelShape) -> Subject:
    """The same of a model that is not here: others of its kernel tell something of it."""
    return Subject(engine, measured_as(), kernel(shape), "")
