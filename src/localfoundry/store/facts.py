"""What a staged version's own files say of themselves; the gate that nothing passes which is not a model.

Headers come from strangers: they are read by the bounded readers in `formats`, never by an engine's own code.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from localfoundry.errors import NotAModel
from localfoundry.sources.plan import PullPlan
from localfoundry.store.store import main_name


def facts_of(folder: Path, plan: PullPlan, names: list[str]) -> dict[str, object]:
    """Manifest fields by name, as far as the files tell them. Raises NotAModel for a file that is none, or another."""
    from localfoundry.formats.detect import identify
    from localfoundry.formats.gguf import read_gguf

    main = main_name(plan.format, names)
    if main is None and plan.format in ("gguf", "fake"):
        raise NotAModel(f"{plan.source} has no {plan.format} file")
    path = folder if main is None else folder / main
    found = identify(path)
    if found != plan.format:
        raise NotAModel(f"{plan.source} is {found}, but {plan.format} was expected")
    if found != "gguf":
        return {}
    for name in names:
        if name.lower().endswith(".gguf") and name != main:
            read_gguf(folder / name)  # the other parts of a split model must be sound as well
    header = read_gguf(path)
    template = header.chat_template
    return {
        "architecture_name": header.architecture,
        "architecture": header.shape(),
        "context_length": header.context_length,
        "quantization": header.quantization,
        "parameters": header.parameters,
        "license": header.license,
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest() if template else None,
    }
