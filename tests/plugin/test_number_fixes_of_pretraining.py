"""Every fix of a wrong number in pre-training's batches and losses: VOLTA's number without it, the right one with it.

Set VOLTA_HOME to a checkout of github.com/e-bug/volta; without it these tests are skipped.
Tolerances: 1e-6 of the largest feature for means, 1e-6 of the loss computed by hand; all else is exact.
Legend: B batch, R regions, F features of a region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from plugin.volta_runs import CONCAP, VoltaWorld, config_of, volta_checkout
from volta_items import CONCAP_FIELDS
from volta_switch.data.batches.collate import BatchLayout
from volta_switch.data.batches.concap_dataset import ConcapDataset
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.plugin.script import Script

volta_checkout()

NUMPY_MSGPACK = True  # as VOLTA's modules leave it
SCRIPT = "train_concap.py"
VL_BERT = {"image_embeddings": "vl-bert", "v_coordinate_embeddings_dim": 256, "type_vocab_size": 3}
GLOBAL_BOX = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0])
MASKED, LEFT = 0, 0.9  # draws that hide a region, and that do not
Batches = list[dict[str, Any]]


def flags_of(world: VoltaWorld, *more: Any, out: Path = Path("out"), **config: Any) -> list[Any]:
    """A command line of train_concap.py for a small ctrl_uniter; ``config`` are fields of its configuration."""
    return [*world.flags(SCRIPT, "ctrl_uniter", out), "--config_file", world.config("ctrl_uniter", **config), *more]


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
        return [[dict(zip((*CONCAP_FIELDS, "ids"), batch, strict=True)) for batch in loader] for _ in range(epochs)]


def same(one: Batches, other: Batches) -> bool:
    """Tensor for tensor, bit for bit."""
    return len(one) == len(other) > 0 and all(
        torch.equal(left[name], right[name]) for left, right in zip(one, other, strict=True) for name in CONCAP_FIELDS
    )


# --- Order and masks ------------------------------------------------------------------------------------------------


def test_one_seed_gives_the_same_batches_whatever_the_number_of_workers(world):
    seeded = {"fix": ("seeds",), "epochs": 2}
    first = epochs_of(world, "Train", "--seed", 3, **seeded)
    again = epochs_of(world, "Train", "--seed", 3, "--num_workers", 4, **seeded)
    other = epochs_of(world, "Train", "--seed", 4, **seeded)
    assert same(first[0], again[0]) and same(first[1], again[1])
    assert not same(first[0], other[0]) and not same(first[0], first[1])  # epochs differ from each other
    for epoch in first:
        assert len(epoch) == 4 and sum(len(batch["ids"]) for batch in epoch) == 20
    ids = [[image for batch in epoch for image in batch["ids"]] for epoch in (first[0], other[0])]
    assert ids[0] != ids[1] and all(len(set(one)) > 10 for one in ids)  # tensorpack's shuffle is no permutation
    unseeded = [epochs_of(world, "Train", "--seed", 3)[0] for _ in range(2)]
    assert not same(*unseeded)


def test_validation_is_the_same_in_every_epoch_of_one_seed(world):
    epochs = epochs_of(world, "Val", fix=("seeds",), epochs=2)
    later = epochs_of(world, "Val", fix=("seeds",))
    other = epochs_of(world, "Val", "--seed", 1, fix=("seeds",))
    assert same(epochs[0], epochs[1]) and same(epochs[0], later[0]) and not same(epochs[0], other[0])
    assert not same(*epochs_of(world, "Val", epochs=2))


# --- The global region ----------------------------------------------------------------------------------------------


def test_validation_has_the_global_region_where_the_model_has_it(world):
    config = {"add_global_imgfeat": "last"}
    wrong = epochs_of(world, "Val", fix=("seeds",), **config)[0]
    right = epochs_of(world, "Val", fix=("seeds", "global-last"), **config)[0]
    for without, batch in zip(wrong, right, strict=True):
        assert (without["image_loc"][:, 0] == GLOBAL_BOX).all() and (batch["image_loc"][:, -1] == GLOBAL_BOX).all()
        for name in ("image_feat", "image_loc", "image_mask"):
            assert torch.equal(without[name][:, 1:], batch[name][:, :-1]) and batch[name].dtype == without[name].dtype
            assert torch.equal(without[name][:, 0], batch[name][:, -1])
        hidden = ~batch["image_feat"][:, :-1].any(-1)  # (B, R), and a label says so
        assert hidden.any() and (batch["image_label"][hidden] == 1).all()
        misplaced = ~without["image_feat"][:, :-1].any(-1)
        assert not (without["image_label"][misplaced] == 1).all()
    first = [epochs_of(world, "Val", fix=("seeds", *more))[0] for more in ((), ("global-last",))]
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
    places = {dataset.collate([dataset[index]], BatchLayout(None)).ids[0]: index for index in range(len(dataset))}
    boxes = (
        batch["image_feat"][:, 1:] if (batch["image_loc"][:, 0] == GLOBAL_BOX).all() else batch["image_feat"][:, :-1]
    )
    predicted, zeroed = batch["image_label"].numpy() == 1, ~boxes.any(-1).numpy()
    draws = np.stack([np.where(predicted, MASKED, LEFT), np.where(zeroed, LEFT, MASKED)], axis=2)
    samples = [replace(dataset[places[str(image)]], region_draws=draws[row]) for row, image in enumerate(batch["ids"])]
    return dataset.collate(samples, BatchLayout("first", num_boxes=36)).to("cpu").inputs["image_feat"][:, 0]


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
def test_the_global_feature_is_the_mean_of_what_is_not_masked(world, volta_world, kind, place, more, found):
    config = {"add_global_imgfeat": place}
    wrong = epochs_of(world, kind, fix=("seeds", *more), **config)[0]
    right = epochs_of(world, kind, fix=("seeds", *more, "global-mean"), **config)[0]
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


def test_validation_ignores_masks_of_mismatched_pairs_as_training_does(world):
    wrong = epochs_of(world, "Val", "--objective", 1, fix=("seeds",))[0]
    right = epochs_of(world, "Val", "--objective", 1, fix=("seeds", "validation-objective"))[0]
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
        epochs_of(world, "Val", "--objective", 0, fix=("seeds", *more))[0] for more in ((), ("validation-objective",))
    ]
    assert same(*others)  # nothing to mend under another objective


def words_loss(world: VoltaWorld, empty: bool, fix: Sequence[str]) -> tuple[float, float]:
    """The loss of masked words of one batch, and the largest entry of its gradient."""
    with world.prepared(SCRIPT, *flags_of(world), fix=("seeds", *fix)) as script:
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
    return loss.item(), max(gradient.abs().max().item() for gradient in gradients)


def test_a_batch_without_masked_words_has_no_loss_of_them(world):
    assert np.isnan(words_loss(world, empty=True, fix=())[0])
    assert words_loss(world, empty=True, fix=("empty-words",)) == (0.0, 0.0)
    usual = words_loss(world, empty=False, fix=())
    assert usual[0] > 1 and usual[1] > 0 and usual == words_loss(world, empty=False, fix=("empty-words",))


def test_hard_object_labels_are_counted_after_background(world):
    scores = torch.randn(1, 2, 1601, generator=torch.Generator().manual_seed(0))
    chances = scores.log_softmax(-1)
    objects, label = torch.tensor([[0, 1599]]), torch.tensor([[1, 1]])
    for fix, shift in (((), 0), (("object-labels",), 1)):
        with world.prepared(SCRIPT, *flags_of(world), fix=fix) as script:
            criterion = script.volta("encoders").pre_vis_criterions["6"]
            loss = criterion(scores, 2.0, label, None, None, objects, None, None, None)
            assert criterion(scores, 2.0, label, None, None, None, None, None, None) == 0  # without labels
        expected = -2.0 * (chances[0, 0, 0 + shift] + chances[0, 1, 1599 + shift]) / 2
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_vl_bert_leaves_the_features_that_it_is_given_alone(world):
    outputs = []
    for fix in ((), ("vlbert-inputs",)):
        flags = flags_of(world, **VL_BERT)
        with world.prepared(SCRIPT, *flags, fix=fix) as script:
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


SHOWN = {  # the fix -> the test that shows it
    "seeds": test_one_seed_gives_the_same_batches_whatever_the_number_of_workers,
    "global-last": test_validation_has_the_global_region_where_the_model_has_it,
    "global-mean": test_the_global_feature_is_the_mean_of_what_is_not_masked,
    "validation-objective": test_validation_ignores_masks_of_mismatched_pairs_as_training_does,
    "empty-words": test_a_batch_without_masked_words_has_no_loss_of_them,
    "object-labels": test_hard_object_labels_are_counted_after_background,
    "vlbert-inputs": test_vl_bert_leaves_the_features_that_it_is_given_alone,
}
