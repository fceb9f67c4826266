"""Everything that is known of why a model gives an answer, in one record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from volta_switch.explain.attention import Attention, attention_of
from volta_switch.explain.gradients import gradient_times_input
from volta_switch.explain.occlusion import Worth, joint_worth, worth_of_regions, worth_of_words
from volta_switch.explain.route_choices import Choice, route_choices
from volta_switch.explain.subject import Subject
from volta_switch.model.bert import BertForVLPreTraining, BertForVLTasks
from volta_switch.model.predictions import Images

METHODS = ("occlusion", "attention", "gradient")


@dataclass(frozen=True, eq=False)
class Explanation:
    """What was measured of one text about its images.

    Attributes:
        subject: what was asked.
        words, regions: what each part is worth to the answer, by occlusion.
    """

    subject: Subject
    words: Worth
    regions: Worth

    @cached_property
    def joint(self) -> np.ndarray:
        """(words, regions) as ``joint_worth``."""
        return joint_worth(self.subject, self.words.change, self.regions.change)

    @cached_property
    def attention(self) -> Attention:
        """Where attention goes."""
        return attention_of(self.subject)

    @cached_property
    def choices(self) -> list[Choice]:
        """The route, and what each choice is worth; [] without switchers."""
        return route_choices(self.subject)

    @cached_property
    def _gradients(self) -> tuple[np.ndarray, np.ndarray]:
        return gradient_times_input(self.subject)

    def of_words(self, method: str) -> np.ndarray:
        """Returns the value of each word by one of ``METHODS``, (words,)."""
        if method == "occlusion":
            return self.words.change
        values = self._gradients[0] if method == "gradient" else self.attention.to_answer()[:, : self.attention.T]
        return word_values(self.subject, values)

    def of_regions(self, method: str) -> np.ndarray:
        """Returns the value of each region by one of ``METHODS``, (regions,), in the order of ``Subject.places``."""
        if method == "occlusion":
            return self.regions.change
        values = self._gradients[1] if method == "gradient" else self.attention.to_answer()[:, self.attention.T :]
        return region_values(self.subject, values)


def word_values(subject: Subject, values: np.ndarray) -> np.ndarray:
    """Returns the sums over the words' pieces, and over the rows of a batch, of values (B, T): (words,)."""
    return np.array([values[:, list(word.places)].sum() for word in subject.words])


def region_values(subject: Subject, values: np.ndarray) -> np.ndarray:
    """Returns the regions' own of values (B, R) of slots: (regions,)."""
    return np.array([values[subject.row_and_slot(place)] for place in subject.places])


def explain(
    model: BertForVLTasks | BertForVLPreTraining,
    text: str,
    images: Images,
    task: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> Explanation:
    """Explains what a model answers to a text about its image, or about NLVR2's two.

    Args:
        model: a model of this project; it is put into evaluation mode.
        text: the question, expression, caption, statement or hypothesis.
        images: what the detector saw.
        task: which head, of a model that has several.
        say: is told how much there is to compute, before it is.

    Raises:
        UserError: as ``predict``.
    """
    model.eval()
    subject = Subject.of(model, text, images, task)
    say(f"the model is asked {1 + len(subject.words) + len(subject.places)} times, each without one word or region")
    return Explanation(subject, worth_of_words(subject), worth_of_regions(subject))
