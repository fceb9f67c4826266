"""Downstream tasks: one file each, found by the ``type`` of a task file's entry."""

from volta_switch.config import Config
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.errors import UserError
from volta_switch.tasks.gqa import GqaTask
from volta_switch.tasks.nlvr2 import Nlvr2Task
from volta_switch.tasks.refer import ReferTask
from volta_switch.tasks.retrieval import RetrievalTask
from volta_switch.tasks.snli_ve import SnliVeTask
from volta_switch.tasks.task import DataOptions, Evaluation, Task
from volta_switch.tasks.task_file import TaskSpec, load_task
from volta_switch.tasks.vqa import VqaTask

TASKS: dict[str, type[Task]] = {
    "VL-classifier": VqaTask,
    "VL-classifier-GQA": GqaTask,
    "VL-logit": RetrievalTask,
    "V-logit": ReferTask,
    "VL-binary-classifier": Nlvr2Task,
    "VL-tri-classifier": SnliVeTask,
}


def build_task(spec: TaskSpec, config: Config, tokenizer: Tokenizer, options: DataOptions) -> Task:
    """The task that an entry describes.

    Raises:
        UserError: this project has no data set for the entry's ``type``.
    """
    if spec.type not in TASKS:
        raise UserError(f"{spec.key} ({spec.name}): no data set for type {spec.type}; there are {', '.join(TASKS)}")
    return TASKS[spec.type](spec, config, tokenizer, options)


__all__ = ["TASKS", "DataOptions", "Evaluation", "Task", "TaskSpec", "build_task", "load_task"]
