"""The attention modes of Switch-BERT (paper table 1); a new one is one more entry of ``ATTENTION_MODES``.

The paper's four are what ``switch.modes`` holds where a configuration does not name others.
"""

from __future__ import annotations

from dataclasses import dataclass


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
PAPER_MODES = ("SS", "SC", "CS", "J")
