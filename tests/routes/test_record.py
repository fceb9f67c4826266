"""Recorded routes: forcing them changes nothing, and those that were planted are found."""

import numpy as np
import pytest
import torch

from routes.planted import model_and_task, plant_constant, plant_reader, scatter
from volta_switch.model.embeddings import ModelInputs
from volta_switch.model.rows import PackedLayout
from volta_switch.routes.record import ObservedModel, evaluate, record, route_words
from volta_switch.routes.report import counted_routes, dependence, route_report

CPU = torch.device("cpu")
ROWS = {"vqa": 1, "refer": 1, "retrieval": 4}


def recorded(model, task, encoder, split="val", batch_size=7):
    return record(task, model, encoder, task.loader(split, batch_size, training=False), CPU)


def scores_of(model, task, encoder, given=None, batch_size=7):
    """Every batch's scores, through the task's own evaluation."""
    found, observed = [], ObservedModel(model, encoder, given)
    observed.watch = lambda tensors, out: found.append(out.scores.clone())
    evaluation = evaluate(task, observed, task.loader("val", batch_size, training=False), CPU)
    return found, evaluation


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("vqa", {}),
        ("refer", {}),
        ("retrieval", {}),
        ("vqa", {"switch.input_candidates": 4}),
        ("refer", {"switch.attention": False}),
        ("refer", {"switch.input": False}),
        ("vqa", {"switch.modes": ["SS", "J"], "switch.top_k": 1}),
    ],
    ids=str,
)
def test_forcing_the_recorded_routes_reproduces_the_outputs_exactly(world, name, changes):
    model, task, encoder = model_and_task(world, name, **changes)
    scatter(encoder)
    kept = recorded(model, task, encoder)
    free, evaluation = scores_of(model, task, encoder)
    scatter(encoder, seed=1)  # from here on the switchers would choose otherwise
    forced, again = scores_of(model, task, encoder, kept.routes)
    assert all(torch.equal(*pair) for pair in zip(free, forced, strict=True))
    assert evaluation == again == kept.evaluation
    assert len(set(counted_routes(encoder, kept))) > 1  # and the samples do differ
    assert len(kept.ids) == ROWS[name] * len(task.dataset("val", False)) == len(kept.modes)
    assert kept.counted.sum() == len(task.dataset("val", False))


def test_another_route_gives_other_outputs(world):
    model, task, encoder = model_and_task(world, "vqa")
    scatter(encoder)
    kept = recorded(model, task, encoder)
    kept.modes[:, 0] = (kept.modes[:, 0] + 1) % 4
    pairs = zip(*(scores_of(model, task, encoder, given)[0] for given in (None, kept.routes)), strict=True)
    assert not any(torch.equal(*pair) for pair in pairs)


def test_constant_switchers_are_recovered(world):
    model, task, encoder = model_and_task(world, "refer")
    modes, inputs = (2, 0, 3, 1), (1, 2, 0)
    for switcher, option in zip((*encoder.attention_switch, *encoder.input_switch), (*modes, *inputs), strict=True):
        plant_constant(switcher, option)
    report = route_report(encoder, recorded(model, task, encoder))
    names = encoder.switch.modes
    assert [layer["modes"][names[mode]] for layer, mode in zip(report["layers"], modes, strict=True)] == [1] * 4
    chosen = ("text l-2", "vision l-2", "l-1")
    assert [layer["inputs"][name] for layer, name in zip(report["layers"][1:], chosen, strict=True)] == [1] * 3
    assert report["cross-layer"] == pytest.approx({"text from l-2": 1 / 3, "vision from l-2": 1 / 3})
    of = report["architectures"]
    assert (of["different"], of["entropy"]) == (1, 0)
    assert of["most frequent"] == [{"route": "CS SS1 J2 SC0", "share": 1, "samples": report["samples"]}]
    assert report["layers"][0]["modes active"] == {"SS": 0, "SC": 0, "CS": 1, "J": 0}


def between(values):
    """A threshold with as many values on either side, halfway between two of them."""
    ordered = sorted(values)
    return (ordered[len(ordered) // 2 - 1] + ordered[len(ordered) // 2]) / 2


def text_projections(model, task, direction):
    """Sample -> its text's mean embedding along a direction, worked out apart."""
    found = {}
    for batch in task.loader("val", 5, training=False):
        given = ModelInputs(**{name: tensor for name, tensor in batch.inputs.items() if name != "noise_keys"})
        layout = PackedLayout.of((given.attention_mask, given.image_attention_mask))
        with torch.no_grad():
            text, _, _ = model.bert.embed(given, layout)
        for row, name in enumerate(batch.ids):
            found[name] = float(text[layout.text.sample == row].mean(0) @ direction)
    return found


def test_switchers_that_read_the_text_are_recovered(world):
    model, task, encoder = model_and_task(world, "vqa")
    for switcher in (*encoder.attention_switch, *encoder.input_switch):
        plant_constant(switcher, 0)
    direction = torch.randn(task.config.hidden_size, generator=torch.Generator().manual_seed(1))
    known = text_projections(model, task, direction)
    middle = between(known.values())
    plant_reader(encoder.attention_switch[0], 0, direction, middle, below=1, above=3)
    kept = recorded(model, task, encoder)
    expected = ["J" if known[name] > middle else "SC" for name in kept.ids]
    assert [route.split()[0] for route in counted_routes(encoder, kept)] == expected
    share = expected.count("J") / len(expected)
    assert 0.3 < share < 0.7
    report = route_report(encoder, kept)
    assert report["layers"][0]["modes"] == pytest.approx({"SS": 0, "SC": 1 - share, "CS": 0, "J": share})
    assert {line["route"] for line in report["architectures"]["most frequent"]} == {"SC SS0 SS0 SS0", "J SS0 SS0 SS0"}
    depends = dependence(encoder, kept, {"planted": expected, "index": [0] * len(expected)}, 200)
    assert list(depends) == ["planted"]  # the other is the same for all
    first, *others = depends["planted"]["modes"]
    assert first["plug_in"] == pytest.approx(depends["planted"]["entropy"]) and first["p"] == 1 / 201
    assert all(layer["bits"] == 0 and layer["p"] == 1 for layer in others)


def test_input_switchers_that_read_the_regions_are_recovered(world):
    model, task, encoder = model_and_task(world, "refer")
    for switcher in (*encoder.attention_switch, *encoder.input_switch):
        plant_constant(switcher, 0)
    direction = torch.randn(task.config.hidden_size, generator=torch.Generator().manual_seed(2))
    means = []
    encoder.input_switch[1].register_forward_pre_hook(lambda module, given: means.append(given[1] @ direction))
    recorded(model, task, encoder)
    known = torch.cat(means)  # of layer 2's output, which layer 3's switcher reads
    middle = between(known.tolist())
    plant_reader(encoder.input_switch[1], 1, direction, middle, below=0, above=2)
    kept = recorded(model, task, encoder)
    assert kept.inputs[:, 2].tolist() == torch.where(known > middle, 2, 0).tolist()
    layer = route_report(encoder, kept)["layers"][2]
    share = float((known > middle).double().mean())
    assert 0.3 < share < 0.7 and layer["vision from l-2"] == pytest.approx(share) and layer["text from l-2"] == 0


def test_retrieval_counts_true_pairs_alone(world):
    model, task, encoder = model_and_task(world, "retrieval")
    scatter(encoder)
    kept = recorded(model, task, encoder)
    rows = np.flatnonzero(kept.counted)
    assert (rows % 4 == 0).all() and len(rows) == len(kept.modes) // 4
    lengths = task.dataset("val", False).text_lengths
    assert [lengths[int(kept.ids[row])] - 2 for row in rows] == kept.text_lengths[rows].tolist()


def test_routes_in_words():
    rows = np.array([[3, 0], [1, 2]]), np.array([[0, 2], [0, 1]])
    names = ("SS", "SC", "CS", "J")
    assert route_words(*rows, names, (True, True)) == ["J SS2", "SC CS1"]
    assert route_words(*rows, names, (True, False)) == ["J SS", "SC CS"]
    assert route_words(*rows, names, (False, True)) == ["J J2", "J J1"]


def test_operations_are_tracked_along_the_routes(world):
    """Constant joint layers are paid for as they are executed; four equally probable modes cost more in training."""
    model, task, encoder = model_and_task(world, "refer")
    for switcher in (*encoder.attention_switch, *encoder.input_switch):
        plant_constant(switcher, 0)
    for switcher in encoder.attention_switch:
        plant_constant(switcher, 3)
    lone = recorded(model, task, encoder).flops
    assert lone["training_paths"] == pytest.approx(lone["training_executed"], rel=1e-12)
    assert lone["inference_paths"] == pytest.approx(lone["inference_executed"], rel=1e-12)
    for switcher in encoder.attention_switch:
        switcher.options.bias.data.zero_()
    even = recorded(model, task, encoder).flops
    assert even["training_executed"] == lone["training_executed"]
    assert even["training_paths"] > 1.3 * lone["training_paths"]
    assert even["inference_paths"] < lone["inference_paths"]  # the first mode, SS, has fewer pairs
