"""What a configuration may name: the attention modes of Switch-BERT, and the fusions. A new one is one more entry.

Legend: B batch, P pooler width.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AttentionMode:
    """Who attends to whom, 1 or 0 each, and how a report names and colours it."""

    text_to_text: int
    text_to_vision: int
    vision_to_text: int
    vision_to_vision: int
    meaning: str
    fill: str  # lighter from mode to mode, so that they differ in grey, too
    ink: str = "#222222"  # on the fill, at least 4.5 : 1

    @property
    def pairs(self) -> tuple[int, int, int, int]:
        """tt, tv, vt, vv as in VOLTA's sublayer lists: who attends first."""
        return self.text_to_text, self.text_to_vision, self.vision_to_text, self.vision_to_vision

    @property
    def attended(self) -> tuple[str, str]:
        """What the text and what the regions attend to: ``t``, ``v``, or ``tv`` for both."""
        tt, tv, vt, vv = self.pairs
        return "t" * tt + "v" * tv, "t" * vt + "v" * vv


ATTENTION_MODES = {
    "SS": AttentionMode(1, 0, 0, 1, "text attends to text, vision to vision", "#F7E08A"),
    "SC": AttentionMode(1, 0, 1, 0, "both attend to text", "#8FD0B0"),
    "CS": AttentionMode(0, 1, 0, 1, "both attend to vision", "#CC79A7"),
    "J": AttentionMode(1, 1, 1, 1, "both attend to both", "#0072B2", "#ffffff"),
}
ALIGNMENT_NORMS = ("none", "batch", "sample")
PAPER_MODES = ("SS", "SC", "CS", "J")


def _text_alone(text: Any, vision: Any) -> Any:
    return text


@dataclass(frozen=True)
class Fusion:
    """One ``fusion_method`` of a configuration.

    ``combine`` takes the pooled vectors of text and image, (B, P) tensors or None where they are not pooled, and
    returns (B, P). It uses a tensor's operators and methods alone, because configurations are read without PyTorch.
    """

    combine: Callable[[Any, Any], Any]
    pools_text: bool = True
    pools_vision: bool = True
    at_end: bool = False  # the text is pooled at its last token but one in place of [CLS]
    matches: bool = True  # pre-training has a head of image-text matching
    through_pooler: bool = True  # else the states themselves are the pooled vectors
    joins_images: bool = False  # NLVR2's two images stand in one sequence, their regions told apart by token types

    @property
    def rows_of_pair(self) -> int:
        """Rows of a batch that the two images of a statement take."""
        return 1 if self.joins_images else 2


FUSIONS = {
    "mul": Fusion(operator.mul),
    "sum": Fusion(operator.add),
    "text": Fusion(_text_alone, pools_vision=False),
    "vl-bert_vqa": Fusion(_text_alone, pools_vision=False, at_end=True, matches=False),
    "none": Fusion(_text_alone, pools_text=False, pools_vision=False, matches=False),
    # VisualBERT's VQA, as in transformers' VisualBertForQuestionAnswering
    "visualbert_vqa": Fusion(_text_alone, pools_vision=False, at_end=True, matches=False, through_pooler=False),
    # its NLVR2, as in VisualBertForVisualReasoning
    "visualbert_nlvr2": Fusion(_text_alone, pools_vision=False, joins_images=True),
}
