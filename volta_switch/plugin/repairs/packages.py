"""What stops VOLTA on today's packages and machines."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from volta_switch.errors import UserError
from volta_switch.plugin.checkout import package_of
from volta_switch.plugin.replacements import (
    MASKS,
    apex_parallel,
    installed,
    package,
    stand_in,
    stand_ins,
    to_cpu,
    version,
)
from volta_switch.plugin.script import Script, stops


@stops("tools/refer/external/mask.py:4", "packages")
def refer_masks(script: Script) -> None:
    """tools/refer imports a C extension that builds only with Cython 0.29, for masks that are not used."""
    tools = script.home / "tools"
    reason = "segmentation masks are not needed for boxes; build tools/refer's C extension to use them"
    modules = {
        "tools": package("tools", tools),  # another package of that name would go before a folder
        "tools.refer": package("tools.refer", tools / "refer"),
    }
    if not list((tools / "refer" / "external").glob("_mask.*so")):
        modules["tools.refer.external._mask"] = stand_in("tools.refer.external._mask", reason, *MASKS)
    _stand_in(script, modules)


@stops(
    "tools/refer/refer.py:36, tools/refer/refer.py:37",
    "packages",
    needed=lambda: not (installed("skimage") and installed("matplotlib")),
)
def refer_pictures(script: Script) -> None:
    """tools/refer imports scikit-image and matplotlib, to draw what no script draws."""
    for name in ("skimage", "matplotlib"):
        reason = f"pictures of referring expressions are drawn with it; pip install {package_of(name)}"
        _stand_in(script, stand_ins(name, reason))


@stops("volta/datasets/wikipedias_dataset.py:17", "packages", needed=lambda: not installed("datasets"))
def wikipedias(script: Script) -> None:
    """Hugging Face's datasets is imported by every script, for a data set that the four do not read."""
    _stand_in(
        script, stand_ins("datasets", "Wikipedia's texts are read with Hugging Face's datasets; pip install datasets")
    )


@stops(
    "volta/datasets/concept_cap_dataset.py:201", "packages", needed=lambda: not os.environ.get("TENSORPACK_SERIALIZE")
)
def serializer(script: Script) -> None:
    """tensorpack reads pickles by default since 0.9.9; Conceptual Captions' records are msgpack."""
    script.patches.set_item(os.environ, "TENSORPACK_SERIALIZE", "msgpack")


@stops("volta/datasets/concept_cap_dataset.py:216", "packages", needed=lambda: version("tensorpack") >= (0, 9, 9))
def reader_process(script: Script) -> None:
    """tensorpack starts the reader inside a worker that may not start one since 0.9.9: the first batch never comes."""
    import tensorpack.dataflow as td

    class StartedAtOnce(td.PrefetchData):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            super().reset_state()

        def reset_state(self) -> None:
            """Do nothing: the process runs."""

    script.patches.set(td, "PrefetchData", StartedAtOnce)


@stops("volta/datasets/concept_cap_dataset.py:203", "packages")
def reader_memory(script: Script) -> None:
    """The reader keeps 5,000 records of 0.6 MB, copies of each other where the data set has fewer, twice over."""
    import tensorpack.dataflow as td

    for name in ("LocallyShuffleData", "PrefetchData"):

        @script.wrap(td, name)
        def limited(original: Any, ds: Any, size: int, *args: Any, **options: Any) -> Any:
            return original(ds, max(3, min(size, len(ds))), *args, **options)


@stops("volta/datasets/concept_cap_dataset.py:553", "packages", needed=lambda: version("transformers") >= (5,))
def special_tokens(script: Script) -> None:
    """Tokenizers have no build_inputs_with_special_tokens since transformers 5."""
    from transformers import PreTrainedTokenizerBase

    def build_inputs_with_special_tokens(self: Any, token_ids: list[int]) -> list[int]:
        return [self.cls_token_id, *token_ids, self.sep_token_id]

    script.patches.set(PreTrainedTokenizerBase, "build_inputs_with_special_tokens", build_inputs_with_special_tokens)


@stops("train_concap.py:240", "packages", needed=lambda: not torch.cuda.is_available())
def cpu(script: Script) -> None:
    """.cuda() is called on models and batches whether or not there is a GPU."""
    script.patches.set(Tensor, "cuda", to_cpu)
    script.patches.set(nn.Module, "cuda", to_cpu)


@stops("train_concap.py:247", "packages", needed=lambda: not installed("apex.parallel"))
def apex_ddp(script: Script) -> None:
    """Several processes need apex; the index's package of that name is another project. PyTorch's own stands in."""
    _stand_in(script, {"apex.parallel": apex_parallel()})
    if "apex" not in sys.modules and not installed("apex"):
        _stand_in(script, {"apex": stand_in("apex", "")})


@stops("train_concap.py:83", "packages", needed=lambda: "LOCAL_RANK" in os.environ)
def local_rank(script: Script) -> None:
    """torchrun passes no --local_rank: every process would train a run of its own."""
    if not torch.cuda.is_available():
        raise UserError("several processes of VOLTA need one GPU each; start one process, without torchrun")
    path, *argv = sys.argv  # one that is given goes after it, and counts
    script.patches.set(sys, "argv", [path, f"--local_rank={os.environ['LOCAL_RANK']}", *argv])


@stops(
    "volta/datasets/_image_features_reader.py:49",
    "packages",
    needed=lambda: multiprocessing.get_start_method() != "fork",
)
def forked_workers(script: Script) -> None:
    """Loader processes are not forked on macOS and since Python 3.14, and an open LMDB cannot be sent to them."""
    multiprocessing.set_start_method("fork", force=True)


def _stand_in(script: Script, modules: Mapping[str, ModuleType]) -> None:
    for name, module in modules.items():
        script.patches.set_item(sys.modules, name, module)
