"""Downstream tasks, found by the ``type`` of a task file's entry."""

from __future__ import annotations

from volta_switch.config import Config
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.tasks.gqa import GqaTask
from volta_switch.tasks.inputs import inputs_of
from volta_switch.tasks.nlvr2 import Nlvr2Task
from volta_switch.tasks.refer import ReferTask
from volta_switch.tasks.retrieval import RetrievalTask
from volta_switch.tasks.snli_ve import SnliVeTask
from volta_switch.tasks.task import DataOptions, Task
from volta_switch.tasks.task_file import TaskSpec
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
    inputs_of(spec)
    return TASKS[spec.type](spec, config, tokenizer, options)
