"""A small deterministic world of scenes and texts in VOLTA's file formats, which needs both modalities."""

from typing import TYPE_CHECKING

from volta_switch.lazy import lazy_names

if TYPE_CHECKING:
    from volta_switch.world.build import one_writer, write_world
    from volta_switch.world.commands import add_world_arguments, run_world
    from volta_switch.world.spec import WorldSpec

__all__ = ["WorldSpec", "add_world_arguments", "one_writer", "run_world", "write_world"]

_BUILD = dict.fromkeys(("one_writer", "write_world"), "volta_switch.world.build")
_COMMANDS = dict.fromkeys(("add_world_arguments", "run_world"), "volta_switch.world.commands")
__getattr__ = lazy_names(__name__, {**_BUILD, **_COMMANDS, "WorldSpec": "volta_switch.world.spec"})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
