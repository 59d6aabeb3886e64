"""Arguments of a person for llama.cpp: what may be, what is refused, and that the real engine goes by them."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfoundry import config
from localfoundry.engines import llama_arguments
from localfoundry.engines.base import Endpoint, LoadRequest
from localfoundry.engines.fake import FakeEngine
from localfoundry.engines.llama_cpp import LlamaCpp
from localfoundry.errors import InvalidSetting
from localfoundry.store.manifest import Manifest
from localfoundry.store.store import Store

# One value for each argument that takes one.
SAMPLES = {
    "--threads": "1", "--threads-batch": "2", "--batch-size": "256", "--ubatch-size": "128", "--cache-type-k": "q8_0",
    "--cache-type-v": "q4_0", "--flash-attn": "on", "--numa": "distribute", "--rope-scaling": "yarn",
    "--rope-freq-base": "20000", "--rope-freq-scale": "0.5", "--yarn-orig-ctx": "1024", "--n-predict": "-1",
    "--keep": "4", "--cache-reuse": "16", "--slot-prompt-similarity": "0.25", "--n-gpu-layers": "0",
    "--spec-draft-model": "m.gguf", "--spec-draft-n-max": "4", "--spec-draft-n-min": "0", "--spec-draft-p-min": "0.5",
    "--spec-type": "ngram-mod", "--spec-ngram-simple-size-n": "4", "--spec-ngram-simple-size-m": "16",
    "--spec-ngram-mod-n-match": "16", "--spec-ngram-mod-n-min": "8", "--spec-ngram-mod-n-max": "32",
}  # fmt: skip
REFUSED = (
    "--host", "--port", "--model", "-m", "--api-key", "--api-key-file", "--path", "--slot-save-path", "--ssl-key-file",
    "--ssl-cert-file", "--log-file", "--lora", "--lora-scaled", "--alias", "--mmproj", "--mmproj-url", "--model-url",
    "--hf-repo", "--hf-token", "--control-vector", "--chat-template-file", "--grammar-file", "--json-schema-file",
    "--lookup-cache-dynamic", "--models-dir", "--rpc", "--model-draft", "--tools", "--media-path", "--props",
    "--api-prefix", "--gpt-oss-20b-default", "--prompt-cache", "--reuse-port", "--HOST", "--host=0.0.0.0",
    "--ctx-size", "-c", "--parallel", "-np",
)  # fmt: skip


# The last that the engine says of a load with speculation.
SPECULATES = "speculative decoding context initialized"


def words(flag: str) -> list[str]:
    return [flag, SAMPLES[flag]] if flag in SAMPLES else [flag]


@pytest.mark.parametrize("flag", REFUSED)
def test_what_opens_files_or_ports_or_is_the_services_own_is_refused_by_name(flag: str) -> None:
    for check in (llama_arguments.native, llama_arguments.bundled):
        with pytest.raises(InvalidSetting) as refused:
            check(["--threads", "1", flag, "x"], "phi-4-mini")
        assert flag.partition("=")[0].lower() in refused.value.message
        assert "engineArguments of phi-4-mini" in refused.value.message


def test_a_native_server_gets_them_as_they_are_and_last() -> None:
    given = ["--threads", "1", "-ctk", "q8_0", "--override-kv", "a=int:-1", "--temp", "-1"]
    assert llama_arguments.native(given, "m") == given
    with pytest.raises(InvalidSetting, match="-xyz is not a short flag"):
        llama_arguments.native(["-xyz"], "m")


def test_the_bundled_engine_gets_parameters() -> None:
    assert llama_arguments.bundled(["-t", "4", "--cache-type-k=q8_0", "--no-mmap", "-fa", "off"], "m") == [
        "cpuparams.n_threads=4",
        "cache_type_k=GGML_TYPE_Q8_0",
        "load_mode=LLAMA_LOAD_MODE_NONE",
        "flash_attn_type=LLAMA_FLASH_ATTN_TYPE_DISABLED",
    ]
    assert llama_arguments.bundled(["--mlock", "--no-mmap"], "m") == ["load_mode=LLAMA_LOAD_MODE_MLOCK"]
    assert llama_arguments.bundled(["--mlock", "--mlock"], "m") == ["load_mode=LLAMA_LOAD_MODE_MMAP_MLOCK"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--temp", "1"], "the bundled engine has no argument '--temp'"),
        (["1"], "the bundled engine has no argument '1'"),
        (["--threads"], "--threads '' is not valid: expected a whole number from 1 to 1024"),
        (["--threads", "many"], "--threads 'many' is not valid"),
        (["--cache-type-k", "q9"], "expected one of f32, f16"),
        (["--rope-freq-base", "1e9"], "expected a number"),
    ],
)
def test_what_the_bundled_engine_cannot_take_is_named_with_what_it_can(given: list[str], said: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        llama_arguments.bundled(given, "m")
    assert said in refused.value.message
    if "no argument" in said:
        assert "--threads" in str(refused.value.hint)


@given(
    st.lists(
        st.text(max_size=12) | st.sampled_from(["-t", "--threads", "--mlock", "--host", "--port", "1"]), max_size=5
    )
)
def test_any_words_are_taken_or_refused(given: list[str]) -> None:
    for check in (llama_arguments.native, llama_arguments.bundled):
        try:
            found = check(given, "m")
        except InvalidSetting:
            continue
        assert not any(word.lower().startswith(("--host", "--port")) for word in found)


def test_the_fake_engine_names_an_argument_that_it_does_not_know(tmp_path: Path) -> None:
    request = LoadRequest("f:1", tmp_path / "f", Endpoint(path="/x"), 512, 1, engine_arguments=("--temp", "1"))
    with pytest.raises(InvalidSetting, match="the fake engine has no argument"):
        FakeEngine().command(request, config.load())


def test_every_argument_of_the_table_is_one_of_the_engine() -> None:
    """A name that the engine does not have would fail at the load of whoever first uses it."""
    settings = [s for flag in llama_arguments.BUNDLED for s in llama_arguments.bundled(words(flag), "m")]
    program = (
        "import sys, xllamacpp\nfrom localfoundry.workers.llama_cpp import _set\n"
        "for given in sys.argv[1:]:\n    _set(xllamacpp.CommonParams(), *given.split('=', 1))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *settings], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(SAMPLES) == {flag for flag, argument in llama_arguments.BUNDLED.items() if argument.value}


@pytest.mark.real_model
def test_the_real_engine_goes_by_them(starter: Manifest, tmp_path: Path) -> None:
    """One thread, a small batch, a quantized cache and weights that are not mapped, in the engine's own words."""
    given = ("--threads", "1", "--batch-size", "256", "-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on", "--no-mmap")
    speculation = ("--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "4")
    log = engine_log(starter, (*given, "--no-warmup", "--rope-freq-base", "20000", *speculation), SPECULATES)
    assert re.search(r"n_threads = 1 \(n_threads_batch = 1\)", log)
    assert re.search(r"n_batch\s*= 256", log)
    assert "K (q8_0)" in log
    assert "V (q8_0)" in log
    assert "CPU_Mapped model buffer" not in log
    assert re.search(r"freq_base\s*= 20000", log)
    assert "warming up" not in log
    assert "size_n=4" in log and SPECULATES in log


def engine_log(manifest: Manifest, given: tuple[str, ...], last: str) -> str:
    """What the bundled worker writes until it is ready and has said `last`; it is ended after that. The engine writes
    from a thread of its own, so that what it says of the load may come after the worker's word that it is done."""
    settings = config.load()
    with tempfile.TemporaryDirectory() as folder:
        endpoint = Endpoint(path=f"{folder}/w.sock")
        file = Store(settings.models_dir).main_file(manifest)
        request = LoadRequest(manifest.id, file, endpoint, 512, 1, manifest.tasks, engine_arguments=given)
        command = LlamaCpp().command(request, settings)
        process = subprocess.Popen(
            command.argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        late = threading.Timer(60, process.kill)
        late.start()
        assert process.stderr is not None
        log, awaited = "", ["engine_load_s=", last]
        for line in process.stderr:
            log += line
            if all(words in log for words in awaited):
                break
        late.cancel()
        process.kill()
        process.communicate()
        return log
