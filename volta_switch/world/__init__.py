"""The synthetic world: deterministic scenes and texts in VOLTA's file formats, which need both modalities.

A world's parameters and flags are read without NumPy; what draws and writes it is imported when it is asked for.
"""

from typing import TYPE_CHECKING

from volta_switch.lazy import lazy_names
from volta_switch.world.spec import WorldSpec, add_world_arguments

if TYPE_CHECKING:
    from volta_switch.world.build import run_world, world_lock, write_world

__all__ = ["WorldSpec", "add_world_arguments", "run_world", "world_lock", "write_world"]

__getattr__ = lazy_names(
    __name__, dict.fromkeys(("run_world", "world_lock", "write_world"), "volta_switch.world.build")
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
