"""Answers to texts about images: of a model's folder, as a library and as ``volta-switch predict``."""

from typing import TYPE_CHECKING

from volta_switch.lazy import lazy_names

if TYPE_CHECKING:
    from volta_switch.predict.predictor import Predictor, load_model

__all__ = ["Predictor", "load_model"]

__getattr__ = lazy_names(__name__, dict.fromkeys(__all__, "volta_switch.predict.predictor"))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
