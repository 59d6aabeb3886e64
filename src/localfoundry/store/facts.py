"""What a staged version's own files say of themselves; the gate that nothing passes which is not a model.

Headers come from strangers: they are read by the bounded readers in `formats`, never by an engine's own code.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from localfoundry.errors import NotAModel
from localfoundry.sources.plan import PullPlan
from localfoundry.store.store import main_name

_MAX_FAKE_BYTES = 1_000_000

if TYPE_CHECKING:
    from localfoundry.formats.gguf import GgufHeader
    from localfoundry.formats.template import TemplateCheck


def facts_of(folder: Path, plan: PullPlan, names: list[str]) -> dict[str, object]:
    """Manifest fields by name, as far as the files tell them. Raises NotAModel for a file that is none, or another."""
    from localfoundry.formats.detect import identify
    from localfoundry.formats.gguf import read_gguf
    from localfoundry.formats.shape import of_gguf
    from localfoundry.formats.split import names_of, read_model

    main = main_name(plan.format, names)
    if main is None and plan.format in ("gguf", "fake"):
        raise NotAModel(f"{plan.source} has no {plan.format} file")
    path = folder if main is None else folder / main
    found = identify(path)
    if found != plan.format:
        raise NotAModel(f"{plan.source} is {found}, but {plan.format} was expected")
    if found == "onnx":
        return _onnx_facts(path)
    if found == "openvino":
        return _openvino_facts(path)
    if found == "fake":
        return _fake_facts(path)
    if found != "gguf":
        return {}
    parts = names_of(path.name)
    for name in names:
        if name.lower().endswith(".gguf") and Path(name).name not in parts:
            read_gguf(folder / name)  # what lies beside the model must be sound as well
    header = read_model(path)  # with all its parts
    template = header.chat_template
    return {
        "architecture_name": header.architecture,
        "architecture": header.shape(),
        "context_length": header.context_length,
        "quantization": header.quantization,
        "parameters": header.parameters,
        "shape": of_gguf(header),
        "license": header.license,
        "chat_template_sha256": _sha256(template),
        "template": _template_check(path, header),
    }


def _fake_facts(file: Path) -> dict[str, object]:
    """What a model of the fake engine says it is, where it does."""
    from localfoundry.formats.bounded_json import parse_object

    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_FAKE_BYTES + 1)
        architecture = parse_object(data, file.name, _MAX_FAKE_BYTES).get("architecture")
    except NotAModel:
        return {}  # the engine will say what is wrong with it
    return {"architecture_name": architecture} if isinstance(architecture, str) else {}


def _onnx_facts(folder: Path) -> dict[str, object]:
    from localfoundry.formats.summary import of_path

    summary = of_path(folder)
    return {
        "architecture_name": summary.architecture,
        "context_length": summary.context_length,
        "chat_template_sha256": _sha256(summary.chat_template),
        "template": summary.template,
    }


def _openvino_facts(folder: Path) -> dict[str, object]:
    from localfoundry.formats.openvino import read_openvino_folder

    found = read_openvino_folder(folder)
    return {"architecture_name": found.architecture, "context_length": found.context_length}


def _template_check(path: Path, header: GgufHeader) -> TemplateCheck | None:
    from localfoundry.formats.summary import check_gguf

    with path.open("rb") as file:

        def read(offset: int, size: int) -> bytes:
            file.seek(offset)
            return file.read(size)

        return check_gguf(header, read)


def _sha256(template: str | None) -> str | None:
    return hashlib.sha256(template.encode()).hexdigest() if template else None
