"""Every fix of a wrong number of pre-training: VOLTA's number without it, and the right one with it.

Set VOLTA_HOME to a checkout of github.com/e-bug/volta; without it these tests are skipped.
Tolerances: 1e-6 of the largest feature for means; the deviation of random weights within a tenth; else exact.
Legend: B batch, R regions, F features of a region.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from plugin.volta_runs import CONCAP, VoltaWorld, volta_checkout
from volta_items import CONCAP_FIELDS
from volta_switch.data.batches.collate import Layout
from volta_switch.data.batches.concap_dataset import ConcapDataset
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.plugin.script import Script

volta_checkout()

SCRIPT = "train_concap.py"
GLOBAL_BOX = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0])
MASKED, LEFT = 0, 0.9  # draws that hide a region, and that do not
Batches = list[dict[str, Any]]


def flags_of(world: VoltaWorld, *more: Any, model: str = "ctrl_uniter", out: Path = Path("out"), **config: Any) -> list:
    """A command line of train_concap.py; ``config`` are fields of the model's configuration."""
    return [*world.flags(SCRIPT, model, out), "--config_file", world.config(model, **config), *more]


def config_of(script: Script) -> Any:
    """VOLTA's own object of the configuration that the script was given."""
    return script.volta("config").BertConfig.from_json_file(script.module.parse_args().config_file)


def loader_of(script: Script, kind: str, batch_size: int = 5) -> Any:
    """VOLTA's "Train" or "Val" loader, made as its script makes it."""
    args, config = script.module.parse_args(), config_of(script)
    return getattr(script.volta("datasets"), f"ConceptCapLoader{kind}")(
        args.annotations_path,
        args.features_path,
        AutoTokenizer.from_pretrained(config.bert_model, do_lower_case=config.do_lower_case),
        seq_len=args.max_seq_length,
        batch_size=batch_size,
        num_workers=args.num_workers,
        objective=args.objective,
        num_locs=config.num_locs,
        add_global_imgfeat=config.add_global_imgfeat,
    )


def epochs_of(
    world: VoltaWorld, kind: str, *flags: Any, fix: Sequence[str] = (), epochs: int = 1, **config: Any
) -> list[Batches]:
    """What a loader gives in each epoch, with the images' ids."""
    with world.prepared(SCRIPT, *flags_of(world, *flags, **config), fix=fix) as script:
        loader = loader_of(script, kind)
        read = [[dict(zip((*CONCAP_FIELDS, "ids"), batch, strict=True)) for batch in loader] for _ in range(epochs)]
    del loader
    gc.collect()  # ends tensorpack's own processes
    return read


def same(one: Batches, other: Batches) -> bool:
    """Tensor for tensor, bit for bit."""
    return len(one) == len(other) > 0 and all(
        torch.equal(left[name], right[name]) for left, right in zip(one, other, strict=True) for name in CONCAP_FIELDS
    )


# --- Order and masks ------------------------------------------------------------------------------------------------


def test_one_seed_gives_the_same_batches_whatever_the_number_of_workers(volta_world):
    seeded = {"fix": ("seeds",), "epochs": 2}
    first = epochs_of(volta_world, "Train", "--seed", 3, **seeded)
    again = epochs_of(volta_world, "Train", "--seed", 3, "--num_workers", 4, **seeded)
    other = epochs_of(volta_world, "Train", "--seed", 4, **seeded)
    assert same(first[0], again[0]) and same(first[1], again[1])
    assert not same(first[0], other[0]) and not same(first[0], first[1])  # epochs differ from each other
    for epoch in first:
        assert len(epoch) == 4 and sum(len(batch["ids"]) for batch in epoch) == 20
    ids = [[image for batch in epoch for image in batch["ids"]] for epoch in (first[0], other[0])]
    assert sorted(ids[0]) == sorted(ids[1]) and ids[0] != ids[1] and len(set(ids[0])) == 20
    unseeded = [epochs_of(volta_world, "Train", "--seed", 3)[0] for _ in range(2)]
    assert not same(*unseeded)
    assert not multiprocessing.active_children()


def test_validation_is_the_same_in_every_epoch_of_one_seed(volta_world):
    epochs = epochs_of(volta_world, "Val", fix=("seeds",), epochs=2)
    later = epochs_of(volta_world, "Val", fix=("seeds",))
    other = epochs_of(volta_world, "Val", "--seed", 1, fix=("seeds",))
    assert same(epochs[0], epochs[1]) and same(epochs[0], later[0]) and not same(epochs[0], other[0])
    assert not same(*epochs_of(volta_world, "Val", epochs=2))


# --- The global region ----------------------------------------------------------------------------------------------


def test_validation_has_the_global_region_where_the_model_has_it(volta_world):
    config = {"add_global_imgfeat": "last", "model": "ctrl_uniter"}
    wrong = epochs_of(volta_world, "Val", fix=("seeds",), **config)[0]
    right = epochs_of(volta_world, "Val", fix=("seeds", "global-last"), **config)[0]
    for without, batch in zip(wrong, right, strict=True):
        assert (without["image_loc"][:, 0] == GLOBAL_BOX).all() and (batch["image_loc"][:, -1] == GLOBAL_BOX).all()
        for name in ("image_feat", "image_loc", "image_mask"):
            assert torch.equal(without[name][:, 1:], batch[name][:, :-1]) and batch[name].dtype == without[name].dtype
            assert torch.equal(without[name][:, 0], batch[name][:, -1])
        hidden = ~batch["image_feat"][:, :-1].any(-1)  # (B, R), and a label says so
        assert hidden.any() and (batch["image_label"][hidden] == 1).all()
        misplaced = ~without["image_feat"][:, :-1].any(-1)
        assert not (without["image_label"][misplaced] == 1).all()
    first = [epochs_of(volta_world, "Val", fix=("seeds", *more))[0] for more in ((), ("global-last",))]
    assert same(*first)  # nothing to mend


def expected_means(world: VoltaWorld, split: str, batch: dict[str, Any], volta_compat: bool) -> torch.Tensor:
    """This project's global features (B, F) of images whose same regions are hidden."""
    captions = world.path / CONCAP
    dataset = ConcapDataset(
        captions / "resnet101_faster_rcnn_genome_imgfeats" / "volta",
        captions / "annotations",
        split,
        Tokenizer(world.path / "bert-world"),
        num_locs=5,
        max_seq_length=24,
        masking="volta",
        objective=2,
        volta_compat=volta_compat,
    )
    places = {dataset.collate([dataset[index]], Layout(None)).ids[0]: index for index in range(len(dataset))}
    boxes = (
        batch["image_feat"][:, 1:] if (batch["image_loc"][:, 0] == GLOBAL_BOX).all() else batch["image_feat"][:, :-1]
    )
    predicted, zeroed = batch["image_label"].numpy() == 1, ~boxes.any(-1).numpy()
    draws = np.stack([np.where(predicted, MASKED, LEFT), np.where(zeroed, LEFT, MASKED)], axis=2)
    samples = [replace(dataset[places[str(image)]], region_draws=draws[row]) for row, image in enumerate(batch["ids"])]
    return dataset.collate(samples, Layout("first", num_boxes=36)).to("cpu").inputs["image_feat"][:, 0]


@pytest.mark.parametrize(
    ("kind", "place", "more", "found"),
    [
        ("Train", "first", (), 0),
        ("Train", "last", (), -1),
        ("Val", "first", (), 0),
        ("Val", "last", (), 0),
        ("Val", "last", ("global-last",), -1),
    ],
)
def test_the_global_feature_is_the_mean_of_what_is_not_masked(volta_world, kind, place, more, found):
    config = {"add_global_imgfeat": place, "model": "ctrl_uniter"}
    wrong = epochs_of(volta_world, kind, fix=("seeds", *more), **config)[0]
    right = epochs_of(volta_world, kind, fix=("seeds", *more, "global-mean"), **config)[0]
    split = {"Train": "train", "Val": "valid"}[kind]
    for without, batch in zip(wrong, right, strict=True):
        largest = batch["image_feat"].abs().max()
        mean, voltas = (expected_means(volta_world, split, without, compat) for compat in (False, True))
        assert (without["image_feat"][:, found] - voltas).abs().max() <= 1e-6 * largest
        assert (batch["image_feat"][:, found] - mean).abs().max() <= 1e-6 * largest
        assert ((mean - voltas).abs().amax(1) > 1e-3 * largest).any()
        rest = slice(1, None) if found == 0 else slice(None, -1)
        assert torch.equal(without["image_feat"][:, rest], batch["image_feat"][:, rest])
        assert batch["image_feat"].dtype == without["image_feat"].dtype
        assert all(torch.equal(without[name], batch[name]) for name in CONCAP_FIELDS if name != "image_feat")


# --- Losses ---------------------------------------------------------------------------------------------------------


def test_validation_ignores_masks_of_mismatched_pairs_as_training_does(volta_world):
    wrong = epochs_of(volta_world, "Val", "--objective", 1, fix=("seeds",))[0]
    right = epochs_of(volta_world, "Val", "--objective", 1, fix=("seeds", "validation-objective"))[0]
    labels = ("lm_label_ids", "image_label")
    for name in labels:
        assert any((batch[name][batch["is_next"] == 1] != -1).any() for batch in wrong)
    for without, batch in zip(wrong, right, strict=True):
        mismatched = batch["is_next"] == 1
        for name in CONCAP_FIELDS:
            if name not in labels:
                assert torch.equal(batch[name], without[name])
                continue
            assert (batch[name][mismatched] == -1).all()
            assert torch.equal(batch[name][~mismatched], without[name][~mismatched])
    others = [
        epochs_of(volta_world, "Val", "--objective", 0, fix=("seeds", *more))[0]
        for more in ((), ("validation-objective",))
    ]
    assert same(*others)  # nothing to mend under another objective


def words_loss(volta_world: VoltaWorld, empty: bool, fix: Sequence[str]) -> tuple[float, bool]:
    """The loss of masked words of one batch, and whether every gradient of it is a number."""
    with volta_world.prepared(SCRIPT, *flags_of(volta_world), fix=("seeds", *fix)) as script:
        torch.manual_seed(0)
        model = script.volta("encoders").BertForVLPreTraining(config_of(script)).eval()
        *batch, _ids = next(iter(loader_of(script, "Val")))
        given = dict(zip(CONCAP_FIELDS, batch, strict=True))
        labels = torch.full_like(given["lm_label_ids"], -1) if empty else given["lm_label_ids"]
        inputs = [given[name] for name in ("input_ids", "image_feat", "image_loc", "segment_ids", "input_mask")]
        loss = model(*inputs, given["image_mask"], labels, next_sentence_label=given["is_next"])[0]
        loss.sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert loss.shape == (1,) and gradients
    return loss.item(), all(gradient.isfinite().all() for gradient in gradients)


def test_a_batch_without_masked_words_has_no_loss_of_them(volta_world):
    loss, finite = words_loss(volta_world, empty=True, fix=())
    assert np.isnan(loss) and not finite
    assert words_loss(volta_world, empty=True, fix=("empty-words",)) == (0.0, True)
    usual = words_loss(volta_world, empty=False, fix=())
    assert usual[0] > 1 and usual[1] and usual == words_loss(volta_world, empty=False, fix=("empty-words",))


def test_hard_object_labels_are_counted_after_background(volta_world):
    scores = torch.randn(1, 2, 1601, generator=torch.Generator().manual_seed(0))
    chances = scores.log_softmax(-1)
    objects, label = torch.tensor([[0, 1599]]), torch.tensor([[1, 1]])
    for fix, shift in (((), 0), (("object-labels",), 1)):
        with volta_world.prepared(SCRIPT, *flags_of(volta_world), fix=fix) as script:
            criterion = script.volta("encoders").pre_vis_criterions["6"]
            loss = criterion(scores, 2.0, label, None, None, objects, None, None, None)
            assert criterion(scores, 2.0, label, None, None, None, None, None, None) == 0  # without labels
        expected = -2.0 * (chances[0, 0, 0 + shift] + chances[0, 1, 1599 + shift]) / 2
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_vl_bert_leaves_the_features_that_it_is_given_alone(volta_world):
    outputs = []
    for fix in ((), ("vlbert-inputs",)):
        flags = flags_of(volta_world, model="ctrl_vl-bert", v_coordinate_embeddings_dim=256)
        with volta_world.prepared(SCRIPT, *flags, fix=fix) as script:
            torch.manual_seed(0)
            embeddings = script.volta("embeddings").VLBertEmbeddings(config_of(script)).eval()
            torch.nn.init.ones_(embeddings.object_mask_visual_embedding.weight)  # as training makes it: not 0
            features = torch.randn(2, 37, 2048)
            features[:, 3] = 0  # a masked region
            given, words = features.clone(), torch.tensor([[1, 5, 2], [1, 2, 0]])
            locations = torch.rand(2, 37, 5)
            with torch.no_grad():
                outputs += [embeddings(words, given, locations, torch.zeros_like(words))]
        assert torch.equal(given, features) == bool(fix)
        if not fix:
            assert (given[:, 3] == 1).all()
    assert all(torch.equal(one, other) for one, other in zip(*outputs, strict=True))


# --- Weights and their rates ----------------------------------------------------------------------------------------


def embedding_values(
    volta_world: VoltaWorld, model: str, fix: Sequence[str], **config: Any
) -> tuple[torch.Tensor, Any]:
    """All freshly made numbers of a model's embedding tables, and the configuration.

    Of the words' table, VOLTA's heads make new ones after it; VL-BERT's other tables are made as they should be.
    """
    with volta_world.prepared(SCRIPT, *flags_of(volta_world, model=model, **config), fix=fix) as script:
        torch.manual_seed(0)
        read = config_of(script)
        embeddings = script.volta("encoders").BertForVLPreTraining(read).bert.embeddings
    left = ("word_embeddings", "object_linguistic_embeddings", "object_mask_word", "object_mask_visual")
    tables = {
        name: module.weight.detach()
        for name, module in embeddings.named_modules()
        if isinstance(module, torch.nn.Embedding) and not name.startswith(left)
    }
    if model == "ctrl_visualbert":  # the visual tables begin as copies
        for kind in ("position_embeddings", "token_type_embeddings"):
            assert torch.equal(tables[kind], tables.pop(f"{kind}_visual"))
    return torch.cat([table.flatten() for table in tables.values()]), read


@pytest.mark.parametrize("model", ["ctrl_uniter", "ctrl_visualbert", "ctrl_vl-bert"])
def test_shared_embeddings_from_scratch_are_small(volta_world, model):
    config = {"v_coordinate_embeddings_dim": 256} if model == "ctrl_vl-bert" else {}
    for fix in ((), ("embeddings-from-scratch",)):
        values, read = embedding_values(volta_world, model, fix, initializer_range=0.02, **config)
        assert read.initializer_range == 0.02 and len(values) > 1000
        assert float(values.std()) == pytest.approx(0.02 if fix else 1.0, rel=0.1)
        assert abs(float(values.mean())) < 0.1 * float(values.std())


@pytest.fixture(scope="module")
def bert(volta_world) -> dict[str, str]:
    """A small BERT's weights in a folder of the working directory: their names, and VOLTA's names of them."""
    values = json.loads(Path(volta_world.config("ctrl_uniter")).read_text())
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
        (volta_world.path / folder).mkdir()
        weights = {f"bert.{name}": torch.full(shape, 0.25) for name, shape in shapes.items()}
        weights["bert.pooler.dense.weight"] = torch.zeros(D, D)  # which VOLTA does not take
        torch.save(weights, volta_world.path / folder / "pytorch_model.bin")
    return {f"bert.{name}": f"bert.{other}" for name, other in there.items()}


class OptimizerMade(Exception):
    """Ends a run as soon as its optimizer would be made."""


def rates_of(volta_world: VoltaWorld, source: str, fix: Sequence[str]) -> dict[str, float]:
    """The rate of every weight, and which of them BERT's file has filled."""
    groups: list[dict[str, Any]] = []
    models: list[Any] = []

    def no_optimizer(given: list[dict[str, Any]], **_options: Any) -> None:
        groups.extend(given)
        raise OptimizerMade

    flags = flags_of(volta_world, "--from_pretrained", source, "--learning_rate", 0.001)
    with volta_world.prepared(SCRIPT, *flags, fix=("seeds", *fix)) as script:
        script.patches.set(script.module, "AdamW", no_optimizer)
        script.patches.set(script.module, "freeze_layers", models.append)
        with pytest.raises(OptimizerMade):
            script.module.main()
    names = {id(parameter): name for name, parameter in models[0].named_parameters()}
    assert len(groups) == len(names)
    rates = {names[id(group["params"][0])]: group["lr"] for group in groups}
    filled = {name for name, parameter in models[0].named_parameters() if (parameter == 0.25).all()}
    return {name: (rate, name in filled) for name, rate in rates.items()}


def test_exactly_berts_weights_train_at_a_tenth_of_the_rate(volta_world, bert):
    wrong, right = (rates_of(volta_world, "bert-small", fix) for fix in ((), ("bert-rate",)))
    assert {rate for rate, _ in wrong.values()} == {0.001}
    slow = {name for name, (rate, _) in right.items() if rate == pytest.approx(0.0001)}
    assert slow == set(bert.values()) == {name for name, (_, filled) in right.items() if filled}
    assert {rate for name, (rate, _) in right.items() if name not in slow} == {0.001} and len(right) > len(slow)


def test_a_list_of_berts_weights_is_followed(volta_world, bert):
    chosen = sorted(name for name in bert if ".layer.1." in name)
    folder = volta_world.path / "config"
    folder.mkdir(exist_ok=True)
    (folder / "bert-listed_weight_name.json").write_text(json.dumps([name[len("bert.") :] for name in chosen]))
    wrong, right = (rates_of(volta_world, "bert-listed", fix) for fix in ((), ("bert-rate",)))
    assert {rate for rate, _ in wrong.values()} == {0.001}
    slow = {name for name, (rate, _) in right.items() if rate == pytest.approx(0.0001)}
    assert slow == {bert[name] for name in chosen} and len(slow) == 16


# --- Resuming -------------------------------------------------------------------------------------------------------


class Record:
    """Takes what a checkpoint says of VOLTA's logger."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state


def checkpoint_of(run: Path) -> dict[str, Any]:
    """A checkpoint of VOLTA's."""
    with torch.serialization.safe_globals([(Record, "volta.train_utils.tbLogger")]):
        return torch.load(run / "pytorch_ckpt_latest.tar", weights_only=True)


@pytest.fixture(scope="module")
def finished(volta_world, tmp_path_factory) -> Iterator[Path]:
    """The checkpoint of a run of one epoch."""
    out = tmp_path_factory.mktemp("finished")
    flags = flags_of(volta_world, "--num_train_epochs", 1, out=out)
    with volta_world.prepared(SCRIPT, *flags, fix=("seeds",)) as script:
        script.module.main()
    return out / "ctrl_uniter"


def test_a_resumed_run_keeps_the_epoch_of_its_checkpoint(volta_world, finished, tmp_path):
    before = checkpoint_of(finished)
    assert before["epoch_id"] == 0 and before["global_step"] == 2
    for fix, epoch in (((), -1), (("resume-epoch",), 0)):
        out = tmp_path / f"out{epoch}"
        flags = ["--num_train_epochs", 1, "--resume_file", finished / "pytorch_ckpt_latest.tar"]
        (out / "ctrl_uniter").mkdir(parents=True)
        (out / "ctrl_uniter" / "pytorch_ckpt_latest.tar").write_bytes(
            (finished / "pytorch_ckpt_latest.tar").read_bytes()
        )
        with volta_world.prepared(SCRIPT, *flags_of(volta_world, *flags, out=out), fix=("seeds", *fix)) as script:
            script.module.main()  # there is nothing left to train
        after = checkpoint_of(out / "ctrl_uniter")
        assert after["epoch_id"] == epoch and after["global_step"] == 2
        assert (out / "ctrl_uniter" / "pytorch_model_-1.bin").exists() == (not fix)
    fresh = tmp_path / "fresh"
    flags = flags_of(volta_world, "--num_train_epochs", 0, out=fresh)
    with volta_world.prepared(SCRIPT, *flags, fix=("seeds", "resume-epoch")) as script:
        script.module.main()
    assert checkpoint_of(fresh / "ctrl_uniter")["epoch_id"] == -1  # a run that begins is still saved


SHOWN = {  # the fix -> the test that shows it
    "seeds": test_one_seed_gives_the_same_batches_whatever_the_number_of_workers,
    "global-last": test_validation_has_the_global_region_where_the_model_has_it,
    "global-mean": test_the_global_feature_is_the_mean_of_what_is_not_masked,
    "validation-objective": test_validation_ignores_masks_of_mismatched_pairs_as_training_does,
    "bert-rate": test_exactly_berts_weights_train_at_a_tenth_of_the_rate,
    "resume-epoch": test_a_resumed_run_keeps_the_epoch_of_its_checkpoint,
    "embeddings-from-scratch": test_shared_embeddings_from_scratch_are_small,
    "empty-words": test_a_batch_without_masked_words_has_no_loss_of_them,
    "object-labels": test_hard_object_labels_are_counted_after_background,
    "vlbert-inputs": test_vl_bert_leaves_the_features_that_it_is_given_alone,
}
