"""Access to VOLTA's reference tensors (``tests/golden``): small models, inputs, outputs, losses and gradients."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

FOLDER = Path(__file__).parent / "golden"
ARCHITECTURES = ("ctrl_uniter", "ctrl_vilbert", "ctrl_lxmert", "ctrl_vl-bert", "ctrl_visualbert", "ctrl_interbert")
EVERY = (*ARCHITECTURES, "route_mixed")
LABELS = (
    "masked_lm_labels", "image_label", "image_cls", "obj_labels", "obj_confs", "attr_labels", "attr_confs",
    "next_sentence_label",
)  # fmt: skip


@dataclass(frozen=True)
class Golden:
    """One reference model."""

    name: str
    config: dict[str, Any]
    tasks: dict[str, dict[str, Any]]
    parameters: int

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file  # here, not above: a configuration is read without it

        return load_file(FOLDER / f"{self.name}.safetensors")

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) + 1 :]: v.clone() for k, v in self.tensors.items() if k.startswith(prefix + "/")}

    @property
    def inputs(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.part("input").items() if name not in LABELS}


@lru_cache
def load_golden(name: str) -> Golden:
    spec = json.loads((FOLDER / f"{name}.json").read_text())
    return Golden(name, spec["config"], spec["tasks"], spec["parameters"])


def relative_error(found: Tensor, reference: Tensor) -> float:
    """Largest difference, relative to 1 + the largest reference value: the measure of every parity claim."""
    if not reference.numel():
        return 0.0
    return float((found.detach() - reference).abs().max() / (1 + reference.abs().max()))
