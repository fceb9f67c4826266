"""The library's side of model folders: ``from_pretrained``, ``save_pretrained``, ``push_to_hub`` and ``predict``.

A model that was loaded keeps what lay beside its weights (vocabulary, labels, card and others), so that it is saved as
it was found, wherever its folder may be by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import nn

from volta_switch.cards.card import is_own_card
from volta_switch.cards.record import parse_record, write_saved_record
from volta_switch.checksums import read_recorded, record_bytes, record_json, refuse_gone
from volta_switch.config import Config, load_config
from volta_switch.config.loading import CONFIG
from volta_switch.config.model_folder import (
    BESIDE,
    CARD,
    LABELS,
    TASK,
    TOKENIZER,
    TRAINING,
    WEIGHTS,
    files_of,
    is_model_folder,
    read_labels,
    task_bytes,
    tasks_in,
    weights_in,
)
from volta_switch.data.regions import Regions
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.errors import UserError
from volta_switch.files import first_there, writing_folder
from volta_switch.hub import VOCABULARY, is_path
from volta_switch.hub_models import SCHEME, is_address, whole_folder
from volta_switch.model.predictions import MATCHING, Images, Prediction, Question, Scorer, predict
from volta_switch.weights.files import read_weights, write_weights
from volta_switch.weights.loading import fingerprint, load_volta, to_volta

HERE = "."  # as a configuration's bert_model: no place on the machine where the model was saved
LIBRARY = "volta-switch"
Model = TypeVar("Model", bound="Pretrained")


if TYPE_CHECKING or find_spec("huggingface_hub") is not None:
    from huggingface_hub import PyTorchModelHubMixin as HubMixin
else:  # models compute with PyTorch and NumPy alone

    class HubMixin:
        """Stands for the hub library's mixin where that is not installed."""

        def __init_subclass__(cls, **_: Any) -> None:
            super().__init_subclass__()

        def save_pretrained(self, *_: Any, **__: Any) -> None:
            """Refuses."""
            raise UserError("save_pretrained, push_to_hub: need the package huggingface_hub; install it (pip)")

        push_to_hub = save_pretrained


class Pretrained(HubMixin, nn.Module, library_name=LIBRARY):
    """A model as a folder, here or on the Hugging Face hub.

    Attributes:
        files: what lay beside the weights of the folder that the model was loaded from, name -> content.
    """

    config: Config
    files: Mapping[str, bytes] = MappingProxyType({})
    _loaded: tuple[Any, ...] = ()  # what the folder's record is about, as it was loaded
    left_out: ClassVar[tuple[str, ...]] = ()
    """Beginnings of names that a file may have, and that this model has nothing for."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[Model], source: str | Path, *, revision: str = "", overrides: Sequence[str] = ()
    ) -> Model:
        """Loads a model, in evaluation mode.

        Args:
            source: a model's folder, ``hf://owner/name[@revision]``, or ``owner/name`` where there is no such folder.
            revision: of the hub's model: a branch, a tag or a commit; its default branch by default.
            overrides: ``key=value`` of its configuration.

        Raises:
            UserError: there is no such folder, its files are damaged or do not fit each other, or it is a model of
                another kind.
        """
        folder = fetched_folder(str(source), revision)
        if not is_model_folder(folder):
            what = "no model's folder" if folder.exists() else "no such folder; a model's is one"
            raise UserError(
                f"{source}: {what} with {CONFIG} (docs/weights.md); other programs' weights are imported "
                "first (volta-switch weights import)"
            )
        own = load_config(folder / CONFIG)  # by its path: a folder may have a shipped configuration's name
        config = load_config(folder / CONFIG, overrides) if overrides else own
        model = cls._empty(folder, config)
        weights = weights_in(folder)
        load_volta(model, read_weights(weights), unused=cls.left_out, source=str(weights))
        others = () if config.bert_model == own.bert_model else (VOCABULARY, TOKENIZER)  # another one was asked for
        refuse_gone([folder / LABELS])  # without them answers would be numbers
        there = (name for name in BESIDE if name not in others and first_there(folder, [name]))
        files = {name: read_recorded(folder / name) for name in there}
        if (card := folder / CARD).is_file() and not is_own_card(card):
            files[CARD] = card.read_bytes()  # that somebody has edited
        model.files = files
        model._loaded = model._state(own)
        return model.eval()

    @classmethod
    def _empty(cls: type[Model], folder: Path, config: Config) -> Model:
        """Returns the model that a folder describes, with initial weights."""
        raise NotImplementedError

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:  # type: ignore[override]
        """Writes a model's folder, whole or not at all, and pushes it where ``push_to_hub=True`` asks for it.

        Args:
            save_directory: the folder; must not exist, or be empty.
            options: of ``push_to_hub``: ``repo_id``, ``commit_message``, ``private``, ``token`` and others.

        Raises:
            UserError: something is there already, or there is no vocabulary.
            OSError: the folder cannot be written; nothing is left.
        """
        push = options.pop("push_to_hub", False)
        repository = options.pop("repo_id", None) or Path(save_directory).name
        with writing_folder(Path(save_directory)) as folder:
            super().save_pretrained(folder)
        return self.push_to_hub(repository, **options) if push else None

    def _save_pretrained(self, save_directory: Path) -> None:
        """Fills a new folder; the mixin calls it."""
        files = self._files()
        loaded = parse_record(files.pop(TRAINING), TRAINING) if TRAINING in files else None
        if CARD in files:
            (save_directory / CARD).write_bytes(files.pop(CARD))
        for name, content in files.items():
            record_bytes(save_directory / name, content)
        record_json(save_directory / CONFIG, {**self.config.to_dict(), "bert_model": HERE})
        write_weights(save_directory / WEIGHTS[0], to_volta(self), recorded=True)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        write_saved_record(save_directory, parameters, loaded, self._loaded != self._state(self.config))

    def _files(self) -> dict[str, bytes]:
        """Returns what lies beside configuration and weights."""
        vocabulary = self.tokenizer.to_text().encode()
        own = files_of(self.config, self.tokenizer.to_json(), regions="not recorded", vocabulary=vocabulary)
        return {**own, **self.files, **self._task_files()}

    def _task_files(self) -> dict[str, bytes]:
        """Returns what a folder says of the model's tasks."""
        return {}

    def _state(self, config: Config) -> tuple[Any, ...]:
        """Returns what decides the model's answers: its weights, configuration and tasks."""
        return fingerprint(self), config, self._task_files()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's own, else that of the configuration's ``bert_model``."""
        if VOCABULARY in self.files:
            return Tokenizer.of_content(self.files[VOCABULARY], VOCABULARY, self.config.do_lower_case)
        return Tokenizer(self.config.bert_model, self.config.do_lower_case)


def fetched_folder(source: str, revision: str = "") -> Path:
    """Returns a model's folder on this machine, fetched where it is the hub's; ``from_pretrained``'s arguments.

    ``owner/name`` is the hub's unless there is a folder of the owner's name here: then it is a path, there or not.
    """
    if not is_address(source) and not is_path(source) and "/" in source:
        source = f"{SCHEME}{source}"
    if revision and (not is_address(source) or "@" in source):
        raise UserError(f"{source}: revision {revision!r} is of a model on the hub that is named without one")
    return whole_folder(f"{source}@{revision}" if revision else source) if is_address(source) else Path(source)


class PretrainedTasks(Pretrained):
    """A model with heads of tasks as a folder, whose ``task.yml`` and ``labels.json`` say what the heads are.

    Attributes:
        tasks: name ("TASK1") -> its entry.
    """

    tasks: dict[str, dict[str, Any]]
    left_out = ("cls.",)

    @classmethod
    def _empty(cls: type[Model], folder: Path, config: Config) -> Model:
        tasks = tasks_in(folder)
        if not tasks:
            raise UserError(
                f"{folder}: has no {TASK}, so that it is a pre-trained model without a task's head: fine-tune it "
                "(train_task.py --from_pretrained), or take BertForVLPreTraining.from_pretrained"
            )
        return cls(config, tasks)  # type: ignore[call-arg]

    def _task_files(self) -> dict[str, bytes]:
        return {TASK: task_bytes(self.tasks)}

    def labels(self, task: str) -> tuple[str, ...]:
        """Returns what each row of a task's head stands for; () where it has no labels, or they are not known."""
        return tuple(read_labels(self.files[LABELS], LABELS).get(task, ())) if LABELS in self.files else ()

    def predict(
        self,
        texts: str | Sequence[str],
        regions: Regions | Sequence[Images],
        *,
        task: str = "",
        batch_size: int = 64,
    ) -> list[Prediction]:
        """Answers each text about its image; no gradient is kept.

        Args:
            texts: (S,) questions, expressions, captions, statements or hypotheses; one stands for every image.
            regions: (S,) what the detector saw in each image; pairs of them for NLVR2; one image stands for every text.
            task: which head, of a model that has several.
            batch_size: texts at a time.

        Returns:
            (S,) predictions. Captions of one image, and images of one caption, are compared with each other.

        Raises:
            UserError: texts and images do not pair off, an image does not fit the model, or the task is not known.
        """
        return predict(self, self.scorer(task), self.question(task), texts, regions, batch_size)

    def question(self, task: str = "") -> Question:
        """Returns what must be known to ask a head; ``task`` and errors as of ``predict``."""
        name = self._named(task)
        entry = self.tasks[name]
        longest = entry.get("max_seq_length") or self.config.max_position_embeddings
        return Question(str(entry["type"]), self.labels(name), int(longest), entry.get("max_region_num"))

    def scorer(self, task: str = "") -> Scorer:
        """Returns what gives a head's scores for inputs, and forced routes; ``task`` and errors as of ``predict``."""
        name = self._named(task)
        return lambda given: self(name, **given).scores

    def _named(self, task: str) -> str:
        """Returns the name of the head that is meant."""
        name = task or (next(iter(self.tasks)) if len(self.tasks) == 1 else "")
        if name not in self.tasks:
            raise UserError(f"predict: task {task!r}; this model has {', '.join(self.tasks)}")
        return name


class PretrainedEncoder(Pretrained):
    """A model with the heads of pre-training as a folder."""

    left_out = ("clfs_dict.",)

    @classmethod
    def _empty(cls: type[Model], folder: Path, config: Config) -> Model:
        return cls(config)  # type: ignore[call-arg]

    def predict(
        self, texts: str | Sequence[str], regions: Regions | Sequence[Images], *, batch_size: int = 64
    ) -> list[Prediction]:
        """Tells how probable it is that each text belongs to its image; arguments as of ``BertForVLTasks.predict``.

        Raises:
            UserError: as there, or the model has no matching head.
        """
        return predict(self, self.scorer(), self.question(), texts, regions, batch_size)

    def question(self, task: str = "") -> Question:
        """Returns what must be known to ask the matching head; there is no other."""
        if task:
            raise UserError(f"predict: task {task!r}; this is a pre-trained model without a task's head")
        return Question(MATCHING, (), self.config.max_position_embeddings)

    def scorer(self, task: str = "") -> Scorer:
        """Returns what gives the matching head's scores (B, 2) for inputs, and forced routes."""

        def scores(given: dict[str, Any]) -> torch.Tensor:
            found = self(**given).seq_relationship_score
            if found is None:
                raise UserError(f"predict: fusion_method {self.config.fusion_method} has no head that matches")
            return found

        return scores
