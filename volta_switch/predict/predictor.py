"""A model's folder that is asked about images by their ids or paths.

In three lines::

    from volta_switch.predict import Predictor

    predictor = Predictor.load("my-model", features="trainval_feat.lmdb")
    (answer,) = predictor("what color is the cube ?", "391895")
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from volta_switch.config.model_folder import tasks_in
from volta_switch.data.regions import Regions
from volta_switch.errors import UserError
from volta_switch.model.bert import BertForVLPreTraining, BertForVLTasks
from volta_switch.model.predictions import Prediction, Question, compared, predict
from volta_switch.model.pretrained import fetched_folder
from volta_switch.predict.picture_detector import detector_for
from volta_switch.predict.region_sources import PictureDetector, RegionSources
from volta_switch.predict.requests import Request

Model = BertForVLTasks | BertForVLPreTraining


def load_model(source: str | Path) -> Model:
    """Loads a model with heads of tasks or, of a folder without a task, a pre-trained one.

    Args:
        source: as ``from_pretrained`` takes it: a run's folder, ``hf://owner/name[@revision]``, or ``owner/name``.

    Raises:
        UserError: as ``from_pretrained``.
    """
    folder = fetched_folder(str(source))
    if tasks_in(folder):
        return BertForVLTasks.from_pretrained(folder)
    return BertForVLPreTraining.from_pretrained(folder)


@dataclass(frozen=True)
class Predictor:
    """A model, its head, and where images' regions come from.

    Attributes:
        model: in evaluation mode.
        sources: of regions.
        features: the feature file of images that are given by their ids; "": images are pictures.
        task: which head, of a model that has several.
    """

    model: Model
    sources: RegionSources
    features: str = ""
    task: str = ""

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        features: str | Path = "",
        detector: PictureDetector | str | Path | None = None,
        task: str = "",
        cache: str | Path | None = None,
    ) -> Predictor:
        """Loads a model's folder or address.

        Args:
            source: as ``load_model`` takes it.
            features: the feature file of images that are given by their ids.
            detector: finds the regions of pictures: its folder or address, or an object that does it.
            task: which head, of a model that has several.
            cache: the folder in which regions of pictures are kept; None: below ~/.cache.

        Raises:
            UserError: as ``load_model``, or the model has no such head.
        """
        model = load_model(source)
        folder = None if cache is None else Path(cache)
        if isinstance(detector, str | Path):
            detector = detector_for(model.files, detector, width=model.config.v_feature_size)
        sources = RegionSources(model.config.v_feature_size, model.files, detector, folder)
        made = cls(model, sources, str(features), task)
        made.question  # noqa: B018  refuses an unknown task now
        return made

    @property
    def question(self) -> Question:
        """What must be known to ask the head."""
        return self.model.question(self.task)

    def remarks(self, texts: Sequence[str]) -> list[str]:
        """Says of each text what the model does not read of it, once each; [] where it reads all."""
        said = (str(self.model.tokenizer.unread(text, self.question.longest)) for text in texts)
        return list(dict.fromkeys(filter(None, said)))

    def __call__(
        self,
        texts: str | Sequence[str],
        images: str | Path | Regions | Sequence[str | Path | Regions | tuple[str | Path | Regions, ...]],
        *,
        batch_size: int = 64,
    ) -> list[Prediction]:
        """Answers texts about images, as the model's own ``predict`` does about regions.

        Args:
            texts: (S,) or one that is asked about every image.
            images: (S,) ids, paths or regions, or pairs of them for NLVR2; or one that every text is about.
            batch_size: texts at a time.

        Raises:
            UserError: as ``predict``, or an image is not there.
        """
        if isinstance(images, str | Path | Regions):
            return self._ask(texts, self._regions(images), batch_size)
        known = [
            tuple(map(self._regions, each)) if isinstance(each, tuple | list) else self._regions(each)
            for each in images
        ]
        return self._ask(texts, known, batch_size)

    def answers(self, requests: Sequence[Request], batch_size: int = 64) -> Iterator[list[Prediction]]:
        """Yields the answers to each request, about ``batch_size`` pairs of text and images at a time.

        Raises:
            UserError: an image cannot be used, or the model's answer to it; the request is named.
        """
        for request in requests:  # before the first image is looked at, which may take long
            try:
                self.sources.check(request.images, request.features)
            except UserError as error:
                raise request.refusal(str(error)) from None
        left = iter(requests)
        while some := list(islice(left, batch_size)):
            yield from self._answered(some, batch_size)

    def _answered(self, requests: Sequence[Request], batch_size: int) -> Iterator[list[Prediction]]:
        question = self.question
        regions: dict[tuple[str, str], Regions] = {}
        for request in requests:
            for image in request.images:
                if (request.features, image) not in regions:
                    try:
                        regions[request.features, image] = self.sources.regions(image, request.features)
                    except UserError as error:
                        raise request.refusal(str(error)) from None
        pairs = [
            (text, tuple(regions[request.features, image] for image in images))
            for request in requests
            for text, images in request.pairs(question)
        ]
        try:
            found = iter(self._ask([text for text, _ in pairs], [images for _, images in pairs], batch_size))
        except UserError as error:
            if len(requests) == 1:
                raise requests[0].refusal(str(error).removeprefix("predict: ")) from None
            for request in requests:  # one of them has the problem, and names itself
                list(self._answered([request], batch_size))
            raise
        for request in requests:
            yield compared(list(islice(found, len(request.pairs(question)))), question)

    def _ask(self, texts: str | Sequence[str], images: object, batch_size: int) -> list[Prediction]:
        scorer, question = self.model.scorer(self.task), self.question
        return predict(self.model, scorer, question, texts, images, batch_size)  # type: ignore[arg-type]

    def _regions(self, image: str | Path | Regions) -> Regions:
        return image if isinstance(image, Regions) else self.sources.regions(str(image), self.features)
