"""Ask several models the same question and print how long each took and how its answer begins.

    python simple_bench.py [model ...]

Models come from the command line, else from BENCH_MODELS (separated by commas or spaces), else three common ones.
FOUNDRY_URL says where the service listens (default http://localhost:8000). Needs `requests`.

One request a model is a first impression and not a measurement: it holds the loading of a model that was not loaded,
and it says nothing of its spread. `foundry bench` measures.
"""

from __future__ import annotations

import os
import sys
import time

import requests

DEFAULT_MODELS = ["phi-4-mini", "qwen2.5-7b-instruct", "deepseek-r1-distill-qwen-7b"]
PROMPT = "Explain edge AI in one sentence."
MAX_TOKENS = 64
TIMEOUT_S = 30


def ask(url: str, model: str) -> tuple[float, str]:
    """Seconds until the whole answer was there, and the answer. Raises requests' errors and LookupError."""
    request = {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": MAX_TOKENS}
    began = time.perf_counter()
    response = requests.post(f"{url}/v1/chat/completions", json=request, timeout=TIMEOUT_S)
    took = time.perf_counter() - began
    if not response.ok:
        raise requests.HTTPError(f"HTTP {response.status_code}: {reason(response)}")
    return took, response.json()["choices"][0]["message"]["content"]


def reason(response: requests.Response) -> str:
    """The server's own words where it gave any."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return response.text.strip()[:200] or response.reason


def chosen_models() -> list[str]:
    return sys.argv[1:] or os.environ.get("BENCH_MODELS", "").replace(",", " ").split() or DEFAULT_MODELS


def main() -> int:
    if hasattr(sys.stdout, "reconfigure"):  # a model may answer in letters that the console's code page lacks
        sys.stdout.reconfigure(errors="replace")
    url = os.environ.get("FOUNDRY_URL", "http://localhost:8000").rstrip("/")
    failed = 0
    print(f"{PROMPT!r}, {MAX_TOKENS} tokens at most, {url}\n")
    for model in chosen_models():
        try:
            took, answer = ask(url, model)
        except (requests.RequestException, LookupError, TypeError) as error:
            failed += 1
            print(f"{model}: error: {error}\n")
            continue
        print(f"{model}: {took:.2f} s")
        print(f"    {' '.join((answer or '').split())[:100]}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
