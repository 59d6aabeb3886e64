"""What a model can be compiled into: format, precision and device, as a person names them and as tools take them.

The ONNX builder's own default for 4 bits costs a fifth of the starter model's perplexity; the options here are those
that did best of ten by measured fidelity (docs/compile.md has the table).
"""

from __future__ import annotations

from dataclasses import dataclass

from localfoundry.errors import UsageError

FORMATS = ("onnx", "gguf", "openvino")
PRECISIONS = ("int4", "int8", "fp16", "bf16", "fp32")
DEVICES = {"cpu": "cpu", "cuda": "cuda", "dml": "dml", "webgpu": "webgpu", "trt-rtx": "NvTensorRtRtx"}
_ONNX = {  # what the builder makes for each provider; only the first line is tried here
    "cpu": ("int4", "int8", "fp32"),
    "cuda": ("int4", "int8", "fp16", "bf16", "fp32"),
    "dml": ("int4", "fp16"),
    "webgpu": ("int4", "int8"),
    "trt-rtx": ("fp16", "bf16"),
}
_MIXED = "last_matmul:int8,mixed_layers:int8"
_ONNX_OPTIONS = {
    "int4": {"algo_config": "rtn", "is_symmetric": "false", "block_size": "32", "matmul_mixed_precision": _MIXED},
    "int8": {"algo_config": "rtn", "is_symmetric": "true", "block_size": "32"},
}
# Of GGUF: what the converter writes by itself; everything else is quantized from a file in float16 after it.
CONVERTED = {"F32": "f32", "F16": "f16", "BF16": "bf16", "Q8_0": "q8_0"}
_QUANTIZED = (
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M",
    "Q6_K", "IQ4_NL", "IQ4_XS",
)  # fmt: skip
QUANTS = (*CONVERTED, *_QUANTIZED)
_QUANT_OF = {"int4": "Q4_K_M", "int8": "Q8_0", "fp16": "F16", "bf16": "BF16", "fp32": "F32"}
_BITS = {
    "int4": 4.5, "int8": 8.5, "fp16": 16, "bf16": 16, "fp32": 32, "F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5,
    "Q4_0": 4.6, "Q4_1": 5.1, "Q5_0": 5.6, "Q5_1": 6.1, "Q2_K": 3.4, "Q3_K_S": 3.7, "Q3_K_M": 4.1, "Q3_K_L": 4.4,
    "Q4_K_S": 4.7, "Q4_K_M": 5.0, "Q5_K_S": 5.6, "Q5_K_M": 5.8, "Q6_K": 6.7, "IQ4_NL": 4.6, "IQ4_XS": 4.4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """What is wanted. `precision` is a type of GGUF there, and a precision elsewhere."""

    format: str
    precision: str
    device: str = "cpu"

    @property
    def words(self) -> str:
        return f"{self.format} {self.precision}" + (f" {self.device}" if self.format == "onnx" else "")

    @property
    def suffix(self) -> str:
        """What the name of the new version ends with."""
        if self.format == "gguf":
            return self.precision.lower()
        return f"{self.format}-{self.precision}" + (f"-{self.device}" if self.device != "cpu" else "")

    @property
    def options(self) -> dict[str, str]:
        """Of the ONNX builder."""
        return _ONNX_OPTIONS.get(self.precision, {}) if self.format == "onnx" else {}

    @property
    def tried(self) -> bool:
        """Whether this product's own tests build and run it."""
        return self.device == "cpu"

    def size_bytes(self, parameters: int) -> int:
        """About how large the result will be: for checks of room, not a promise."""
        return int(parameters * _BITS[self.precision] / 8 * 1.25) + 20_000_000


def parse(format: str, precision: str | None, quant: str | None, device: str) -> Target:
    """A target from what a person typed. Raises UsageError with what there is."""
    device = device.strip().lower()
    if format not in FORMATS:
        raise UsageError(f"models are compiled to {', '.join(FORMATS)}, not {format[:50]}", param="format")
    if device not in DEVICES:
        raise UsageError(f"devices are {', '.join(DEVICES)}, not {device[:50]}", param="device")
    if device != "cpu" and format != "onnx":
        raise UsageError(f"only ONNX is compiled for a device; {format} runs on every one", param="device")
    if quant is not None and format != "gguf":
        raise UsageError(f"--quant is for GGUF; say --precision for {format}", hint=f"--precision {_any(format)}")
    if format == "gguf":
        return Target("gguf", _quant(precision, quant))
    return Target(format, _precision(format, precision, device), device)


def _quant(precision: str | None, quant: str | None) -> str:
    wanted = quant or _QUANT_OF[_known(precision or "int8")]
    found = next((name for name in QUANTS if name.lower() == wanted.strip().lower()), None)
    if found is None:
        raise UsageError(f"GGUF files are made in {', '.join(QUANTS)}, not {wanted[:50]}", param="quant")
    return found


def _precision(format: str, precision: str | None, device: str) -> str:
    allowed = ("int8",) if format == "openvino" else _ONNX[device]
    wanted = _known(precision or allowed[0])
    if wanted not in allowed:
        what = f"{format} for {device}" if format == "onnx" else format
        raise UsageError(f"{what} is made in {', '.join(allowed)}, not {wanted}", param="precision")
    return wanted


def _known(precision: str) -> str:
    found = precision.strip().lower()
    if found not in PRECISIONS:
        raise UsageError(f"precisions are {', '.join(PRECISIONS)}, not {precision[:50]}", param="precision")
    return found


def _any(format: str) -> str:
    return "int8" if format == "openvino" else "int4"
