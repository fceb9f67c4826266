"""Switch-BERT inside an unmodified VOLTA checkout (github.com/e-bug/volta), and VOLTA on today's packages.

``register()`` puts the switched encoder into VOLTA's models. ``volta-switch volta SCRIPT ...`` (or ``python -m
volta_switch.plugin SCRIPT ...``) runs one of VOLTA's own scripts with it, and with the repairs that VOLTA needs to run
at all. VOLTA's files are never written to.

    encoder       the switched encoder behind VOLTA's signature; register() and unregister()
    checkout      where VOLTA is, importing from it without leaving a trace, the packages that it needs
    replacements  patched attributes, stand-ins for packages, pickles loaded without running code
    script        running a script of the checkout; how repairs are listed, chosen and applied
    repairs/      what stops VOLTA or corrupts its numbers, each mended by one function
    commands      the command line
"""

from typing import TYPE_CHECKING

from volta_switch.lazy import lazy_names

if TYPE_CHECKING:
    from volta_switch.plugin.encoder import VoltaSwitchEncoder, encoder_config, register, unregister

__all__ = ["VoltaSwitchEncoder", "encoder_config", "register", "unregister"]

__getattr__ = lazy_names(__name__, dict.fromkeys(__all__, "volta_switch.plugin.encoder"))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
