"""What stops VOLTA's cross-modal ablation, and what corrupts its numbers.

Legend: B batch, R regions with the global one, F feature width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from volta_switch.plugin.script import LANG4VIS, VIS4LANG, Script, corrupts, stops

FEATURES = 5  # where samples of both data sets have their regions' features (R, F)


@stops("ablate_vis4lang.py:189, ablate_lang4vis.py:186", scripts=(VIS4LANG, LANG4VIS))
def ablated_values(script: Script) -> None:
    """The ablation expects five values of a model that gives six."""

    @script.wrap(script.volta("encoders").BertForVLPreTraining, "forward")
    def forward(original: Any, *args: Any, **options: Any) -> Any:
        words, regions, match, _answers, *rest = original(*args, **options)
        return (words, regions, match, *rest)


@stops("volta/encoders.py:1142", scripts=(LANG4VIS,))
def unlabelled_regions(script: Script) -> None:
    """A model with visual targets that is given classes of regions, and not which ones are masked, crashes."""

    @script.wrap(script.volta("encoders").BertForVLPreTraining, "forward")
    def forward(original: Any, self: Any, *args: Any, **options: Any) -> Any:
        if options.get("image_label") is not None:
            return original(self, *args, **options)
        weights, self.visual_target_weights = self.visual_target_weights, {}
        try:
            return original(self, *args, **options)
        finally:
            self.visual_target_weights = weights


@corrupts("volta/datasets/flickr30ke_ablation_dataset.py:428", scripts=(VIS4LANG,))
def ablated_global(script: Script) -> None:
    """Where the global region is last, its new mean is written over the first box, and the global one stays whole."""

    class Last(str):
        def __bool__(self) -> bool:  # so that VOLTA writes nothing
            return False

    def average(features: Tensor, place: str | None) -> None:
        if place == "last":
            features[-1] = features[:-1].mean(0)

    dataset = script.volta("datasets").FlickrVis4LangDataset

    @script.wrap(dataset, "__init__")
    def init(original: Any, self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        if self._add_global_imgfeat == "last":
            self._add_global_imgfeat = Last("last")

    _change_features(script, dataset, average)


@corrupts("volta/datasets/flickr30ke_ablation_dataset.py:627", scripts=(LANG4VIS,))
def masked_global(script: Script) -> None:
    """The global region's feature is the mean of all boxes, the masked ones too: it tells what is to be predicted."""

    def average(features: Tensor, place: str | None) -> None:
        if place is not None:
            boxes = features[:-1] if place == "last" else features[1:]
            free = (boxes != 0).any(1).sum().clamp(min=1)  # masked ones are zeros
            features[-1 if place == "last" else 0] = boxes.sum(0) / free

    _change_features(script, script.volta("datasets").FlickrLang4VisDataset, average)


def _change_features(script: Script, dataset: Any, change: Callable[[Tensor, str | None], None]) -> None:
    @script.wrap(dataset, "__getitem__")
    def sample(original: Any, self: Any, index: int) -> Any:
        given = original(self, index)
        change(given[FEATURES], self._add_global_imgfeat)
        return given


@corrupts("volta/datasets/flickr30ke_ablation_dataset.py:630", scripts=(LANG4VIS,))
def unseen_objects(script: Script) -> None:
    """Of an object that no region shows, the loss is 0, or that of a region that is not masked; fixed, left out."""
    module = script.volta("datasets.flickr30ke_ablation_dataset")

    @script.wrap(module.FlickrLang4VisDataset, "__init__")
    def init(original: Any, self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        place = self._add_global_imgfeat
        boxes_at = {"first": slice(1, None), "last": slice(-1), None: slice(None)}[place]

        def is_seen(entry: Any) -> bool:
            boxes = torch.tensor(self._image_features_reader[entry["image_id"]][3][boxes_at, :4]).float()
            return bool((module.iot(boxes, torch.tensor(entry["refBoxes"]).float()) > self.threshold).any())

        self._entries = [entry for entry in self._entries if is_seen(entry)]


@corrupts("ablate_vis4lang.py:211", scripts=(VIS4LANG,))
def cut_phrases(script: Script) -> None:
    """A phrase behind the cut of the text has no loss, and the mean is not a number; fixed, left out."""

    @script.wrap(script.volta("datasets").FlickrVis4LangDataset, "__init__")
    def init(original: Any, self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self._entries = [entry for entry in self._entries if bool((entry["lm_label_ids"] != -1).any())]
