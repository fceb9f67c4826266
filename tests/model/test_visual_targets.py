"""The seven visual targets equal their formulas, written out box by box.

Legend: B batch, N boxes (without the global region), F feature width, C classes, A attributes.
"""

import math

import pytest
import torch

from golden_files import load_golden, relative_error
from model.small_models import random_batch
from volta_switch import BertForVLPreTraining, UserError, load_config
from volta_switch.model.heads import NEGATIVES, RegionLabels, target_widths, visual_loss

TOLERANCE = 1e-6
B, N, F, C, A = 3, 4, 5, 6, 7
EVERY_TARGET = ("0", "1", "2", "3", "4", "5", "6")


def labels(seed=0, masked=((0, 1), (0, 3), (2, 0)), boxes=(B, N)):
    generator = torch.Generator().manual_seed(seed)
    image_label = -torch.ones(boxes, dtype=torch.long)
    for image, box in masked:
        image_label[image, box] = 1
    image_cls = torch.randn(*boxes, C, generator=generator).softmax(-1)
    return RegionLabels(
        image_label,
        torch.randn(*boxes, F, generator=generator),
        image_cls=image_cls,
        obj_labels=torch.randint(0, C - 1, boxes, generator=generator),
        obj_confs=torch.rand(boxes, generator=generator),
        attr_labels=torch.randint(0, A - 1, boxes, generator=generator),
        attr_confs=torch.rand(boxes, generator=generator),
    )


def predictions(width, seed=1, boxes=(B, N)):
    """Scores at every box, (B, N, width)."""
    return torch.randn(*boxes, width, generator=torch.Generator().manual_seed(seed))


def loss_of(target, scores, known, weight=1.0):
    """The loss from scores at every box; the model gives it the masked rows only."""
    return float(visual_loss({target: scores[known.image_label == 1]}, {target: weight}, known))


def masked_boxes(known):
    return [(int(b), int(n)) for b, n in (known.image_label == 1).nonzero()]


def cross_entropy(scores, wanted):
    return math.log(sum(math.exp(float(s)) for s in scores)) - float(scores[wanted])


def test_target_0_is_the_divergence_from_the_detectors_classes():
    known, scores = labels(), predictions(C)
    expected = 0.0
    for b, n in masked_boxes(known):
        log_q = scores[b, n] - math.log(sum(math.exp(float(s)) for s in scores[b, n]))
        expected += sum(
            float(p) * (math.log(float(p)) - float(q)) for p, q in zip(known.image_cls[b, n], log_q, strict=True)
        )
    assert loss_of("0", scores, known) == pytest.approx(expected / 3, rel=1e-5)


def test_target_0_takes_a_class_of_probability_zero():
    known, scores = labels(masked=((0, 0),)), predictions(C)
    known.image_cls[0, 0] = torch.eye(C)[2]
    assert loss_of("0", scores, known) == pytest.approx(cross_entropy(scores[0, 0], 2), rel=1e-5)


def test_target_1_is_the_mean_square():
    known, scores = labels(), predictions(F)
    expected = sum(
        (float(scores[b, n, f]) - float(known.image_feat[b, n, f])) ** 2
        for b, n in masked_boxes(known)
        for f in range(F)
    )
    assert loss_of("1", scores, known) == pytest.approx(expected / (3 * F), rel=1e-5)


def test_target_5_is_quadratic_near_and_linear_far():
    known, scores = labels(), 3 * predictions(F)
    expected, kinds = 0.0, set()
    for b, n in masked_boxes(known):
        for f in range(F):
            distance = abs(float(scores[b, n, f]) - float(known.image_feat[b, n, f]))
            kinds.add(distance < 1)
            expected += distance**2 / 2 if distance < 1 else distance - 0.5
    assert kinds == {True, False}
    assert loss_of("5", scores, known) == pytest.approx(expected / (3 * F), rel=1e-5)


@pytest.mark.parametrize(("target", "width", "names"), [
    ("3", C - 1, ("obj_labels", "obj_confs")), ("4", A - 1, ("attr_labels", "attr_confs")),
    ("6", C, ("obj_labels", None)),
])  # fmt: skip
def test_label_targets_are_cross_entropies_weighted_by_confidence(target, width, names):
    known, scores = labels(), predictions(width)
    expected = 0.0
    for b, n in masked_boxes(known):
        confidence = float(getattr(known, names[1])[b, n]) if names[1] else 1.0
        expected += confidence * cross_entropy(scores[b, n], int(getattr(known, names[0])[b, n]))
    assert loss_of(target, scores, known) == pytest.approx(expected / 3, rel=1e-5)


def contrast(alike, positive_at, B=2, N=2):
    """Target 2 where every box but one has the same feature: whichever negatives are drawn, the loss is known."""
    known = labels(masked=(positive_at,), boxes=(B, N))
    known.image_feat[:] = alike
    known.image_feat[positive_at] = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0])
    return known


@pytest.mark.parametrize("positive_at", [(0, 0), (1, 1), (0, 1)])
def test_target_2_contrasts_with_128_other_boxes_and_never_the_positive(positive_at):
    alike = torch.tensor([1.0, 0.0, -0.5, 0.5, 0.0])
    known, scores = contrast(alike, positive_at), predictions(F, boxes=(2, 2))
    prediction = scores[positive_at]
    right, wrong = float(prediction @ known.image_feat[positive_at]), float(prediction @ alike)
    expected = math.log(1 + NEGATIVES * math.exp(wrong - right))
    assert NEGATIVES == 128
    for seed in range(3):
        torch.manual_seed(seed)
        assert loss_of("2", scores, known) == pytest.approx(expected, rel=1e-4)


def test_target_2_draws_from_other_images_and_from_the_same_image():
    for where, share in (((0, 1), 0.3), ((1, 0), 0.35)):
        known = contrast(torch.zeros(F), (0, 0))
        known.image_feat[where] = torch.tensor([9.0, 0, 0, 0, 0])  # marks one box: score 9 against 0
        scores = torch.zeros(2, 2, F)
        scores[..., 0] = 1.0
        known.image_feat[0, 0] = 0
        drawn = []
        for seed in range(20):
            torch.manual_seed(seed)
            total = math.exp(loss_of("2", scores, known))  # (1 + n e^9 + 128 - n) / e^0
            drawn.append((total - 1 - NEGATIVES) / (math.exp(9) - 1) / NEGATIVES)
        assert sum(drawn) / 20 == pytest.approx(share, abs=0.03), where


def test_target_2_without_other_images_or_boxes_is_zero():
    for boxes in ((1, 4), (3, 1)):
        known = labels(masked=((0, 0),), boxes=boxes)
        assert loss_of("2", predictions(F, boxes=boxes), known) == 0


def test_targets_are_weighted_and_summed():
    known = labels()
    widths = {"0": C, "1": F, "3": C - 1, "4": A - 1, "5": F, "6": C}
    scores = {target: predictions(width, int(target)) for target, width in widths.items()}
    alone = {target: loss_of(target, scores[target], known) for target in widths}
    weights = {target: 0.5 + int(target) for target in widths}
    masked = {target: values[known.image_label == 1] for target, values in scores.items()}
    expected = sum(weights[target] * alone[target] for target in widths)
    assert float(visual_loss(masked, weights, known)) == pytest.approx(expected, rel=1e-5)


def test_prediction_widths_are_the_detectors():
    widths = target_widths(load_config("vilbert_base"))
    assert widths == {"0": 1601, "1": 2048, "2": 2048, "3": 1600, "4": 400, "5": 2048, "6": 1601}


def all_targets_model():
    """Every visual target at once, over the reference UNITER's sizes."""
    config = {**load_golden("ctrl_uniter").config, "v_num_classes": 33, "v_num_attributes": 12}
    config["visual_target_weights"] = dict.fromkeys(EVERY_TARGET, 1.0)
    torch.manual_seed(0)
    return BertForVLPreTraining(load_config(config))


def test_every_target_trains_its_own_decoder():
    model = all_targets_model()
    out = model(**random_batch(model.config))
    out.loss.backward()
    decoders = model.cls.imagePredictions.decoder_dict
    assert tuple(decoders) == EVERY_TARGET
    assert all(decoder.weight.grad.abs().max() > 0 for decoder in decoders.values())


def test_batches_with_nothing_masked_give_zero_losses_and_finite_gradients():
    model = all_targets_model()
    batch = random_batch(model.config)
    batch["masked_lm_labels"][:] = -1
    batch["image_label"][:] = -1
    out = model(**batch)
    assert [float(loss.detach()) for loss in (out.loss_mlm, out.loss_vision)] == [0, 0] and out.loss_itm > 0
    out.loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_features_before_masking_are_regressed_where_they_are_given():
    config = {**load_golden("ctrl_uniter").config, "visual_target_weights": {"1": 1.0}}
    model = BertForVLPreTraining(load_config(config)).eval()
    batch = random_batch(model.config)
    target = torch.randn_like(batch["image_feat"][:, 1:])
    masked = batch["image_label"] == 1
    with torch.no_grad():
        scores = model(**{key: batch[key] for key in list(batch)[:6]}).prediction_scores_v["1"][:, 1:][masked]
        found = model(**batch, image_feat_target=target).loss_vision
        without = model(**batch).loss_vision
    assert float(found) == pytest.approx(float((scores - target[masked]).square().mean()), rel=1e-5)
    own = batch["image_feat"][:, 1:][masked]  # as VOLTA: what the model was given
    assert float(without) == pytest.approx(float((scores - own).square().mean()), rel=1e-5)


@pytest.mark.parametrize(("target", "name"), [("0", "image_cls"), ("3", "obj_labels"), ("4", "attr_confs")])
def test_a_missing_label_is_named(target, name):
    config = {**load_golden("ctrl_uniter").config, "visual_target_weights": {target: 1.0}}
    model = BertForVLPreTraining(load_config(config))
    batch = random_batch(model.config)
    del batch[name]
    with pytest.raises(UserError, match=f"target {target} needs {name}"):
        model(**batch)


@pytest.mark.parametrize("where", ["first", "last", None])
def test_the_global_region_is_never_predicted(where):
    config = {**load_golden("ctrl_uniter").config, "add_global_imgfeat": where}
    model = BertForVLPreTraining(load_config(config)).eval()
    batch = random_batch(model.config)
    with torch.no_grad():
        scores = model(**{key: batch[key] for key in list(batch)[:6]}).prediction_scores_v["0"]
        boxes = {"first": scores[:, 1:], "last": scores[:, :-1], None: scores}[where]
        real = batch["image_attention_mask"] == 1
        real = {"first": real[:, 1:], "last": real[:, :-1], None: real}[where]
        labels = torch.where(real, batch["image_label"], -1)  # padding is never masked
        known = RegionLabels(labels, batch["image_feat"], image_cls=batch["image_cls"])
        expected = visual_loss({"0": boxes[labels == 1]}, {"0": 1.0}, known)
        assert relative_error(model(**batch).loss_vision, expected) < TOLERANCE
