"""ONNX folders of the starter model in 8 and 4 bits, without any hub: GGUF, Hugging Face folder, model builder.

Needs an environment of its own, because torch is large and nothing else here uses it:

    python -m venv /tmp/onnx-models
    /tmp/onnx-models/bin/pip install torch==2.13.0 transformers gguf onnx onnx-ir onnxruntime-genai
    /tmp/onnx-models/bin/python benchmarks/onnx_models.py STARTER.gguf FOLDER

Writes FOLDER/hf (float32 weights as they are in the GGUF), FOLDER/onnx-int8 and FOLDER/onnx-int4 (as the model builder
of ONNX Runtime GenAI makes them by default, for the processor). A folder that is there already is left as it is. About
two minutes on two cores, 540 MB + 270 MB + 90 MB. The starter's file: `foundry model info smollm2-135m`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

PRECISIONS = ("int8", "int4")


def to_hugging_face(gguf: Path, folder: Path) -> None:
    """The weights in float32, the configuration, the tokenizer and the chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model.hf_quantizer = None  # the weights have been dequantized, and a model that says otherwise cannot be saved
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def to_onnx(hugging_face: Path, folder: Path, precision: str) -> None:
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "--input", str(hugging_face)]
    command += ["--output", str(folder), "--precision", precision, "--execution_provider", "cpu"]
    command += ["--cache_dir", str(folder.parent / "cache")]
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    hugging_face = options.folder / "hf"
    if not hugging_face.exists():
        to_hugging_face(options.gguf.absolute(), hugging_face)
    for precision in PRECISIONS:
        made = options.folder / f"onnx-{precision}"
        if not made.exists():
            to_onnx(hugging_face, made, precision)
        print(made)


if __name__ == "__main__":
    main()
