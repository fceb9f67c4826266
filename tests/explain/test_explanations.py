"""What an explanation measures, against asking the model by hand, for every head and both kinds of architectures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from asked_tasks import questions
from volta_switch.explain import explain
from volta_switch.explain.explanation import METHODS
from volta_switch.explain.gradients import gradient_times_input
from volta_switch.explain.route_choices import route_choices, route_in_words
from volta_switch.explain.subject import WHOLE, Place, Subject, Variant
from volta_switch.model.encoder import encoder_of
from volta_switch.predict import load_model

HEADS = ("TASK1", "TASK8", "TASK10", "TASK12", "TASK13")
MODELS = ("switchbert", "ctrl_vilbert", "ctrl_lxmert", "ctrl_vl-bert")
CASES = [*((key, model) for key in HEADS for model in MODELS), ("TASK12", "ctrl_visualbert")]  # with joined images


def asked_once(of, place=0):
    """A model, a text and its images."""
    line = questions(of.task, "test")[place]
    store = of.task.store("test")
    images = tuple(store[image] for image in line.get("images", [line.get("image")]))
    return load_model(of.folder), line.get("text", line.get("texts", [""])[0]), images


def without(regions, number):
    kept = np.arange(len(regions)) != number
    return replace(regions, **{name: values[kept] for name, values in regions.arrays().items()})


def score_of(model, text, images, answer):
    """The score of an answer, as the head gives it for a text and images."""
    subject = Subject.of(model, text, images)
    return subject.scores([WHOLE])[0][answer]


@pytest.mark.parametrize(("key", "model"), CASES)
def test_worth_is_what_the_score_loses_without_a_part(asked, key, model):
    model, text, images = asked_once(asked(key, model))
    found = explain(model, text, images)
    subject = found.subject
    answer = subject.answer
    assert found.regions.score == pytest.approx(subject.prediction.score, abs=1e-5)
    for number, place in enumerate(subject.places):
        if key == "TASK10" and place.number == answer:
            assert np.isnan(found.regions.change[number]) and found.regions.becomes[number] != answer
            continue
        fewer = list(images)
        fewer[place.image] = without(images[place.image], place.number)
        moved = answer - (key == "TASK10" and place.number < answer)
        other = score_of(model, text, tuple(fewer), moved)
        assert found.regions.change[number] == pytest.approx(found.regions.score - other, abs=2e-5)
        prediction = Subject.of(model, text, tuple(fewer)).prediction
        if prediction.labels:
            assert prediction.labels[found.regions.becomes[number]] == prediction.label
    ids = subject.ids.copy()
    assert "".join(word.text for word in subject.words).replace(" ", "") == text.replace(" ", "")
    for number, word in enumerate(subject.words):
        masked = subject.inputs([Variant(words=(number,))])["input_ids"][0].numpy()
        changed = (masked != ids).nonzero()[0].tolist()
        assert changed == list(word.places) and set(masked[changed]) == {model.tokenizer.mask_id}
    spelled = " ".join("[MASK]" if at == 0 else word.text for at, word in enumerate(subject.words))
    assert found.words.change[0] == pytest.approx(
        found.words.score - score_of(model, spelled, images, answer), abs=2e-5
    )


@pytest.mark.parametrize("key", HEADS)
def test_joint_worth_is_what_both_lose_beyond_each_alone(asked, key):
    model, text, images = asked_once(asked(key), 1)
    found = explain(model, text, images)
    subject, joint = found.subject, found.joint
    assert joint.shape == (len(subject.words), len(subject.places))
    for word, region in [(0, 0), (len(subject.words) - 1, len(subject.places) - 1)]:
        both = Variant(words=(word,), regions=(subject.places[region],))
        other = subject.scores([both])[0][subject.answer]
        wanted = found.words.score - other - found.words.change[word] - found.regions.change[region]
        assert joint[word, region] == pytest.approx(wanted, abs=2e-5, nan_ok=True)


def test_regions_beyond_those_that_the_model_sees_are_not_asked_about(asked):
    model, text, (image,) = asked_once(asked("TASK10"))
    model.tasks["TASK10"]["max_region_num"] = 3
    found = explain(model, text, image)
    subject = found.subject
    assert [place.number for place in subject.places] == [0, 1, 2]
    other = next(number for number in range(3) if number != subject.answer)
    given = subject.inputs([Variant(regions=(Place(0, other),))])
    assert given["image_feat"].shape[1] == 3 and len(image) > 4  # the global region and two
    mean = without(image, other).features.mean(0)  # of all that are left, those that are not seen among them
    assert given["image_feat"][0, 0].numpy() == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize(("key", "model"), CASES)
def test_attention_is_rolled_out_over_real_rows(asked, key, model):
    model, text, images = asked_once(asked(key, model))
    found = explain(model, text, images)
    attention, subject = found.attention, found.subject
    B, K, _ = attention.rolled.shape
    given = subject.inputs([WHOLE])
    real = torch.cat((given["attention_mask"], given["image_attention_mask"]), 1).bool().numpy()  # (B, K)
    assert attention.rolled[real].sum(1) == pytest.approx(np.ones(real.sum()), abs=1e-5)
    for row in range(B):
        assert np.abs(attention.rolled[row][np.ix_(real[row], ~real[row])]).sum() == 0
    assert attention.to_answer().sum() == pytest.approx(1, abs=1e-5)
    layers = [sublayer for sublayer in attention.sublayers if sublayer.text is not None]
    for sublayer in layers:
        total = sublayer.text.sum(3)  # (B, H, T)
        mask = given["attention_mask"].bool().numpy()
        assert np.all(np.isclose(total, 1, atol=1e-5) | (total == 0)) and not total.transpose(0, 2, 1)[~mask].any()
    first = attention.sublayers[0]
    step = np.zeros((B, K, K))
    for weights, part in ((first.text, slice(0, attention.T)), (first.vision, slice(attention.T, K))):
        if weights is not None:
            step[:, part] = weights.mean(1)
    for row in range(B):
        for position in range(K):
            if not step[row, position].any():
                step[row, position, position] = 1  # what attends to nothing stays as it is
    if len(attention.sublayers) == 1:
        assert attention.rolled == pytest.approx(0.5 * (step + np.eye(K)))
    for heads in attention.heads_to_answer():
        assert np.all(np.isclose(heads.sum((1, 2)), 1, atol=1e-5) | (heads.sum((1, 2)) == 0))
    for method in METHODS:
        assert len(found.of_words(method)) == len(subject.words)
        assert len(found.of_regions(method)) == len(subject.places)


def test_the_rollout_follows_the_inputs_of_the_route(asked):
    """By plain loops over the route: each side's rows of a layer begin with the layer that its input names."""
    model, text, image = asked_once(asked("TASK1"))
    found = explain(model, text, image)
    attention, T = found.attention, found.attention.T
    chosen = {
        (choice.layer, choice.block): next(option.name for option in choice.options if option.chosen)
        for choice in found.choices
    }
    K = attention.rolled.shape[1]
    outputs = [np.eye(K)]  # the embeddings, then each layer's
    for layer, sublayer in enumerate(attention.sublayers):
        name = chosen.get((layer, "inputs"), "l-1")
        older = outputs[-2] if layer > 0 else outputs[-1]
        given = outputs[-1].copy()
        if name in ("text l-2", "l-2"):
            given[:T] = older[:T]
        if name in ("vision l-2", "l-2"):
            given[T:] = older[T:]
        step = np.concatenate([sublayer.text[0].mean(0), sublayer.vision[0].mean(0)])
        attends = step.sum(1) > 0
        after = 0.5 * given + 0.5 * step @ given
        after[~attends] = given[~attends]
        outputs.append(after)
    assert attention.rolled[0] == pytest.approx(outputs[-1], abs=1e-6)


@pytest.mark.parametrize(("key", "model"), [case for case in CASES if case[0] in ("TASK1", "TASK10", "TASK12")])
def test_gradient_times_input_is_the_slope_of_the_score(asked, key, model):
    """Against a difference quotient: one row of the embeddings grows by a small share."""
    model, text, images = asked_once(asked(key, model))
    model = model.double()
    subject = Subject.of(model, text, images)
    words, regions = gradient_times_input(subject)
    places = [(0, 0, 1), (1, *subject.row_and_slot(subject.places[1]))]  # text and vision: row and position
    for side, row, position in places:

        def grow(_, args, kwargs, side=side, row=row, position=position, share=1e-4):
            states, layout, *rest = args
            rows = (layout.text, layout.vision)[side]
            number = int(rows.numbers[row, position])
            states = [state.clone() for state in states]
            states[side][number] *= 1 + share
            return (tuple(states), layout, *rest), kwargs

        def score(hook=None):
            handle = encoder_of(model).register_forward_pre_hook(hook, with_kwargs=True) if hook else None
            with torch.inference_mode():
                found = subject.answer_score(model.scorer("")(subject.inputs([WHOLE])))
            if handle:
                handle.remove()
            return float(found)

        slope = (score(grow) - score()) / 1e-4
        assert (words, regions)[side][row, position] == pytest.approx(slope, rel=2e-2, abs=2e-3)


@pytest.mark.parametrize("key", ["TASK1", "TASK10", "TASK12"])
def test_each_choice_is_worth_what_forcing_it_changes(asked, key):
    model, text, images = asked_once(asked(key))
    subject = Subject.of(model, text, images)
    found = route_choices(subject)
    switch = encoder_of(model).switch
    given = subject.inputs([WHOLE])
    with torch.inference_mode():
        routes = model("".join(model.tasks), **given).routes
    assert {choice.row for choice in found} == set(range(subject.rows))
    score = subject.scores([WHOLE])[0][subject.answer]
    for choice in found:
        weights = routes.modes if choice.block == "modes" else routes.inputs
        own = int(weights[choice.row, choice.layer].argmax())
        assert [option.chosen for option in choice.options].index(True) == own
        assert sum(option.probability for option in choice.options) == pytest.approx(1, abs=1e-5)
        assert choice.options[own].change == pytest.approx(0, abs=1e-5)
        for number, option in enumerate(choice.options):
            forced = {"modes": routes.modes.clone(), "inputs": routes.inputs.clone()}
            forced[choice.block][choice.row, choice.layer] = torch.eye(len(choice.options))[number]
            other = subject.scores([WHOLE], forced)[0]
            assert option.change == pytest.approx(other[subject.answer] - score, abs=1e-5)
            assert option.becomes == int(other.argmax())
    assert any(abs(option.change) > 1e-4 for choice in found for option in choice.options)
    layers = route_in_words(found).split(", ")
    assert len(layers) == encoder_of(model).depth and layers[0].split()[0] in switch.modes


def test_a_static_architecture_has_no_route(asked):
    model, text, images = asked_once(asked("TASK1", "ctrl_vilbert"))
    assert explain(model, text, images).choices == []
