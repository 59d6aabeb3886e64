"""A version that was made here, told to a person: by `model reencode`, `quantize` and `compile`, and `model info`."""

from __future__ import annotations

from typing import Any

import msgspec

from localfoundry.cli import output
from localfoundry.store.manifest import Manifest, Recipe
from localfoundry.units import format_bytes


def tell(manifest: Manifest, document: dict[str, Any], *, fresh: bool, as_json: bool, more: str = "") -> None:
    """What came of it: `document` with the version and its recipe, or words. `fresh`: it was not here before;
    `more`: a line of advice."""
    assert manifest.recipe is not None
    if as_json:
        recipe = msgspec.to_builtins(manifest.recipe)
        output.document(document | {"id": manifest.id, "sizeBytes": manifest.size_bytes, "recipe": recipe})
        return
    what = "was made" if fresh else "is here already"
    output.data(f"Model {manifest.id} {what}: {recipe_words(manifest.recipe)}, {format_bytes(manifest.size_bytes)}")
    if more:
        output.note(more)
    output.note(f"to run it: foundry model run {manifest.name}")


def recipe_words(recipe: Recipe) -> str:
    """What was made of what, and how far it is from it."""
    if recipe.kind == "compiled":
        near = recipe.checked.get("perplexity")
        return f"{recipe.source_id} as {recipe.target}" + (f"; perplexity {near}" if near else "; not tried")
    changed = ", ".join(f"{old} as {new}" for old, new in recipe.changed.items()) or "its types as they were"
    if recipe.target == "openvino":
        changed += ", for OpenVINO"
    if "imatrix" in recipe.inputs:
        changed += ", with an importance matrix"
    if recipe.kind == "quantized":
        changed += f", by {recipe.tool}" + "".join(f", {key} {value}" for key, value in recipe.options.items())
    if recipe.rms_error is None:
        return f"{recipe.source_id} with {changed}"
    if recipe.largest_error == 0:
        return f"{recipe.source_id} with {changed}; every weight is the same"
    return f"{recipe.source_id} with {changed}; weights differ by {recipe.rms_error:.2%} (rms of the worst tensor)"
