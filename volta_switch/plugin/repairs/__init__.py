"""What stops VOLTA (62f78cd) on today's packages or on any, and what corrupts its numbers, each mended by one function.

A repair changes attributes of modules from outside; no file of the checkout is touched. ``@stops`` ones are applied
unless ``--without`` names them, ``@corrupts`` ones only where ``--fix`` does. The function's name, with hyphens, is the
repair's; its docstring says what is wrong; the decorator says where in VOLTA, and when it is applied: before VOLTA is
imported ("packages"), before the script is ("volta"), or to the script itself ("script").
"""

from volta_switch.plugin.repairs import ablation, packages, pretraining, stopping, tasks  # each fills the list
from volta_switch.plugin.script import REPAIRS, choose

__all__ = ["REPAIRS", "ablation", "choose", "packages", "pretraining", "stopping", "tasks"]
