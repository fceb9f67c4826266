"""Every fix of how pre-training's weights begin, at which rate they train and how a run is resumed.

Set VOLTA_HOME to a checkout of github.com/e-bug/volta; without it these tests are skipped.
Tolerances: the deviation of random weights within a tenth, rates 1e-6 of themselves; all else is exact.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from plugin.volta_runs import VoltaWorld, checkpoint_of, config_of, volta_checkout

volta_checkout()

NUMPY_MSGPACK = True  # as VOLTA's modules leave it
SCRIPT = "train_concap.py"
VL_BERT = {"image_embeddings": "vl-bert", "v_coordinate_embeddings_dim": 256, "type_vocab_size": 3}


def flags_of(world: VoltaWorld, *more: Any, out: Path = Path("out"), **config: Any) -> list[Any]:
    """A command line of train_concap.py for a small ctrl_uniter; ``config`` are fields of its configuration."""
    return [*world.flags(SCRIPT, "ctrl_uniter", out), "--config_file", world.config("ctrl_uniter", **config), *more]


# --- Weights and their rates ----------------------------------------------------------------------------------------


def embedding_values(world: VoltaWorld, fix: Sequence[str], **config: Any) -> tuple[torch.Tensor, Any]:
    """All freshly made numbers of a model's embedding tables, and the configuration.

    Of the words' table, VOLTA's heads make new ones after it; VL-BERT's other tables are made as they should be.
    """
    with world.prepared(SCRIPT, *flags_of(world, **config), fix=fix) as script:
        torch.manual_seed(0)
        read = config_of(script)
        embeddings = script.volta("encoders").BertForVLPreTraining(read).bert.embeddings
    left = ("word_embeddings", "object_linguistic_embeddings", "object_mask_word", "object_mask_visual")
    tables = {
        name: module.weight.detach()
        for name, module in embeddings.named_modules()
        if isinstance(module, torch.nn.Embedding) and not name.startswith(left)
    }
    if read.image_embeddings == "visualbert":  # the visual tables begin as copies
        for kind in ("position_embeddings", "token_type_embeddings"):
            assert torch.equal(tables[kind], tables.pop(f"{kind}_visual"))
    return torch.cat([table.flatten() for table in tables.values()]), read


@pytest.mark.parametrize("config", [{}, {"image_embeddings": "visualbert"}, VL_BERT], ids=["uniter", "visual", "vl"])
def test_shared_embeddings_from_scratch_are_small(world, config):
    for fix, deviation in (((), 1.0), (("embeddings-from-scratch",), 0.02)):
        values, read = embedding_values(world, fix, initializer_range=0.02, **config)
        assert read.initializer_range == 0.02 and len(values) > 1000
        assert float(values.std()) == pytest.approx(deviation, rel=0.1)
        assert abs(float(values.mean())) < 0.1 * deviation


@pytest.fixture(scope="module")
def bert(world) -> dict[str, str]:
    """A small BERT's weights in a folder of the working directory: their names, and VOLTA's names of them."""
    values = json.loads(Path(world.config("ctrl_uniter")).read_text())
    D, wide = values["hidden_size"], values["intermediate_size"]
    shapes, there = {}, {}
    for name, rows in (
        ("word", "vocab_size"),
        ("position", "max_position_embeddings"),
        ("token_type", "type_vocab_size"),
    ):
        shapes[f"embeddings.{name}_embeddings.weight"] = (values[rows], D)
    shapes |= {f"embeddings.LayerNorm.{kind}": (D,) for kind in ("gamma", "beta")}  # as older files have them
    there = {name: name.replace("gamma", "weight").replace("beta", "bias") for name in shapes}
    parts = {
        **{f"attention.self.{one}": (D, D) for one in ("query", "key", "value")},
        "attention.output.dense": (D, D),
        "attention.output.LayerNorm": (D,),
        "intermediate.dense": (wide, D),
        "output.dense": (D, wide),
        "output.LayerNorm": (D,),
    }
    for layer in range(4):
        for part, shape in parts.items():
            sublayer = 2 * layer + (not part.startswith("attention"))  # 0, 2, ... attend; 1, 3, ... feed forward
            renamed = part.replace("attention.", "attention_")
            for kind, size in (("weight", shape), ("bias", shape[:1])):
                shapes[f"encoder.layer.{layer}.{part}.{kind}"] = size
                there[f"encoder.layer.{layer}.{part}.{kind}"] = f"encoder.layer.{sublayer}.{renamed}.{kind}"
    for folder in ("bert-small", "bert-listed"):
        (world.path / folder).mkdir()
        weights = {f"bert.{name}": torch.full(shape, 0.25) for name, shape in shapes.items()}
        weights["bert.pooler.dense.weight"] = torch.zeros(D, D)  # which VOLTA does not take
        torch.save(weights, world.path / folder / "pytorch_model.bin")
    return {f"bert.{name}": f"bert.{other}" for name, other in there.items()}


class OptimizerMade(Exception):
    """Ends a run as soon as its optimizer would be made."""


def rates_of(world: VoltaWorld, source: str, fix: Sequence[str]) -> dict[str, float]:
    """The rate of every weight, and which of them BERT's file has filled."""
    groups: list[dict[str, Any]] = []
    models: list[Any] = []

    def no_optimizer(given: list[dict[str, Any]], **_options: Any) -> None:
        groups.extend(given)
        raise OptimizerMade

    flags = flags_of(world, "--from_pretrained", source, "--learning_rate", 0.001)
    with world.prepared(SCRIPT, *flags, fix=("seeds", *fix)) as script:
        script.patches.set(script.module, "AdamW", no_optimizer)
        script.patches.set(script.module, "freeze_layers", models.append)
        with pytest.raises(OptimizerMade):
            script.module.main()
    names = {id(parameter): name for name, parameter in models[0].named_parameters()}
    assert len(groups) == len(names)
    rates = {names[id(group["params"][0])]: group["lr"] for group in groups}
    filled = {name for name, parameter in models[0].named_parameters() if (parameter == 0.25).all()}
    return {name: (rate, name in filled) for name, rate in rates.items()}


def test_exactly_berts_weights_train_at_a_tenth_of_the_rate(world, bert):
    wrong, right = (rates_of(world, "bert-small", fix) for fix in ((), ("bert-rate",)))
    assert {rate for rate, _ in wrong.values()} == {0.001}
    slow = {name for name, (rate, _) in right.items() if rate == pytest.approx(0.0001)}
    assert slow == set(bert.values()) == {name for name, (_, filled) in right.items() if filled}
    assert {rate for name, (rate, _) in right.items() if name not in slow} == {0.001} and len(right) > len(slow)


def test_a_list_of_berts_weights_is_followed(world, bert):
    chosen = sorted(name for name in bert if ".layer.1." in name)
    folder = world.path / "config"
    folder.mkdir(exist_ok=True)
    (folder / "bert-listed_weight_name.json").write_text(json.dumps([name[len("bert.") :] for name in chosen]))
    wrong, right = (rates_of(world, "bert-listed", fix) for fix in ((), ("bert-rate",)))
    assert {rate for rate, _ in wrong.values()} == {0.001}
    slow = {name for name, (rate, _) in right.items() if rate == pytest.approx(0.0001)}
    assert slow == {bert[name] for name in chosen} and len(slow) == 16


# --- Resuming -------------------------------------------------------------------------------------------------------


def test_a_resumed_run_keeps_the_epoch_of_its_checkpoint(world, tmp_path):
    def epoch_after(out: Path, *flags: Any, fix: Sequence[str] = ()) -> int:
        world.run_here(SCRIPT, *flags_of(world, *flags, out=out), fix=("seeds", *fix))
        return checkpoint_of(out / "ctrl_uniter")["epoch_id"]

    assert epoch_after(tmp_path / "finished", "--num_train_epochs", 1) == 0
    checkpoint = tmp_path / "finished" / "ctrl_uniter" / "pytorch_ckpt_latest.tar"
    for fix, epoch in (((), -1), (("resume-epoch",), 0)):
        out = tmp_path / f"resumed{epoch}"
        shutil.copytree(checkpoint.parent, out / "ctrl_uniter")
        flags = ["--num_train_epochs", 1, "--resume_file", out / "ctrl_uniter" / checkpoint.name]
        assert epoch_after(out, *flags, fix=fix) == epoch  # there was nothing left to train
        assert checkpoint_of(out / "ctrl_uniter")["global_step"] == checkpoint_of(checkpoint.parent)["global_step"] == 2
    # what begins is still saved before it trains
    assert epoch_after(tmp_path / "new", "--num_train_epochs", 0, fix=("resume-epoch",)) == -1


SHOWN = {  # the fix -> the test that shows it
    "bert-rate": test_exactly_berts_weights_train_at_a_tenth_of_the_rate,
    "resume-epoch": test_a_resumed_run_keeps_the_epoch_of_its_checkpoint,
    "embeddings-from-scratch": test_shared_embeddings_from_scratch_are_small,
}
