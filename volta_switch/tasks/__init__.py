"""Downstream tasks: one file each, found by the ``type`` of a task file's entry.

``task_file`` and ``inputs`` tell what a task is and which files it reads without PyTorch; the tasks themselves are
imported when they are asked for.
"""

from typing import TYPE_CHECKING

from volta_switch.lazy import lazy_names
from volta_switch.tasks.task_file import TaskSpec, load_task

if TYPE_CHECKING:
    from volta_switch.tasks.registry import TASKS, build_task
    from volta_switch.tasks.task import DataOptions, Evaluation, Task

__all__ = ["TASKS", "DataOptions", "Evaluation", "Task", "TaskSpec", "build_task", "load_task"]

_TASKS = dict.fromkeys(("DataOptions", "Evaluation", "Task"), "volta_switch.tasks.task")
_REGISTRY = dict.fromkeys(("TASKS", "build_task"), "volta_switch.tasks.registry")
__getattr__ = lazy_names(__name__, {**_TASKS, **_REGISTRY})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
