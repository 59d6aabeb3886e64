"""A program written for Foundry Local, as its users write it: the SDK and the OpenAI client, nothing of ours.

    python sdk_program.py ALIAS

It prints what it found as one JSON object on its last line. The service that it started stays.
"""

from __future__ import annotations

import json
import sys

from foundry_local import FoundryLocalManager
from foundry_local.logging import set_verbosity_info
from openai import OpenAI


def main() -> None:
    set_verbosity_info()
    alias = sys.argv[1]
    manager = FoundryLocalManager(alias)
    info = manager.get_model_info(alias)
    found: dict[str, object] = {
        "endpoint": manager.endpoint,
        "running": manager.is_service_running(),
        "location": manager.get_cache_location(),
        "catalog": [model.alias for model in manager.list_catalog_models()],
        "cached": [model.id for model in manager.list_cached_models()],
        "loaded": [model.id for model in manager.list_loaded_models()],
        "id": info.id,
        "by_name": manager.get_model_info(info.id.split(":")[0]).id,
        "upgradeable": manager.is_model_upgradeable(alias),
    }
    client = OpenAI(base_url=manager.endpoint, api_key=manager.api_key)
    question = [{"role": "user", "content": "Explain edge AI in one sentence."}]
    answer = client.chat.completions.create(model=info.id, messages=question, max_tokens=4)
    found["answer"] = answer.choices[0].message.content
    stream = client.chat.completions.create(model=info.id, messages=question, max_tokens=4, stream=True)
    found["streamed"] = "".join(event.choices[0].delta.content or "" for event in stream if event.choices)
    found["models"] = [model.id for model in client.models.list()]
    manager.download_model(alias)
    manager.unload_model(alias)
    found["left"] = [model.id for model in manager.list_loaded_models()]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
