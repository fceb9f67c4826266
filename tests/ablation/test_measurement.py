"""The losses of a split against one phrase at a time through the models' own forward pass, masked by plain loops."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from volta_switch import UserError
from volta_switch.ablation.losses import Detected, class_losses
from volta_switch.ablation.measurement import SETTINGS, measure
from volta_switch.ablation.settings import LANGUAGE, MASKINGS, VISION
from volta_switch.data.regions import global_location, locations, pairwise_iou

TOLERANCE = 1e-5
MASK = 4


def plain_rows(samples, place):
    """A phrase's caption as ids, which of them are named, its regions and which of these cover half of its box."""
    phrase = samples.phrases[place]
    tokenizer, first = samples.texts.tokenizer, phrase.phrase.first
    ids, named = [tokenizer.cls_id], [False]
    for number, word in enumerate(phrase.words):
        pieces = tokenizer.encode(word, 99)[1:-1]
        ids += pieces
        named += [first <= number < first + phrase.phrase.words] * len(pieces)
    regions = samples.store[phrase.image_id]
    covers = []
    for x1, y1, x2, y2 in regions.boxes.tolist():
        (left, top, right, bottom) = phrase.boxes[0]
        width = max(min(x2, right) - max(x1, left) + 1, 0)
        height = max(min(y2, bottom) - max(y1, top) + 1, 0)
        covers.append(width * height / ((right - left + 1) * (bottom - top + 1)) > 0.5)
    return [*ids, tokenizer.sep_id], [*named, False], regions, covers


def plain_losses(model, samples, setting) -> Iterator[dict[str, float]]:
    """Each phrase's losses, alone in its batch; regions stand behind the global one."""
    direction, masking = setting
    regions_of = {phrase.image_id: samples.store[phrase.image_id].features for phrase in samples.phrases}
    mean = sum(regions_of[phrase.image_id].mean(0) for phrase in samples.phrases) / len(samples.phrases)
    for place in range(len(samples.phrases)):
        ids, named, regions, covers = plain_rows(samples, place)
        features = [row.copy() for row in regions.features]
        free = []
        for number, covered in enumerate(covers):
            if direction == VISION and (masking == "all" or (masking == "object" and covered)):
                features[number] = mean
            elif direction == LANGUAGE and covered:
                features[number] = np.zeros_like(mean)
            if direction == VISION or not covered:
                free.append(features[number])
        whole = sum(free) / max(len(free), 1)
        hides = {"none": [False] * len(ids), "phrase": named, "all": [0 < i < len(ids) - 1 for i in range(len(ids))]}
        hidden = hides["phrase" if direction == VISION else masking]
        seen = [MASK if is_hidden else token for token, is_hidden in zip(ids, hidden, strict=True)]
        inputs = {
            "input_ids": torch.tensor([seen]),
            "image_feat": torch.from_numpy(np.array([whole, *features], dtype=np.float32))[None],
            "image_loc": torch.from_numpy(np.concatenate([global_location(5)[None], locations(regions, 5)]))[None],
        }
        with torch.no_grad():
            if direction == VISION:
                labels = torch.tensor([[token if each else -1 for token, each in zip(ids, named, strict=True)]])
                yield {"mlm": model(**inputs, masked_lm_labels=labels).loss_mlm.item()}
                continue
            overlaps = pairwise_iou(regions.boxes, samples.phrases[place].boxes)[:, 0]
            target = max((number for number, covered in enumerate(covers) if covered), key=lambda one: overlaps[one])
            label = torch.full((1, len(regions)), -1)
            label[0, target] = 1
            divergence = model(**inputs, image_label=label, image_cls=torch.tensor(regions.cls_prob)[None])
            scores = model(**inputs).prediction_scores_v["0"][0, 1 + target]
            wanted = torch.tensor(int(regions.objects_id[target]) + 1)
            yield {"mrc_kl": divergence.loss_vision.item(), "mrc_xe": F.cross_entropy(scores, wanted).item()}


@pytest.mark.parametrize("name", ["ctrl_uniter", "ctrl_vilbert", "switchbert"])
def test_every_masking_equals_a_plain_loop(random_model, split_samples, name):
    model, samples = random_model(name), split_samples(images=2)
    measured = measure(model, samples)
    for direction, masking in SETTINGS:
        expected = list(plain_losses(model, samples, (direction, masking)))
        found = measured[direction].values[masking]
        assert found.keys() == expected[0].keys() and len(expected) > 20
        for loss, values in found.items():
            np.testing.assert_allclose(values, [each[loss] for each in expected], rtol=TOLERANCE)
    for direction in MASKINGS:
        assert len({next(iter(of.values())).mean() for of in measured[direction].values.values()}) == 3


@pytest.mark.parametrize("name", ["ctrl_uniter", "ctrl_lxmert", "ctrl_vl-bert"])
@pytest.mark.parametrize("place", ["first", "last"])
def test_no_loss_depends_on_the_batch(random_model, split_samples, name, place):
    model, samples = random_model(name, add_global_imgfeat=place), split_samples(images=3)
    first, *others = (measure(model, samples, batch_size=size) for size in (64, 7, 1))
    assert len({len(each.shown) for batch in samples.batches(64) for each in batch}) > 1  # images of several sizes
    for other in others:
        for direction, masking in SETTINGS:
            for loss, values in first[direction].values[masking].items():
                np.testing.assert_allclose(values, other[direction].values[masking][loss], rtol=TOLERANCE)


def test_what_is_not_there_is_left_out_and_counted(random_model, split_samples):
    model = random_model("ctrl_uniter")
    whole = measure(model, split_samples(images=4))
    cut = split_samples(length=6, threshold=0.92, images=4)
    found = measure(model, cut)
    behind = [place for place, each in enumerate(cut.phrases) if each.phrase.first >= 4]
    assert found[VISION].left_out == len(behind) > 0 and not set(behind) & set(found[VISION].places.tolist())
    unseen = {
        sample.place for batch in cut.batches(9) for sample in batch if not sample.shown.any()
    }  # no region covers more
    assert 0 < len(unseen) == found[LANGUAGE].left_out < len(cut.phrases)
    assert unseen.isdisjoint(found[LANGUAGE].places.tolist())
    assert whole[VISION].left_out == whole[LANGUAGE].left_out == 0
    assert whole[VISION].places.tolist() == list(range(len(cut.phrases)))


def test_only_the_first_regions_are_seen(random_model, split_samples):
    samples = split_samples(most=2, images=4)
    assert {len(each.shown) for batch in samples.batches(9) for each in batch} == {2}
    measure(random_model("ctrl_uniter"), samples)


def test_a_single_setting_gives_the_same(random_model, split_samples):
    model, samples = random_model("ctrl_uniter"), split_samples(images=2)
    every = measure(model, samples)
    only = measure(model, samples, [(VISION, "object")])
    assert only.keys() == {VISION} and only[VISION].values.keys() == {"object"}
    np.testing.assert_array_equal(only[VISION].values["object"]["mlm"], every[VISION].values["object"]["mlm"])


# --- Classes of regions ---------------------------------------------------------------------------------------------

SCORES = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, -1.0]])
LOG = SCORES.log_softmax(-1).tolist()


def detected(*ids):
    given = [np.array([0.0, 0.25, 0.75], dtype=np.float32), np.array([1.0, 0.0, 0.0], dtype=np.float32)]
    return [Detected(number, 0.5 * place + 0.25, scores) for place, (number, scores) in enumerate(
        zip(ids, given, strict=True)
    )]  # fmt: skip


def test_labels_are_numbered_as_the_targets_training_numbers_them():
    own = class_losses(SCORES, "0", detected(1, 0))
    assert own["mrc_xe"].tolist() == pytest.approx([-LOG[0][2], -LOG[1][1]])
    divergence = 0.25 * (np.log(0.25) - LOG[0][1]) + 0.75 * (np.log(0.75) - LOG[0][2])
    assert own["mrc_kl"].tolist() == pytest.approx([divergence, -LOG[1][0]])
    assert class_losses(SCORES, "6", detected(1, 0))["mrc_xe"].tolist() == pytest.approx([-LOG[0][1], -LOG[1][0]])
    weighted = class_losses(SCORES, "3", detected(1, 0))
    assert weighted["mrc_xe"].tolist() == pytest.approx([-0.25 * LOG[0][1], -0.75 * LOG[1][0]])
    assert weighted.keys() == {"mrc_xe"}


# --- Refusals -------------------------------------------------------------------------------------------------------


def test_a_model_that_predicts_no_classes_is_refused(random_model, split_samples):
    model = random_model("ctrl_uniter", visual_target_weights={"1": 1})
    with pytest.raises(UserError, match="lang4vis: the model predicts no classes of regions"):
        measure(model, split_samples(images=2))
    assert measure(model, split_samples(images=2), [(VISION, "none")])


def test_features_without_classes_are_refused(random_model, split_samples, entities_world):
    samples = split_samples(images=2)
    samples.store.detections = False
    with pytest.raises(UserError, match=r"image 3000\d\d has no objects_id and no cls_prob, with which"):
        measure(random_model("ctrl_uniter"), samples)


def test_a_detector_of_other_classes_is_refused(random_model, split_samples):
    model = random_model("ctrl_uniter", v_num_classes=40)
    with pytest.raises(UserError, match=r"has 31 classes, the model predicts 40"):
        measure(model, split_samples(images=2))


def test_nothing_to_measure_is_refused(random_model, split_samples):
    model = random_model("ctrl_uniter")
    with pytest.raises(UserError, match=r"lang4vis: none of the \d+ phrases can be measured: no region shows"):
        measure(model, split_samples(threshold=0.999, most=1, images=2), [(LANGUAGE, "none")])


def test_a_loss_that_is_not_finite_is_refused(random_model, split_samples):
    model = random_model("ctrl_uniter", hidden_dropout_prob=0.2)  # of its own
    with torch.no_grad():
        model.cls.predictions.bias.fill_(float("nan"))
    with pytest.raises(UserError, match=r"vis4lang, none masked: the loss of '.*' in image 3000\d\d is not finite"):
        measure(model, split_samples(images=2), [(VISION, "none")])
