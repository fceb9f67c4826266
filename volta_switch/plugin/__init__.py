"""Switch-BERT inside an unmodified VOLTA checkout (github.com/e-bug/volta), and VOLTA on today's packages.

``register()`` puts the switched encoder into VOLTA's models. ``volta-switch volta SCRIPT ...`` (or ``python -m
volta_switch.plugin SCRIPT ...``) runs one of VOLTA's own scripts with it, and with the repairs that VOLTA needs to run
at all. VOLTA's files are never written to.

    encoder       the switched encoder behind VOLTA's signature
    registration  register() and unregister()
    checkout      where VOLTA is, and importing from it without leaving a trace
    patches       changing attributes of other people's modules, and taking the changes back
    repairs/      what stops VOLTA or corrupts its numbers, each mended by one function
    catalogue     how repairs are listed and chosen
    stand_ins     modules in place of packages that VOLTA imports but does not need here
    pickles       VOLTA's own caches and records, read without running code
    script        running a script of the checkout
    command_line  the script's flags, with its files found
    commands      the command line
"""

from typing import TYPE_CHECKING

from volta_switch.lazy import lazy_names

if TYPE_CHECKING:
    from volta_switch.plugin.encoder import VoltaSwitchEncoder, encoder_config
    from volta_switch.plugin.registration import register, unregister

__all__ = ["VoltaSwitchEncoder", "encoder_config", "register", "unregister"]

_ENCODER = dict.fromkeys(("VoltaSwitchEncoder", "encoder_config"), "volta_switch.plugin.encoder")
_REGISTRATION = dict.fromkeys(("register", "unregister"), "volta_switch.plugin.registration")
__getattr__ = lazy_names(__name__, {**_ENCODER, **_REGISTRATION})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
