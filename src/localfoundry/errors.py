"""One tree of errors; the command line and the HTTP API each have one handler for it and no table of their own.

    FoundryError
    ├── UsageError               400  the caller asked for something that cannot be
    │   ├── UnknownModel         404  no model, alias or file of that name
    │   ├── ModelNotCached       404  known, but not on this disk
    │   ├── UnknownRun           404  no measured run of that id or name
    │   ├── NotRunnable          400  no engine here can run that variant
    │   ├── InvalidRequest       400  a field of a request is missing, of the wrong type or out of range
    │   ├── ContextLengthExceeded 400 the prompt does not fit the context
    │   ├── RequestTooLarge      413  the body is larger than the service reads
    │   ├── HeadTooLarge         431  the head of a request is larger than the service reads
    │   ├── HostNotAllowed       403  the request is not from this machine, or from another site's web page
    │   ├── InvalidApiKey        401  no API key where one is wanted, or one that is not known, revoked or expired
    │   ├── InsufficientScope    403  the API key does not cover what was asked for
    │   ├── ModelNotAllowed      403  the API key is for other models
    │   ├── InvalidSetting       400  a setting from a file, the environment or a flag
    │   │   ├── UnsafeBind       400  other machines could reach the service, and there is no API key
    │   │   └── BadKeyFile       400  the file of API keys is damaged, or others can read it
    │   ├── InvalidLock          400  a lock file that cannot be read or used
    │   ├── InvalidMachine       400  a description of a machine that cannot be read or used
    │   ├── InvalidResults       400  shared results (models.json) that are damaged, hostile or not what they say
    │   ├── InvalidSuite         400  a suite of tasks that cannot be read or used
    │   ├── NotAModel            400  a file that is not a model, or one that is refused
    │   ├── BadBundle            400  a bundle that is damaged, hostile, or not signed as it should be
    │   ├── BudgetTooSmall       400  less time than a conclusion takes
    │   ├── BadReference         400  a reference for fidelity that is damaged, or of another model
    │   ├── LossyEncoding        400  re-encoding would change a model's weights by more than is allowed
    │   ├── NotCompilable        400  a model that cannot be compiled as asked
    │   ├── DegradedBuild        400  a compiled model is further from its source than is allowed
    │   ├── MissingExtra         400  an optional part of this product is not installed
    │   ├── MissingTool          400  a program of this machine that is needed, such as a compiler, is not there
    │   ├── UnknownEngine        404  no engine, or no build of one, goes by this name
    │   ├── EngineInUse          400  a model runs on the build of an engine that was to be removed
    │   ├── UnsafeArchive        400  an archive that would write elsewhere, or takes more room than it may
    │   └── InsufficientMemory   400  the model does not fit the memory, whatever is unloaded
    ├── RateLimitExceeded        429  an API key has used up its requests or tokens of this minute
    ├── SourceError              400  the place a model comes from
    │   ├── SourceUnreachable    400  no network, no answer, no such host
    │   ├── SourceRefused        400  gated, private, or not there
    │   └── ChecksumMismatch     400  the bytes are not the bytes that were promised
    ├── DiskError                400  the disk: full, read-only, gone
    │   ├── DiskFull             400
    │   ├── DamagedModel         400  bytes of a version are missing or not what they were
    │   ├── DamagedResults       400  the file of everything measured is damaged and was set aside
    │   ├── ModelGone            404  an adopted model whose owner removed it
    │   └── ModelChanged         400  an adopted model whose owner changed its bytes
    ├── BuildFailed              400  a program that builds an engine or makes a model failed or was killed
    │   └── BuildCancelled       400  somebody ended it
    ├── LockMismatch             400  what is here is not what a lock file says
    ├── NothingPasses            404  no model fulfils every wish
    ├── ServiceError             503  the local service
    │   ├── ServiceNotRunning    503
    │   ├── ServiceStartFailed   503
    │   ├── PortInUse            503
    │   ├── QueueFull            429  too many requests wait for the model already
    │   ├── QueueTimeout         503  the request has waited too long for its model
    │   ├── ServiceStopping      503
    │   ├── TooManyConnections   503  as many as the service keeps are open
    │   └── RequestTooSlow       408  the client took too long to send its request
    └── EngineError              500  an engine or its worker
        ├── LoadFailed           400  the engine refused the model; trying again will not help
        │   └── OutOfMemory      400  the engine did not get the memory that was predicted to be there
        ├── WorkerCrashed        503  the worker ended while it was needed; the next request loads it again
        ├── EngineTimeout        504  the worker said nothing for longer than the settings allow
        └── ContextMemoryExhausted 503 requests that run together filled the memory they share

Permanent failures are not 5xx, because OpenAI clients retry 408, 409, 429 and >= 500 by themselves.
The message says what failed, with value and limit. The hint is the command to type next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from localfoundry.wording import without_paths


class FoundryError(Exception):
    """Anything this product reports on purpose."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    type: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, hint: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param

    def document(self) -> dict[str, object]:
        """The error for whoever sits at this machine."""
        error: dict[str, object] = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        if self.hint:
            error["hint"] = self.hint
        return error

    def to_openai(self) -> dict[str, object]:
        """The error object of the OpenAI API, with our `hint` beside it, and without the paths of this machine."""
        words = self.document()
        return {"error": {key: without_paths(word) if isinstance(word, str) else word for key, word in words.items()}}

    def headers(self) -> Mapping[str, str]:
        """What the answer over HTTP says in its headers."""
        return {}


class UsageError(FoundryError):
    """The caller asked for something that cannot be done as asked."""

    code = "invalid_usage"
    status = 400
    exit_code = 2
    type = "invalid_request_error"


class UnknownModel(UsageError):
    """No alias, id, cached repository or file goes by this name; the hint holds the three nearest names."""

    code = "model_not_found"
    status = 404


class ModelNotCached(UsageError):
    """The model is known but its files are not on this disk."""

    code = "model_not_cached"
    status = 404

    def __init__(self, name: str) -> None:
        # The SDKs written for Foundry Local look for the second sentence.
        super().__init__(
            f"model {name} is known but not downloaded. No OpenAIService provider found for modelName {name}",
            hint=f"foundry model download {name}",
            param="model",
        )


class UnknownRun(UsageError):
    """No run that was measured here has this id or baseline name, or more than one begins so."""

    code = "run_not_found"
    status = 404


class NotRunnable(UsageError):
    """No engine that is installed here takes this variant's format."""

    code = "model_not_runnable"


class InvalidRequest(UsageError):
    """A field of a request is missing, has the wrong type or is out of range; `param` names it."""

    code = "invalid_request"


class ContextLengthExceeded(UsageError):
    """The prompt, or the prompt and the answer asked for, do not fit the context. Nothing is ever cut in silence."""

    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context_length: int, model: str, largest: int | None = None) -> None:
        """`largest`: the largest context that this machine's memory and the model's training allow."""
        more = f"foundry model run {model} --ctx {prompt_tokens + 256}"
        if largest is not None and prompt_tokens >= largest:
            more = f"shorten the prompt: {largest} tokens are the most for {model} on this machine"
        super().__init__(
            f"the prompt has {prompt_tokens} tokens, the context of {model} as loaded holds {context_length}",
            hint=more,
            param="messages",
        )
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length
        self.largest_context = largest

    def to_openai(self) -> dict[str, object]:
        body = super().to_openai()
        error = body["error"]
        assert isinstance(error, dict)
        error["prompt_tokens"] = self.prompt_tokens
        error["context_length"] = self.context_length
        error["largest_context"] = self.largest_context
        return body


class RequestTooLarge(UsageError):
    """The body of a request is larger than the service reads."""

    code = "request_too_large"
    status = 413


class HeadTooLarge(UsageError):
    """The request line and headers are larger, or more, than the service reads."""

    code = "headers_too_large"
    status = 431


class HostNotAllowed(UsageError):
    """The request names another host than this machine, or comes from a web page of another site."""

    code = "host_not_allowed"
    status = 403


class InvalidApiKey(UsageError):
    """No API key where one is wanted, or one that is not known here, was revoked, or has expired."""

    code = "invalid_api_key"
    status = 401

    def headers(self) -> Mapping[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class InsufficientScope(UsageError):
    """The API key is good, but does not cover what was asked for; the message names the scope that would."""

    code = "insufficient_scope"
    status = 403


class ModelNotAllowed(UsageError):
    """The API key is limited to certain models, and this one, under whatever name, is not among them."""

    code = "model_not_allowed"
    status = 403


class InvalidSetting(UsageError):
    """A setting has a value it cannot have; the message names key, value and where it came from."""

    code = "invalid_setting"


class UnsafeBind(InvalidSetting):
    """The service was told to listen where other machines reach it, and there is no API key; it did not start."""

    code = "unsafe_bind"


class BadKeyFile(InvalidSetting):
    """The file of API keys is damaged, or others on this machine can read it. Nobody is let in until it is right."""

    code = "bad_key_file"


class InvalidLock(UsageError):
    """A lock file that is not there, cannot be read, or says something that cannot be."""

    code = "invalid_lock"


class InvalidMachine(UsageError):
    """A description of a machine (`foundry hardware --json`) that is damaged, hostile, or of another version."""

    code = "invalid_machine"


class InvalidResults(UsageError):
    """Shared results (`models.json`) that are damaged, hostile, changed since, or hold a secret. Nothing was taken."""

    code = "invalid_results"


class InvalidSuite(UsageError):
    """A suite of tasks (`foundry eval`) that is damaged, too large, hostile, or does not say what to check."""

    code = "invalid_suite"


class NotAModel(UsageError):
    """The file is not a model, is damaged, or is of a kind that is refused (pickle runs code when it is loaded)."""

    code = "not_a_model"


class BadBundle(UsageError):
    """A bundle is damaged, hostile, or not signed by the key that was asked for. Nothing of it was filed."""

    code = "bad_bundle"


class BudgetTooSmall(UsageError):
    """Tuning was given less time than comparing one candidate with the default takes."""

    code = "budget_too_small"


class BadReference(UsageError):
    """A reference for `foundry eval --fidelity` is damaged, or there is none for these weights."""

    code = "bad_reference"


class LossyEncoding(UsageError):
    """A re-encoding was refused: it would change the weights by more than its bound. Nothing of it was kept."""

    code = "lossy_encoding"


class NotCompilable(UsageError):
    """The model cannot be compiled as asked: its architecture, its form, weights as pickle, no tokenizer."""

    code = "model_not_compilable"


class DegradedBuild(UsageError):
    """A compiled model answers worse than its source by more than `--max-loss`; it and its report were kept aside."""

    code = "build_degraded"


class MissingExtra(UsageError):
    """The command needs an optional part of this product that is not installed; the hint is how to install it."""

    code = "missing_extra"


class MissingTool(UsageError):
    """A program of this machine that is needed, such as a compiler, is not there; the hint is how to get it."""

    code = "missing_tool"


class UnknownEngine(UsageError):
    """No engine, or no installed build of one, goes by this name."""

    code = "engine_not_found"
    status = 404


class EngineInUse(UsageError):
    """A model runs on the build of an engine that was to be removed. Nothing was removed."""

    code = "engine_in_use"


class UnsafeArchive(UsageError):
    """An archive of sources that would write outside its folder, holds links, or takes more room than it may."""

    code = "unsafe_archive"


class InsufficientMemory(UsageError):
    """The model does not fit this machine's memory even when everything is unloaded that may be.

    `need_bytes` is what the load takes as predicted or measured before, `free_bytes` what there would be for it, and
    `ways_out` are commands that would work, each with its `kind`, `words`, `model`, `context` and `need_bytes`.
    """

    code = "insufficient_memory"

    def __init__(
        self, message: str, *, need_bytes: int = 0, free_bytes: int = 0, largest_context: int | None = None,
        ways_out: Sequence[Mapping[str, object]] = (), hint: str | None = None, param: str | None = "model",
    ) -> None:  # fmt: skip
        super().__init__(message, hint=hint, param=param)
        self.need_bytes = need_bytes
        self.free_bytes = free_bytes
        self.largest_context = largest_context
        self.ways_out = ways_out

    def to_openai(self) -> dict[str, object]:
        body = super().to_openai()
        error = body["error"]
        assert isinstance(error, dict)
        error |= {"need_bytes": self.need_bytes, "free_bytes": self.free_bytes}
        error |= {"largest_context": self.largest_context, "ways_out": list(self.ways_out)}
        return body


class RateLimitExceeded(FoundryError):
    """An API key has used up its requests or tokens of the last minute; `Retry-After` says when there is room again."""

    code = "rate_limit_exceeded"
    status = 429
    type = "rate_limit_error"
    retry_after_s: int = 1
    left: Mapping[str, str] = {}

    def headers(self) -> Mapping[str, str]:
        return {"Retry-After": str(self.retry_after_s), **self.left}


class SourceError(FoundryError):
    """The place a model comes from could not deliver it."""

    code = "source_error"
    status = 400
    exit_code = 3
    type = "source_error"


class SourceUnreachable(SourceError):
    """No network, no such host, or no answer in time. What is already on the disk still works."""

    code = "source_unreachable"


class SourceRefused(SourceError):
    """The source answered and said no: gated, private, moved or not there."""

    code = "source_refused"


class ChecksumMismatch(SourceError):
    """The bytes that arrived are not the bytes that were promised. The file was not accepted."""

    code = "checksum_mismatch"


class DiskError(FoundryError):
    """The disk said no: read-only, no permission, gone."""

    code = "disk_error"
    status = 400
    exit_code = 4
    type = "disk_error"


class DiskFull(DiskError):
    """There is not enough room. What was downloaded so far is kept, and the next attempt goes on from there."""

    code = "disk_full"


class DamagedResults(DiskError):
    """The file of everything measured is damaged. It was set aside under another name, and a new one begins."""

    code = "results_damaged"


class ModelGone(DiskError):
    """The model was adopted from another tool, and that tool has removed its files since."""

    code = "model_gone"
    status = 404


class ModelChanged(DiskError):
    """The model was adopted from another tool, and its bytes are no longer those that were verified."""

    code = "model_changed"


class DamagedModel(DiskError):
    """Bytes of a version on this disk are missing, cannot be read, or are no longer what they were."""

    code = "model_damaged"


class BuildFailed(FoundryError):
    """A program that builds an engine or makes a model did not start, failed or was killed; steps before it stay."""

    code = "build_failed"
    status = 400


class BuildCancelled(BuildFailed):
    """Building an engine or making a model was ended by somebody. What was there before is as it was."""

    code = "build_cancelled"


class LockMismatch(FoundryError):
    """What is on this machine is not what a lock file says; each difference was named."""

    code = "lock_mismatch"
    status = 400
    type = "lock_error"


class NothingPasses(FoundryError):
    """No model fulfils every wish; which wishes exclude everything was told, and the hint is what somebody passes."""

    code = "nothing_passes"
    status = 404
    type = "invalid_request_error"


class ServiceError(FoundryError):
    """The local service could not be started, reached or kept."""

    code = "service_error"
    status = 503
    exit_code = 5
    type = "service_error"


class ServiceNotRunning(ServiceError):
    """The command needs the service and it is not running."""

    code = "service_not_running"

    def __init__(self) -> None:
        super().__init__("the service is not running", hint="foundry service start")


class ServiceStartFailed(ServiceError):
    """The service process ended before it was ready; the message holds its own words."""

    code = "service_start_failed"


class PortInUse(ServiceError):
    """Something else listens on the port; the message says what, where that can be known."""

    code = "port_in_use"


class QueueFull(ServiceError):
    """So many requests wait for the model that one more is not kept. Clients may try again later."""

    code = "queue_full"
    status = 429

    def headers(self) -> Mapping[str, str]:
        return {"Retry-After": "5"}


class QueueTimeout(ServiceError):
    """The request waited for its model, or for a free place there, until its time was over. Nothing was generated."""

    code = "queue_timeout"


class ServiceStopping(ServiceError):
    """The service is shutting down and takes no new work."""

    code = "service_stopping"


class TooManyConnections(ServiceError):
    """As many connections as `maxConnections` allows are open; one that closes makes room."""

    code = "too_many_connections"


class RequestTooSlow(ServiceError):
    """The client took longer than `requestTimeoutSeconds` to send its request; the connection is closed."""

    code = "request_too_slow"
    status = 408


class EngineError(FoundryError):
    """An engine or its worker process failed."""

    code = "engine_error"
    exit_code = 6
    type = "engine_error"


class LoadFailed(EngineError):
    """The engine refused the model; the message holds its own words. Trying again will not help."""

    code = "load_failed"
    status = 400


class OutOfMemory(LoadFailed):
    """The engine did not get the memory it asked for, although the prediction said that it was there."""

    code = "out_of_memory"


class WorkerCrashed(EngineError):
    """The worker ended while it was needed. Other models are not touched; the next request loads this one again."""

    code = "worker_crashed"
    status = 503


class EngineTimeout(EngineError):
    """The worker kept the connection and sent nothing: no first token, or no next one, in the time of the settings.

    504 and not 4xx: a stall is the worker's, and the next try finds another slot or another worker.
    """

    code = "engine_timeout"
    status = 504


class ContextMemoryExhausted(EngineError):
    """Requests that each fit the context filled, together, the memory they share. It passes when others are done."""

    code = "context_memory_exhausted"
    status = 503
