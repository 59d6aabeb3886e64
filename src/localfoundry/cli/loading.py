"""`foundry model load` and `unload`, and what a load is asked and said to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from localfoundry import instance
from localfoundry.cli import context, output, service
from localfoundry.config import Settings
from localfoundry.errors import ModelNotCached, UsageError
from localfoundry.units import format_bytes

if TYPE_CHECKING:
    from localfoundry.results.rows import CandidateRow

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Wish:
    """What a person asks of a load, by the names of `POST /foundry/load`; None: what the settings say."""

    retain: bool | None = None
    ttl: int | None = None
    context: int | None = None
    device: str | None = None
    keep_state: bool | None = None
    pin: bool | None = None
    force: bool | None = None
    engine: str | None = None


def load_model(given: Settings, name: str, wish: Wish) -> dict[str, Any]:
    """Load through the running service and return its account of it. Raises the service's errors."""
    body: dict[str, object] = {"model": name, **{k: v for k, v in asdict(wish).items() if v is not None}}
    loaded: dict[str, Any] = context.with_service(given, lambda client: client.post("/foundry/load", body))
    return loaded


def as_loaded(given: Settings, row: CandidateRow, account: dict[str, Any]) -> CandidateRow:
    """What is known of a candidate of a measurement once the service has told of its load."""
    import msgspec

    manifest = context.cached(given, row.model)
    return msgspec.structs.replace(
        row, engine=account["engine"], quantization=account["quantization"], file_sha256=account["sha256"],
        model_id=account["id"], context=account["context"], format=manifest.format if manifest else None,
    )  # fmt: skip


def engine_option(command: F) -> F:
    """`--engine`: a person's choice."""
    text = "The engine that runs it, and no other: llama.cpp, openvino or onnx."
    return click.option("--engine", help=text)(command)


def force_option(command: F) -> F:
    """`--force`: a person's own risk."""
    text = "Load it although it is estimated not to fit: the machine may swap, or the system end it or other programs."
    return click.option("--force", is_flag=True, help=text)(command)


def warn_of_force(loaded: dict[str, Any]) -> None:
    """Say it where the load did not fit and was forced."""
    if loaded.get("forced"):
        output.note(
            f"{loaded['id']} was loaded by force: by the estimate it does not fit. The machine may become slow, and "
            "the system may end the model, or other programs, when memory runs out."
        )
        output.note(f"  to give the memory back: foundry model unload {loaded['id']}")


def show_account(loaded: dict[str, Any], url: str) -> None:
    """What `--verbose` adds about a load: where it is served, by what and why, memory, and where the time went."""
    memory = loaded["memory"]
    output.data(f"Service:  {url}/v1 (OpenAI-compatible), worker process {loaded['pid']}")
    output.data(f"Engine:   {loaded['engine']} on {loaded['device']}, because {loaded['engine_reason']}")
    for passed in loaded["engines_left_out"]:
        output.data(f"          not {passed['engine']}: {passed['why']}")
    if loaded["file"] != loaded["id"]:
        output.data(f"File:     {loaded['file']}, a re-encoding of {loaded['id']}")
    if loaded["draft"]:
        output.data(f"Draft:    {loaded['draft']} guesses ahead for it")
    output.data(f"Context:  {loaded['context']} tokens, trained for {loaded['context_trained'] or 'unknown'}")
    if loaded["context_usual"] > loaded["context"]:
        output.data(f"          {loaded['context_usual']} would be usual, and do not fit the memory")
    parts = [("weights", "weights"), ("kv_cache", "KV cache"), ("compute", "compute buffers"), ("process", "process")]
    stated = ", ".join(f"{word} {format_bytes(memory[key])}" for key, word in parts if memory.get(key))
    output.data(f"Memory:   {stated or 'unknown'}")
    own = loaded["engine_load_s"]
    inside = f", of which the engine {own:.2f} s (weights and warm-up)" if own is not None else ""
    output.data(f"Load:     {loaded['load_s']:.2f} s{inside}")


@click.command()
@click.argument("model")
@click.option("--ttl", type=click.IntRange(0), help="Seconds after which it is unloaded when idle; 0 never.")
@click.option("--ctx", type=context.TOKENS, help="Context to load it with, for example 8k or 32768.")
@click.option("--device", help="CPU, GPU or NPU.")
@click.option("--pin/--no-pin", default=None, help="Never unload it for being idle or for the room.")
@click.option("--keep-state", is_flag=True, default=None, help="Save its conversations when another model replaces it.")
@engine_option
@force_option
@context.json_option
def load(
    model: str, ttl: int | None, ctx: int | None, device: str | None, pin: bool | None, keep_state: bool | None,
    engine: str | None, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Load a model in the service, beside those that are loaded."""
    given = context.settings()
    if context.cached(given, model) is None:
        context.catalog(given).require(model)
        raise ModelNotCached(model)
    if as_json:
        instance.start(given)
    else:
        service.started(given)
    loaded = load_model(given, model, Wish(True, ttl, ctx, device, keep_state, pin, force or None, engine))
    warn_of_force(loaded)
    if as_json:
        output.document(loaded)
    else:
        output.data(f"🟢 Model {loaded['id']} loaded successfully")


@click.command()
@click.argument("model", required=False)
@click.option("--all", "every", is_flag=True, help="Unload every model.")
@click.option("--force", is_flag=True, help="Do not wait for answers in flight: cut them.")
@context.json_option
def unload(model: str | None, every: bool, force: bool, as_json: bool) -> None:
    """Unload a model. Answers in flight are finished first."""
    given = context.settings()
    if (model is None) != every:
        raise UsageError("name one model, or --all", hint="foundry model unload --all")
    done = False
    if instance.running(given) is not None:
        if model is None:
            context.with_service(given, lambda client: client.get("/openai/unloadall"))
            done = True
        else:
            answer = context.with_service(
                given, lambda client: client.post("/foundry/unload", {"model": model, "force": force})
            )
            done = answer["unloaded"]
    elif model is not None and context.cached(given, model) is None:
        context.catalog(given).require(model)
    if as_json:
        output.document({"unloaded": done})
    elif every:
        output.data("All models are unloaded")
    else:
        output.data(f"Model {model} was unloaded" if done else f"Model {model} is not loaded")
