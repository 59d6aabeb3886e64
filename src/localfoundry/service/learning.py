"""What loads taught about the estimate: each real one is compared with it, and the next one starts from there.

Compared is what the engine says it allocated, since that does not depend on how far a model has been used.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from localfoundry import fit
from localfoundry.advice.machine import measured_as
from localfoundry.advice.processor import processor_of
from localfoundry.config import Settings
from localfoundry.engines import llama_fit
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


class Learned:
    """The calibration of one home, for the loads of its service."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._calibration = Calibration(home / FILE)
        self._engine = ""  # of the last load; before any, notes of every engine count

    def corrected(self, manifest: Manifest, predicted: Bytes) -> Bytes:
        """Bytes by device, as predicted for any load of this version, times what its loads here came to."""
        if CPU not in predicted or manifest.shape is None:
            return predicted
        size = predicted[CPU]
        subject = subject_of(self._engine, manifest, manifest.shape)
        found = self._calibration.corrected("memory", Interval(size, size, size), subject)
        return {**predicted, CPU: int(found.value)} if found.source == "measured here" else predicted

    def note(self, model: LoadedModel, file: Path, settings: Settings) -> None:
        """Compare one load. Blocking; a model whose shape or buffers are not known teaches nothing."""
        manifest, plan = model.manifest, model.resident.plan
        shape = llama_fit.shape_of(manifest, file) if manifest.format == "gguf" else None
        if shape is None or "compute" not in model.memory:
            return
        load = llama_fit.load_of(manifest.tasks, plan.context, plan.parallel, plan.engine_arguments)
        predicted = fit.memory(shape, load)
        self._engine = model.engine.version(settings)
        processor = processor_of(self._machine, native=self._engine.startswith("native "))
        expected = fit.load_time(shape, load, processor, predicted["rearranged"])
        # What the engine does not tell of is taken as predicted.
        stated = sum(model.memory.values()) + predicted["process"] + predicted["checkpoints"]
        subject = subject_of(self._engine, manifest, shape)
        note_load(self._calibration, subject, predicted.total, stated, expected.value, model.load_s)

    @cached_property
    def _machine(self) -> Machine:
        return survey(self._home, Probe.NEVER)


def subject_of(engine: str, manifest: Manifest, shape: ModelShape) -> Subject:
    """What a measurement of this version here is about; `engine` with its version, empty for whichever it was."""
    return Subject(engine, measured_as(), kernel(shape), manifest.files[0].sha256)


def subject_of_shape(engine: str, shape: ModelShape) -> Subject:
    """The same of a model that is not here: others of its kernel tell something of it."""
    return Subject(engine, measured_as(), kernel(shape), "")
