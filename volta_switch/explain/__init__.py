"""Why a model answers what it answers: what words and regions are worth to it, attention, gradients, routes."""

from typing import TYPE_CHECKING

from volta_switch.lazy import lazy_names

if TYPE_CHECKING:
    from volta_switch.explain.explanation import Explanation, explain
    from volta_switch.explain.page import page_of

__all__ = ["Explanation", "explain", "page_of"]

_HOMES = {**dict.fromkeys(("Explanation", "explain"), "explanation"), "page_of": "page"}
__getattr__ = lazy_names(__name__, {name: f"volta_switch.explain.{home}" for name, home in _HOMES.items()})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
