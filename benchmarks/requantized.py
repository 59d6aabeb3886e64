"""The starter model in other quantizations, made from its own file without a compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
from gguf import GGMLQuantizationType as Type
from gguf import quants

_FILE_TYPES = {Type.F16: 1, Type.Q4_0: 2, Type.Q4_1: 3, Type.Q8_0: 7, Type.Q5_0: 8, Type.Q5_1: 9}


def write(source: gguf.GGUFReader, kind: Type, path: Path) -> None:
    """`source` with every matrix in `kind`; norms stay as they are."""
    writer = gguf.GGUFWriter(path, source.fields["general.architecture"].contents())
    for name, field in source.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)
    writer.add_file_type(_FILE_TYPES[kind])
    for tensor in source.tensors:
        data: Any = tensor.data
        if len(tensor.shape) > 1:
            data = quants.quantize(quants.dequantize(tensor.data, tensor.tensor_type), kind)
            writer.add_tensor(tensor.name, data, raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
