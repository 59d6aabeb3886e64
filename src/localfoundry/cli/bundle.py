"""`foundry bundle …`: models as one file, for machines without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from localfoundry.cli import context, output
from localfoundry.cli.progress import PullProgress
from localfoundry.config import Settings
from localfoundry.errors import BadBundle, ModelNotCached, UnknownModel
from localfoundry.store.bundle import Bundle, opened
from localfoundry.store.manifest import Manifest
from localfoundry.units import format_bytes

_FILE = click.Path(path_type=Path, dir_okay=False)


def _results_folder(given: Settings) -> Path:
    return given.home / "results"


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.argument("file", type=_FILE)
@click.option("--with-results", is_flag=True, help="Put the measurements in <home>/results in as well.")
@click.option("--sign", "key", type=_FILE, metavar="KEYFILE", help="Sign with this ed25519 private key.")
@click.option("--force", is_flag=True, help="Replace FILE where it is there.")
@context.json_option
def export(
    models: tuple[str, ...], file: Path, with_results: bool, key: Path | None, force: bool, as_json: bool
) -> None:
    """Write models of this disk into one FILE."""
    from localfoundry.store import bundle_export
    from localfoundry.store.signing import Signer

    given = context.settings()
    manifests = [_cached(given, name) for name in models]
    signer = Signer(key) if key is not None else None
    results = sorted(_results_folder(given).glob("*.json")) if with_results else []
    if with_results and not results:
        output.note(f"there are no results in {_results_folder(given)}")
    plan = bundle_export.plan_export(context.store(given), manifests, results, signer)
    with PullProgress() as progress:
        bundle_export.export(plan, file, signer=signer, force=force, progress=progress)
    if as_json:
        signed = signer.public_key if signer else None
        ids = [m.id for m in plan.index.manifests]
        output.document({"file": str(file), "sizeBytes": plan.size_bytes, "models": ids, "signedBy": signed})
        return
    output.data(f"{file}: {format_bytes(plan.size_bytes)}, {', '.join(m.id for m in plan.index.manifests)}")
    if signer is not None:
        output.data(f"signed by {signer.public_key}")
    output.note(f"on the other machine: foundry bundle import {file.name}")


def _cached(given: Settings, name: str) -> Manifest:
    manifest = context.cached(given, name)
    if manifest is not None:
        return manifest
    if context.catalog(given).find(name) is not None:
        raise ModelNotCached(name)
    raise UnknownModel(f"no cached model is called {name}", hint="foundry cache list", param="model")


@click.command("import")
@click.argument("file", type=_FILE)
@click.option("--verify", "key", metavar="KEY", help="Only if signed by this public key: a file, or 64 hex digits.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@context.json_option
def import_file(file: Path, key: str | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Bring the models of a bundle to this disk. Every byte is verified; a killed import goes on where it was."""
    from localfoundry.store.bundle_import import import_bundle, import_results, plan_import

    given = context.settings()
    store = context.store(given)
    with opened(file) as bundle:
        _check_signature(bundle, key)
        plan = plan_import(store, bundle)
        taken = [m.id for m in plan.number_taken]
        if not as_json:
            for manifest in plan.new:
                output.data(f"new: {manifest.id} ({format_bytes(manifest.size_bytes)}), from {manifest.source}")
            for manifest in plan.present:
                output.data(f"already here: {manifest.id}")
            for name in taken:
                output.note(f"{name} is here with other bytes; the one of the bundle gets the next number")
            output.data(f"{format_bytes(plan.needed_bytes)} will be written")
        asked = plan.new and not yes and not as_json and output.interactive()
        if dry_run or (asked and not click.confirm("Import them?")):
            filed: list[Manifest] = []
            output.note("nothing was imported")
        else:
            with PullProgress() as progress:
                filed = import_bundle(store, bundle, plan, progress)
            for path in import_results(bundle, _results_folder(given)):
                output.note(f"results: {path}")
    if as_json:
        output.document(
            {"new": [m.id for m in plan.new], "present": [m.id for m in plan.present], "numberTaken": taken,
             "neededBytes": plan.needed_bytes, "imported": [m.id for m in filed]}
        )  # fmt: skip
        return
    for manifest in filed:
        output.data(f"Model {manifest.id} is verified and in the local cache; to run it: foundry run {manifest.alias}")


def _check_signature(bundle: Bundle, key: str | None) -> None:
    from localfoundry.store.signing import public_key, verify

    signer = bundle.index.signed_by
    if key is None:
        if signer is not None:
            output.note(f"says to be signed by {signer}; not checked without --verify KEY")
        return
    wanted = public_key(key)
    if signer is None or bundle.signature is None:
        raise BadBundle(f"{bundle.path.name} is not signed, and --verify asks for {wanted}")
    if signer != wanted:
        raise BadBundle(f"{bundle.path.name} is signed by {signer}, not by {wanted}")
    verify(signer, bundle.signature, bundle.index_sha256)
    output.note(f"signed by {signer}: verified")


@click.command()
@click.argument("file", type=_FILE)
@click.option("--verify", "key", metavar="KEY", help="Check that it is signed by this public key.")
@context.json_option
def show(file: Path, key: str | None, as_json: bool) -> None:
    """Show what a bundle holds, without importing it. Reads its index only."""
    with opened(file) as bundle:
        _check_signature(bundle, key)
        index = bundle.index
    if as_json:
        output.document(
            {"file": str(file), "createdAt": index.created_at, "createdBy": index.created_by,
             "signedBy": index.signed_by, "indexSha256": bundle.index_sha256,
             "models": [_model(m) for m in index.manifests], "results": [r.name for r in index.results],
             "sizeBytes": sum(b.size_bytes for b in index.blobs)}
        )  # fmt: skip
        return
    rows = []
    for m in index.manifests:
        text = ", ".join(_license_files(m)) or "no"
        rows.append([m.alias, m.id, m.format, format_bytes(m.size_bytes), m.license or "unknown", text])
    output.table(("Alias", "Model ID", "Format", "Size", "License", "License text"), rows)
    output.data(f"made {index.created_at} by {index.created_by}; signed by: {index.signed_by or 'nobody'}")
    for result in index.results:
        output.data(f"results: {result.name} ({format_bytes(result.size_bytes)})")


def _model(manifest: Manifest) -> dict[str, Any]:
    return {
        "id": manifest.id,
        "alias": manifest.alias,
        "source": manifest.source,
        "commit": manifest.commit,
        "format": manifest.format,
        "license": manifest.license,
        "licenseFiles": _license_files(manifest),
        "sizeBytes": manifest.size_bytes,
        "files": [{"name": f.name, "sizeBytes": f.size_bytes, "sha256": f.sha256} for f in manifest.files],
    }


def _license_files(manifest: Manifest) -> list[str]:
    marks = ("license", "licence", "notice", "copying", "use_policy")
    return [f.name for f in manifest.files if f.name.split("/")[-1].lower().startswith(marks)]
