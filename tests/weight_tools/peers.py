"""Small random models of other projects, computed by their own code: weights, inputs and outputs.

``PEERS_HOME`` names a folder with checkouts by their repositories' names (``UNITER``, ``vilbert-multi-task``). Of them
nothing but numbers is kept: ``PEERS_HOME=... python tests/weight_tools/peers.py`` writes ``golden/own_*.safetensors``,
with which every machine compares; tests that see the checkouts compute them again.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import types
from pathlib import Path

import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parents[1] / "golden"
HOME = os.environ.get("PEERS_HOME", "")
B, T, R, F, V, C = 3, 7, 5, 16, 41, 12
TEXT = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 40, "max_position_embeddings": 20}
VISION = {"v_feature_size": F, "v_target_size": C, "v_hidden_size": 32, "v_num_hidden_layers": 2}
VISION |= {"v_num_attention_heads": 2, "v_intermediate_size": 36, "bi_hidden_size": 48, "bi_num_attention_heads": 3}
VISION |= {"v_biattention_id": [0, 1], "t_biattention_id": [1, 2]}
NAMES = ("uniter", "vilbert", "12in1")


def computed(name: str) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Returns ``state/...``, ``input/...`` and ``output/...``, and the settings beside such a project's weights."""
    torch.manual_seed(2)
    return uniter() if name == "uniter" else vilbert(with_tasks=name == "12in1")


def uniter() -> tuple[dict[str, Tensor], dict[str, object]]:
    norm = types.ModuleType("apex.normalization.fused_layer_norm")
    norm.FusedLayerNorm = nn.LayerNorm  # the same numbers, without its CUDA kernel
    stand_ins = {"apex": types.ModuleType("apex"), "apex.normalization": types.ModuleType("apex.normalization")}
    modules = _modules("UNITER", "model", ("layer", "model", "ot", "pretrain"), {**stand_ins, norm.__name__: norm})
    config = modules["model"].UniterConfig(V, num_hidden_layers=3, **TEXT)
    model = _shaken(modules["pretrain"].UniterForPretraining(config, F, C))
    given = inputs(locations=7)
    both = torch.cat((given["attention_mask"], given["image_attention_mask"]), 1)
    everything = torch.arange(T + R)[None].expand(B, -1)
    states = model.uniter(
        given["input_ids"], torch.arange(T)[None], given["image_feat"], given["image_loc"], both, everything,
        output_all_encoded_layers=False, txt_type_ids=given["token_type_ids"],
    )  # fmt: skip
    pooled = model.uniter.pooler(states)
    output = {
        "words": model.cls(states[:, :T]), "regions": model.region_classifier(states[:, T:]), "pooled": pooled,
        "match": model.itm_output(pooled), "sequence_t": states[:, :T], "sequence_v": states[:, T:],
    }  # fmt: skip
    return _tensors(model, given, output), {"num_attention_heads": 4}


def vilbert(with_tasks: bool) -> tuple[dict[str, Tensor], dict[str, object]]:
    """12-in-1's word for the task is left away where its numbers are compared: no model here has it."""
    base = types.ModuleType("peer.utils")

    class PreTrainedModel(nn.Module):  # theirs downloads and saves, too, for which it imports half a dozen packages
        def __init__(self, config, *inputs, **kwargs):
            super().__init__()
            self.config = config

        def _tie_or_clone_weights(self, first, second):
            first.weight = second.weight

    base.PreTrainedModel = PreTrainedModel
    their = _modules("vilbert-multi-task", "vilbert", ("vilbert",), {base.__name__: base})["vilbert"]
    config = their.BertConfig(V, num_hidden_layers=3, task_specific_tokens=with_tasks, **TEXT, **VISION)
    kind = their.VILBertForVLTasks if with_tasks else their.BertForMultiModalPreTraining
    model = _shaken(kind(config, 1) if with_tasks else kind(config))
    if with_tasks:  # thousands of answers of numbers that nothing is compared with
        for head in (model.vil_prediction, model.vil_prediction_gqa):
            head.logit_fc[3] = nn.Linear(head.logit_fc[3].in_features, 3)
    for part in (model.bert, model.bert.embeddings):
        part.task_specific_tokens = False
    given = inputs(locations=5)
    order = ("input_ids", "image_feat", "image_loc", "token_type_ids", "attention_mask", "image_attention_mask")
    text, vision, pooled_text, pooled_vision, _ = model.bert(*(given[name] for name in order))
    words, regions, match = model.cls(text, vision, pooled_text, pooled_vision)
    output = {
        "words": words, "regions": regions, "match": match, "pooled": pooled_text, "pooled_v": pooled_vision,
        "sequence_t": text, "sequence_v": vision,
    }  # fmt: skip
    return _tensors(model, given, output), {"num_attention_heads": 4, **VISION}


def inputs(locations: int) -> dict[str, Tensor]:
    """A batch with padding on both sides."""
    generator = torch.Generator().manual_seed(1)
    text, regions = torch.ones(B, T, dtype=torch.long), torch.ones(B, R, dtype=torch.long)
    text[1, 5:], regions[2, 3:] = 0, 0
    words = torch.randint(5, V, (B, T), generator=generator).masked_fill(text == 0, 0)
    return {
        "input_ids": words,
        "image_feat": torch.randn(B, R, F, generator=generator),
        "image_loc": torch.rand(B, R, locations, generator=generator),
        "token_type_ids": torch.randint(0, 2, (B, T), generator=generator),
        "attention_mask": text,
        "image_attention_mask": regions,
    }


def _modules(repository: str, folder: str, names: tuple[str, ...], stand_ins: dict) -> dict[str, types.ModuleType]:
    """Imports files of a checkout as the package ``peer``, over stand-ins for what they do not compute with."""
    root = Path(HOME, repository, folder)
    package = types.ModuleType("peer")
    package.__path__ = [str(root)]
    before, found = dict(sys.modules), {}
    sys.modules.update({"peer": package, **stand_ins})
    try:
        for name in names:
            spec = importlib.util.spec_from_file_location(f"peer.{name}", root / f"{name}.py")
            found[name] = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(found[name])
    finally:
        for name in [name for name in sys.modules if name not in before]:
            del sys.modules[name]
    return found


def _shaken(model: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def _tensors(model: nn.Module, given: dict[str, Tensor], output: dict[str, Tensor]) -> dict[str, Tensor]:
    parts = {"state": model.state_dict(), "input": given, "output": output}
    return {
        f"{part}/{name}": tensor.detach().clone().contiguous()
        for part, tensors in parts.items()
        for name, tensor in tensors.items()
    }


if __name__ == "__main__":
    from safetensors.torch import save_file

    for each in NAMES:
        tensors, settings = computed(each)
        save_file(tensors, GOLDEN / f"own_{each}.safetensors")
        (GOLDEN / f"own_{each}.json").write_text(json.dumps(settings, indent=1) + "\n")
