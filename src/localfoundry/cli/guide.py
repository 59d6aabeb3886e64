"""`foundry model list --guide`: the course's categories and choices, shown as the course's."""

from __future__ import annotations

import msgspec

from localfoundry.catalog.guide import load_guide
from localfoundry.cli import output
from localfoundry.units import format_bytes


def show(as_json: bool) -> None:
    guide = load_guide()
    if as_json:
        output.document(msgspec.to_builtins(guide))
        return
    output.data("By size:")
    for category in guide.categories:
        for model in category.models:
            output.data(f"    {category.name:<8} {model.model:<30} {model.note}")
    output.data("By task:")
    for task in guide.tasks:
        for choice in task.choices:
            output.data(f"    {task.name:<18} {choice.role:<12} {choice.model}")
    output.data("Minimum hardware and typical size on the disk:")
    sizes = {size.model: size.size_bytes for size in guide.sizes}
    for row in guide.hardware:
        size = f"about {format_bytes(sizes[row.model])}" if row.model in sizes else ""
        output.data(f"    {row.model:<30} {row.ram_bytes // 10**9:>3} GB RAM, {row.cpu} CPU  {size}".rstrip())
    recommended = guide.recommended_hardware
    output.data(f"    Recommended: {'; '.join(recommended.notes)}")
    output.data("Storage:")
    for note in guide.storage_notes:
        output.data(f"    {note}")
    output.data(f"Source: {guide.source}")
