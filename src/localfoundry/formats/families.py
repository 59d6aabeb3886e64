"""How the known families of models write a conversation: golden renderings as data, written from their model cards.

A family is recognised by its markers. Where the same markers are used with different spacing, each spelling stands for
itself: a template must agree with one of them to the character, since models were trained on exactly that.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spelling:
    """One conversation's turns; `{}` is the content. `prompt` is what asks for an answer."""

    user: str
    assistant: str
    prompt: str = ""

    def conversation(self, *contents: str) -> str:
        """Contents in turn by user and assistant, then the prompt."""
        forms = (self.user, self.assistant)
        return "".join(forms[i % 2].replace("{}", text) for i, text in enumerate(contents)) + self.prompt


@dataclass(frozen=True, slots=True)
class Family:
    """`markers` all stand in a rendering of the family, and `stop` ends an assistant's turn."""

    name: str
    markers: tuple[str, ...]
    stop: str
    spellings: tuple[Spelling, ...] = ()


def _tagged(opening: str, between: str, end: str, assistant: str = "assistant") -> Spelling:
    """`opening` holds `{}` for the role."""
    user, model = opening.replace("{}", "user") + between, opening.replace("{}", assistant) + between
    return Spelling(user + "{}" + end, model + "{}" + end, model)


# The first whose markers are all there: the more particular stand before the more general.
FAMILIES = (
    Family("Phi-4", ("<|im_start|>", "<|im_sep|>"), "<|im_end|>",
           (_tagged("<|im_start|>{}", "<|im_sep|>", "<|im_end|>"),)),
    Family("ChatML", ("<|im_start|>",), "<|im_end|>", (_tagged("<|im_start|>{}", "\n", "<|im_end|>\n"),)),
    Family("Llama 3", ("<|start_header_id|>",), "<|eot_id|>",
           (_tagged("<|start_header_id|>{}<|end_header_id|>", "\n\n", "<|eot_id|>"),)),
    Family("Llama 4", ("<|header_start|>",), "<|eot|>",
           (_tagged("<|header_start|>{}<|header_end|>", "\n\n", "<|eot|>"),)),
    Family("Gemma", ("<start_of_turn>",), "<end_of_turn>",
           (_tagged("<start_of_turn>{}", "\n", "<end_of_turn>\n", "model"),)),
    Family("DeepSeek", ("<｜User｜>",), "<｜end▁of▁sentence｜>",
           (Spelling("<｜User｜>{}", "<｜Assistant｜>{}<｜end▁of▁sentence｜>", "<｜Assistant｜>"),)),
    Family("Phi-3", ("<|user|>", "<|end|>"), "<|end|>",
           (_tagged("<|{}|>", "\n", "<|end|>\n"), _tagged("<|{}|>", "", "<|end|>"))),
    Family("Granite", ("<|start_of_role|>",), "<|end_of_text|>",
           (_tagged("<|start_of_role|>{}<|end_of_role|>", "", "<|end_of_text|>\n"),)),
    Family("Harmony", ("<|start|>", "<|message|>"), "<|return|>"),
    Family("Command", ("<|START_OF_TURN_TOKEN|>",), "<|END_OF_TURN_TOKEN|>"),
    Family("Mistral", ("[INST]",), "</s>",
           tuple(Spelling(f"[INST]{a}{{}}{b}[/INST]", f"{c}{{}}{d}</s>")
                 for a in ("", " ") for b in ("", " ") for c in ("", " ") for d in ("", " "))),
    Family("Zephyr", ("<|user|>", "</s>"), "</s>", (_tagged("<|{}|>", "\n", "</s>\n"),)),
    Family("Vicuna", ("USER:", "ASSISTANT:"), "</s>"),
    Family("Alpaca", ("### Instruction:", "### Response:"), "</s>"),
)  # fmt: skip


def family_of(rendered: str) -> Family | None:
    """The family that a rendering of a whole conversation belongs to."""
    return next((f for f in FAMILIES if all(marker in rendered for marker in f.markers)), None)
