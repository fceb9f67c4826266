"""The fusions: how the pooled vectors of a text and an image become one. A new one is one entry in ``FUSIONS``.

Legend: B batch, P pooler width.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


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


FUSIONS = {
    "mul": Fusion(operator.mul),
    "sum": Fusion(operator.add),
    "text": Fusion(_text_alone, pools_vision=False),
    "vl-bert_vqa": Fusion(_text_alone, pools_vision=False, at_end=True, matches=False),
    "none": Fusion(_text_alone, pools_text=False, pools_vision=False, matches=False),
}
