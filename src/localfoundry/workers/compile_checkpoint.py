"""The weights of a GGUF file in float32 as a Hugging Face folder: `compile_checkpoint.py FILE.gguf FOLDER`.

What compilers start from, made offline by `transformers` out of what is on the disk: every value is the file's own,
multiplied out. Nothing of this product is imported: see `compile_child.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    import torch
    import transformers

    file, folder = Path(arguments[0]), Path(arguments[1])
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    model.hf_quantizer = None  # the weights have been multiplied out, and a model that says otherwise cannot be saved
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
