"""A small deterministic world of scenes and texts in VOLTA's file formats, which needs both modalities."""

from volta_switch.world.build import add_world_arguments, one_writer, run_world, write_world
from volta_switch.world.spec import WorldSpec

__all__ = ["WorldSpec", "add_world_arguments", "one_writer", "run_world", "write_world"]
