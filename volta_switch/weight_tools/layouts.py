"""Whose checkpoints are known, and how each is read and written.

A layout is a function from a file's weights to the overrides of a shipped configuration, and the places of its names
(``Places``). ``importing`` does the rest, and accounts for every name. Back lead the same places, and a function from a
configuration to the settings that the layout's program reads (``exporting``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from volta_switch.config import Config
from volta_switch.errors import UserError
from volta_switch.hub import HUB_WEIGHTS
from volta_switch.weight_tools import single_stream, two_streams
from volta_switch.weight_tools.given import GivenWeights
from volta_switch.weight_tools.places import Places
from volta_switch.weights.loading import LXMERT, UNITER, VILBERT, VISUAL_BERT, VOLTA_LXMERT, project_of


@dataclass(frozen=True)
class Written:
    """How a program's files are written from a model of this project."""

    settings: Callable[[Config, Mapping[str, Tensor], str], tuple[dict[str, Any], Places]]
    """From a configuration, its weights, and the task whose head the answers are ("": none)."""
    sublayers: Callable[[Config], Iterable[str]]
    """Overrides of the sublayer lists of the layout's own model that comes nearest to a configuration."""
    prefix: str
    """Of what is no head."""
    file: str


@dataclass(frozen=True)
class Layout:
    """A program's way to name an architecture's weights."""

    name: str
    """As ``--format`` gives it."""
    projects: tuple[str, ...]
    """Of ``loading.project_of``."""
    base: str
    """The shipped configuration that it is a variant of."""
    read: Callable[[GivenWeights, str], tuple[list[str], Places]]
    """From weights, and the task whose head the answers become ("": none)."""
    regions: str
    """What its region features are, as its project says."""
    written: Written | None = None


_BOTTOM_UP = "boxes of the Visual Genome Faster R-CNN (bottom-up attention)"
_ALL = (
    Layout(
        *("lxmert", LXMERT, "lxmert", two_streams.lxmert, f"36 {_BOTTOM_UP}"),
        Written(two_streams.lxmert_settings, two_streams.lxmert_sublayers, "lxmert.", HUB_WEIGHTS[0]),
    ),
    Layout("volta-lxmert", VOLTA_LXMERT, "lxmert", two_streams.volta_lxmert, f"36 {_BOTTOM_UP}"),
    Layout(
        *("visualbert", VISUAL_BERT, single_stream.VISUAL_BERT, single_stream.visualbert),
        "another detector for each task",
        Written(single_stream.visualbert_settings, single_stream.visualbert_sublayers, "visual_bert.", HUB_WEIGHTS[0]),
    ),
    Layout(
        *("uniter", UNITER, single_stream.UNITER, single_stream.uniter, f"10 to 100 {_BOTTOM_UP}"),
        Written(single_stream.uniter_settings, single_stream.uniter_sublayers, "uniter.", HUB_WEIGHTS[1]),
    ),
    Layout(
        *("vilbert", VILBERT, two_streams.VILBERT, two_streams.vilbert, "up to 100 boxes of a ResNeXt Faster R-CNN"),
        Written(two_streams.vilbert_settings, two_streams.vilbert_sublayers, "bert.", HUB_WEIGHTS[1]),
    ),
)
LAYOUTS = {layout.name: layout for layout in _ALL}


def layout_of(names: Iterable[str], source: str, name: str = "") -> Layout:
    """Returns the layout of a file's names.

    Args:
        names: as ``loading.normalised`` gives them.
        source: where they came from, for messages.
        name: ask for this one.

    Raises:
        UserError: it is none of ``LAYOUTS``, or another one than was asked for.
    """
    project = project_of(names)
    found = next((layout for layout in LAYOUTS.values() if project in layout.projects), None)
    if found is None or (name and found.name != name):
        what = f"these are weights of {project}" if project else "their names are those of no layout that is known"
        wanted = f"--format {name}: " if name else ""
        raise UserError(f"{source}: {wanted}{what}; imported are {', '.join(LAYOUTS)}")
    return found
