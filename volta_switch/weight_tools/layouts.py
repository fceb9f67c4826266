"""Whose checkpoints are known, and how each is read.

A layout is a function from a file's weights to the overrides of a shipped configuration, and the places of its names
(``Places``). ``importing`` does the rest, and accounts for every name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from volta_switch.errors import UserError
from volta_switch.weight_tools.given import GivenWeights
from volta_switch.weight_tools.places import Places
from volta_switch.weight_tools.single_stream import uniter, visualbert
from volta_switch.weight_tools.two_streams import lxmert, vilbert, volta_lxmert
from volta_switch.weights.loading import LXMERT, UNITER, VILBERT, VISUAL_BERT, VOLTA_LXMERT, project_of


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


_BOTTOM_UP = "boxes of the Visual Genome Faster R-CNN (bottom-up attention)"
_ALL = (
    Layout("lxmert", LXMERT, "lxmert", lxmert, f"36 {_BOTTOM_UP}"),
    Layout("volta-lxmert", VOLTA_LXMERT, "lxmert", volta_lxmert, f"36 {_BOTTOM_UP}"),
    Layout("visualbert", VISUAL_BERT, "ctrl_visualbert_base", visualbert, "another detector for each task"),
    Layout("uniter", UNITER, "ctrl_uniter_base", uniter, f"10 to 100 {_BOTTOM_UP}"),
    Layout("vilbert", VILBERT, "vilbert_base", vilbert, "up to 100 boxes of a ResNeXt Faster R-CNN"),
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
