"""The synthetic world: deterministic scenes and texts in VOLTA's file formats, which need both modalities.

A world's parameters and flags are read without NumPy; what draws and writes it is imported when it is asked for.
"""

from typing import TYPE_CHECKING

from volta_switch.lazy import lazy_names
from volta_switch.world.spec import WorldSpec

if TYPE_CHECKING:
    from volta_switch.world.build import world_lock, write_world
    from volta_switch.world.spec import add_world_arguments, run_world

__all__ = ["WorldSpec", "add_world_arguments", "run_world", "world_lock", "write_world"]

_BUILD = dict.fromkeys(("world_lock", "write_world"), "volta_switch.world.build")
_COMMANDS = dict.fromkeys(("add_world_arguments", "run_world"), "volta_switch.world.spec")
__getattr__ = lazy_names(__name__, {**_BUILD, **_COMMANDS})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
