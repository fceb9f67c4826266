"""``volta-switch routes``: one JSON with everything, and refusals."""

import json

import pytest
import torch

from routes.planted import model_and_task, scatter
from synthetic_world import json_of, refusal
from volta_switch.cli import _run, main
from volta_switch.errors import UserError


@pytest.fixture(scope="module")
def weights(world, tmp_path_factory):
    """Weights of a task's random model: weights("vqa") -> a file."""
    folder = tmp_path_factory.mktemp("weights")

    def write(name, model="switchbert", seed=0):
        path = folder / f"{name}_{model}_{seed}.bin"
        if model == "switchbert":
            built, _, encoder = model_and_task(world, name)
            scatter(encoder, seed)
        else:
            built = world.task_model(world.task(name, world.config(model)))
        torch.save(built.state_dict(), path)
        return path

    return write


@pytest.fixture
def line(world, weights, tmp_path):
    def make(name, *more, model="switchbert"):
        flags = world.flags("eval_task", tmp_path / "unused", model, name)
        given = ["--from_pretrained", weights(name, model), "--out", tmp_path / "routes.json", "--batch_size", 8]
        return [str(flag) for flag in ("routes", *flags, *given, *more)]

    return make


@pytest.fixture
def written(line, tmp_path):
    def run(name, *more, model="switchbert"):
        main(line(name, *more, "--overwrite", model=model))
        return json_of(tmp_path / "routes.json")

    return run


def test_a_report_that_is_there_is_not_replaced_unasked(line, tmp_path):
    (tmp_path / "routes.json").write_text("{}")
    with pytest.raises(UserError, match=r"routes.json: is there already; give another --out, or replace it with"):
        _run(line("vqa"))
    assert (tmp_path / "routes.json").read_text() == "{}"


def test_everything_about_a_task_is_in_one_file(written, weights, tmp_path):
    more = ("--interventions", "--attention", "--permutations", 20, "--checkpoints", weights("vqa", seed=3))
    found = written("vqa", *more)
    n = found["samples"]
    assert found["task"] == "TASK1" and found["metric"] == "vqa_score" and len(found["layers"]) == 4
    assert set(found["mutual information"]) >= {"question type", "regions"}
    per_sample = found["per sample"]
    assert {len(values) for values in per_sample.values()} == {n}
    assert set(per_sample) == {"ids", "images", "texts", "routes", "text length", "regions", "question type"}
    frequent = found["architectures"]["most frequent"]
    assert [per_sample["routes"].count(line["route"]) for line in frequent] == [line["samples"] for line in frequent]
    assert found["flops per pair"]["training_executed"] > 2 * found["flops per pair"]["inference_executed"] > 0
    assert [each["kind"] for each in found["whole routes"]] == ["most frequent", "shuffled"]
    assert len(found["interventions"]) == 50 and len(found["attention"]) == 4
    later = found["over training"][0]
    assert later["architectures"]["most frequent"] != frequent[:1]
    assert not (tmp_path / "unused").exists()


def test_referring_expressions_know_their_objects(written, world):
    found = written("refer", "--permutations", 5)
    path = world.path / "datasets/refcoco+_unc/annotations/refcoco+/instances.json"
    images = [str(item["image_id"]) for item in json.loads(path.read_text())["annotations"]]
    assert found["per sample"]["objects"] == [images.count(image) for image in found["per sample"]["images"]]
    assert found["per sample"]["objects"] == found["per sample"]["regions"]  # one box an object in this world


def test_a_part_of_the_samples_is_a_part_of_the_whole(written):
    whole, part = written("vqa", "--permutations", 1), written("vqa", "--permutations", 1, "--samples", 20)
    assert part["samples"] == 20 < whole["samples"] and "intervals" not in whole
    tables = (found["per sample"] for found in (whole, part))
    of_whole, of_part = (dict(zip(table["ids"], table["routes"], strict=True)) for table in tables)
    assert of_part.items() <= of_whole.items()


@pytest.mark.parametrize("task", ["vqa", "refer", "retrieval"])
def test_samples_are_those_of_whole_images_drawn_by_a_seed_of_their_own(written, task):
    """Evenly spaced ones were all of one kind where an image has four questions, each of a kind."""
    whole = written(task, "--permutations", 0)["per sample"]["images"]
    drawn = []
    for more in (("--seed", 1), ("--seed", 2), ("--samples-seed", 1)):
        found = written(task, "--permutations", 0, "--samples", len(whole) // 3, *more)
        images = found["per sample"]["images"]
        assert {image: images.count(image) for image in images} == {image: whole.count(image) for image in {*images}}
        assert found["images"] == len({*images}) < found["images of the split"] == len({*whole})
        assert abs(len(images) - len(whole) / 3) <= max(whole.count(image) for image in whole)
        drawn.append({*images})
    assert drawn[0] == drawn[1] != drawn[2]


def with_intervals(number, interval):
    """Every number of a report and its interval, where it has one."""
    if isinstance(interval, dict):
        return [pair for key, inner in interval.items() for pair in with_intervals(number[key], inner)]
    if isinstance(number, list):
        return [pair for each in zip(number, interval, strict=True) for pair in with_intervals(*each)]
    return [(number, interval)] if isinstance(interval, list) else []


def test_every_number_of_drawn_images_has_an_interval_for_the_whole_split(written, weights):
    more = ("--interventions", "--attention", "--permutations", 5, "--checkpoints", weights("vqa", seed=3))
    found = written("vqa", "--samples", 20, *more)
    [later] = found["over training"]
    assert found["intervals"].keys() == {
        *("layers", "cross-layer", "architectures", "metrics", "mutual information", "attention")
    }
    assert set(found["metrics"]) - set(found["intervals"]["metrics"]) == {"loss"}  # which is a mean over batches
    assert {"layers", "metrics"} <= later["intervals"].keys()
    pairs = with_intervals(found, found["intervals"])
    pairs += [pair for line in found["interventions"] for pair in with_intervals(line, line["intervals"])]
    assert len(pairs) > 100 and sum(high > low for _, (low, high) in pairs) > 50
    assert all(low - 1e-6 <= number <= high + 1e-6 for number, (low, high) in pairs)


def test_retrieval_is_measured_among_four(written):
    found = written("retrieval", "--permutations", 1, "--attention")
    assert found["metric"] == "accuracy_4way" and len(found["per sample"]["ids"]) == found["samples"]


def test_static_architectures_have_attention_alone(written):
    found = written("vqa", "--attention", model="ctrl_vilbert")
    assert "layers" not in found and len(found["attention"]) > 0


@pytest.mark.parametrize(
    ("more", "model", "said"),
    [
        (("--routing", "soft"), "switchbert", "--routing soft"),
        (("--samples", "-1"), "switchbert", "--samples: expected a whole number from 0 to"),
        (("--epsilon", "1"), "switchbert", "--epsilon"),
        (("--split", "nowhere"), "switchbert", "nowhere"),
        (("--from_pretrained", ""), "switchbert", "--from_pretrained"),
        (("--from_pretrained", "absent.bin"), "switchbert", "absent.bin"),
        ((), "ctrl_uniter", "no switch section"),
    ],
)
def test_bad_input_gets_one_line(line, more, model, said, capsys, tmp_path):
    assert said in refusal(_run, line("vqa", *more, model=model), capsys)
    assert not (tmp_path / "routes.json").exists()


@pytest.mark.parametrize("flag", ["--samples", "--permutations"])
def test_a_negative_number_is_none_of_samples_or_permutations(line, flag, capsys):
    with pytest.raises(SystemExit) as caught:
        _run(line("vqa", flag, "-1"))
    assert caught.value.code == 2 and f"{flag}: expected a whole number from 0 to" in capsys.readouterr().err
