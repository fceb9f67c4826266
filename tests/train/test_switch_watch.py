"""What validation says of switchers equals what recorded routes say, and a collapse is told once, when it happens."""

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch

from routes.planted import model_and_task, plant_constant, scatter
from synthetic_world import interrupted_at, json_of, log_of
from train.run_ends import close_numbers, logged, newest, same_end
from train.short_runs import FINETUNING
from volta_switch import BertForVLPreTraining
from volta_switch.data.batches.collate import Batch
from volta_switch.model.bert import switch_encoder
from volta_switch.routes.record import record
from volta_switch.train.optimisation import Validation
from volta_switch.train.ranks import Ranks
from volta_switch.train.switch_watch import SwitchWatch
from volta_switch.weights import to_volta, write_weights

CPU = torch.device("cpu")
TASKS = ("vqa", "refer", "retrieval")
# 20 pairs in batches of 10: 2 steps an epoch.
SHORT = ("--train_batch_size", 10, "--learning_rate", 1e-9, "--save_best_only")


class Log:
    """A run's log, as a list."""

    def __init__(self):
        self.lines, self.ranks = [], Ranks()

    def log(self, kind, step, values):
        self.lines.append((kind, step, values))


def bits(shares):
    return -sum(share * math.log2(share) for share in shares if share > 0)


def by_hand(kept, first_input=1):
    """The same numbers from what ``record`` kept of every pair, one pair and one switcher after the other."""
    taken = [(*modes, *inputs) for modes, inputs in zip(kept.modes.tolist(), kept.inputs.tolist(), strict=True)]
    counts, n = Counter(taken), len(taken)
    found = {
        "pairs": n,
        "distinct_routes": len(counts),
        "commonest_share": counts.most_common(1)[0][1] / n,
        "route_entropy": bits(count / n for count in counts.values()),
    }
    total, mean_squares, variances = 0.0, [], []
    for block, scores, first in (("modes", kept.mode_scores, 0), ("inputs", kept.input_scores, first_input)):
        found[block] = {"mutual_information": [], "constant": [], "varying": []}
        for layer in range(scores.shape[1]):
            if layer < first:
                for values in found[block].values():
                    values.append(None)
                continue
            own = scores[:, layer].astype(np.float64)
            probability = np.exp(own) / np.exp(own).sum(1, keepdims=True)
            information = bits(probability.mean(0)) - np.mean([bits(row) for row in probability])
            logits = own - own.mean(1, keepdims=True)
            means = logits.mean(0)
            apart = ((logits - means) ** 2).mean(0)
            total += information
            mean_squares += [*means**2]
            variances += [*apart]
            values = information, math.sqrt((means**2).mean()), math.sqrt(apart.mean())
            for name, value in zip(found[block], values, strict=True):
                found[block][name].append(value)
    constant, varying = math.sqrt(np.mean(mean_squares)), math.sqrt(np.mean(variances))
    found |= {"mutual_information": total, "constant": constant, "varying": varying}
    return found | {"constant_to_varying": constant / varying}


def watched(model, task, encoder, log=None, batch_size=7):
    """A watch over one validation of a task, and what the validation found."""
    watch = SwitchWatch(encoder, log or Log())

    def validate():
        batches = watch.noting(task.loader("val", batch_size, training=False))
        evaluation = task.evaluate(model, batches, CPU)
        return Validation(evaluation.score, evaluation.metrics)

    return watch, watch.validated(validate)


@pytest.mark.parametrize("task", TASKS)
def test_the_numbers_are_those_of_recorded_routes(world, task):
    """Of retrieval all four alternatives count."""
    model, built, encoder = model_and_task(world, task)
    scatter(encoder)
    watch, validation = watched(model, built, encoder)
    kept = record(built, model, encoder, built.loader("val", 7, training=False), CPU)
    found = watch.found["switchers"]
    assert close_numbers(found, by_hand(kept), 1e-9) and found["pairs"] == len(kept.modes)
    assert found["distinct_routes"] > 1 and found["mutual_information"] > 0.5 and found["varying"] > 0.1
    assert validation.score == kept.evaluation.score
    assert not any(module._forward_hooks for module in model.modules())


def test_a_block_that_is_not_switched_is_left_out(world):
    model, built, encoder = model_and_task(world, "refer", **{"switch.attention": False})
    scatter(encoder)
    found = watched(model, built, encoder)[0].found["switchers"]
    assert "modes" not in found and found["inputs"]["constant"][0] is None and found["distinct_routes"] > 1
    neither = {"switch.attention": False, "switch.input": False}
    assert watched(*model_and_task(world, "refer", **neither))[0].found == {}


def test_constant_switchers_have_one_route_and_nothing_varies(world):
    model, built, encoder = model_and_task(world, "refer")
    for switcher in (*encoder.attention_switch, *encoder.input_switch):
        plant_constant(switcher, 1)
    found = watched(model, built, encoder)[0].found["switchers"]
    assert (found["distinct_routes"], found["commonest_share"], found["route_entropy"]) == (1, 1.0, 0.0)
    assert found["mutual_information"] == pytest.approx(0, abs=1e-12)
    assert found["varying"] == 0 and found["constant_to_varying"] is None
    # One of four logits at 50, or one of three: the mean over all options of the squares of the centred ones.
    squares = [37.5**2] + [12.5**2] * 3, [(100 / 3) ** 2] + [(50 / 3) ** 2] * 2
    expected = math.sqrt((4 * sum(squares[0]) + 3 * sum(squares[1])) / (4 * 4 + 3 * 3))
    assert found["constant"] == pytest.approx(expected, rel=1e-6)


def test_sure_routes_that_halve_the_samples_share_one_bit_with_them(world):
    """So do uneven preferences less: the entropy of the routes stays, the information falls."""
    model, built, encoder = model_and_task(world, "refer", **{"switch.input": False})
    for switcher in encoder.attention_switch:
        plant_constant(switcher, 3)
    first = encoder.attention_switch[0]
    rows = itertools.count()
    strength = 0.0

    def alternate(_, __, said):
        logits = torch.zeros_like(said)
        for row in range(len(said)):
            logits[row, next(rows) % 2] = strength
        return logits.log_softmax(-1)

    handle = first.register_forward_hook(alternate)
    found = {}
    for strength in (50.0, 0.5):
        rows = itertools.count()
        one = watched(model, built, encoder)[0].found["switchers"]
        found[strength] = one["route_entropy"], one["mutual_information"]
    handle.remove()
    n = len(built.dataset("val", False))
    assert n % 2 == 0 and found[50.0] == pytest.approx((1.0, 1.0), abs=1e-6)
    p = math.exp(0.5) / (math.exp(0.5) + 3)
    expected = bits([(p + (1 - p) / 3) / 2] * 2 + [(1 - p) / 3] * 2) - bits([p] + [(1 - p) / 3] * 3)
    assert found[0.5] == pytest.approx((1.0, expected), abs=1e-6) and expected < 0.05


def test_a_batch_that_stands_in_for_no_samples_counts_nothing(world):
    model, built, encoder = model_and_task(world, "refer")
    scatter(encoder)
    [*batches] = built.loader("val", 7, training=False)
    found = []
    for given in (batches, [*batches, Batch(batches[0].inputs, batches[0].target, [])]):
        watch = SwitchWatch(encoder, Log())

        def validate(watch=watch, given=given):
            task_scores = built.evaluate(model, watch.noting(given), CPU)
            return Validation(task_scores.score, {})

        watch.validated(validate)
        found.append(watch.found)
    assert found[0] == found[1] and found[0]["switchers"]["pairs"] == sum(map(len, batches))


# --- A collapse -----------------------------------------------------------------------------------------------------


class Sequence:
    """A watch that is shown validations one after the other."""

    def __init__(self, world):
        self.encoder = model_and_task(world, "refer")[2]
        self.log = Log()
        self.watch = SwitchWatch(self.encoder, self.log)

    def told(self, commonest, information, share):
        seen = {"pairs": 1000, "distinct_routes": 2, "commonest_share": commonest, "mutual_information": information}
        self.watch.found = {"switchers": seen}
        said = self.watch.collapse(7, share)
        assert len(said) == sum(kind == "collapse" for kind, *_ in self.log.lines)
        self.log.lines.clear()
        return bool(said)

    def go_on(self):
        """As a run that goes on from a checkpoint, through JSON."""
        state = json.loads(json.dumps(self.watch.state()))
        self.watch = SwitchWatch(self.encoder, self.log)
        self.watch.restore(state)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_collapse_is_told_once_and_again_only_after_it_was_over(world, resumed):
    sequence = Sequence(world)
    shown = [
        ((1.0, 0.0, 0.1), False),  # untrained: even switchers give all samples the same option
        ((0.6, 0.2, 0.2), False),
        ((0.99, 0.049, 0.21), True),
        ((1.0, 0.0, 0.3), False),
        ((0.995, 0.06, 0.4), False),  # over
        ((0.995, 0.01, 0.5), True),
        ((0.98, 0.01, 0.6), False),  # over
        ((0.99, 0.01, 0.7), True),
    ]
    for given, expected in shown:
        assert sequence.told(*given) is expected, given
        if resumed:
            sequence.go_on()


def test_switchers_that_never_varied_are_given_a_quarter_of_the_run(world):
    sequence = Sequence(world)
    found = [sequence.told(1.0, 0.0, share) for share in (0.1, 0.2, 0.249, 0.25, 0.5)]
    assert found == [False, False, False, True, False]


@pytest.fixture(scope="module")
def one_way(world, tmp_path_factory):
    """Weights of a pre-training model whose switchers are constant."""
    torch.manual_seed(0)
    model = BertForVLPreTraining(world.config("switchbert"))
    encoder = switch_encoder(model)
    for switcher in (*encoder.attention_switch, *encoder.input_switch):
        plant_constant(switcher, 1)
    path = tmp_path_factory.mktemp("one way") / "weights.bin"
    write_weights(path, to_volta(model))
    return path


def test_a_run_says_that_its_switchers_have_collapsed(world, one_way, tmp_path, capsys):
    flags = (*SHORT, "--num_train_epochs", 5, "--from_pretrained", one_way)
    run = world.run("train_concap", tmp_path / "whole", "switchbert", *flags)
    [line] = [line for line in capsys.readouterr().err.splitlines() if "collapsed" in line]
    [logged_line] = log_of(run, "collapse")
    assert logged_line["message"] == line and logged_line["step"] == 4  # 2 of 10 are no quarter
    pairs = log_of(run, "valid")[0]["switchers"]["pairs"]
    assert f"after step 4 one route takes 100.0% of {pairs} image-text pairs" in line
    assert "0.000 bit" in line and f"temperature {logged_line['temperature']:.2f}" in line
    settings = ("switch.anneal_share=1", "switch.finetune_anneal_share=1", "switch.alignment_norm=batch")
    assert all(word in line for word in (*settings, "docs/routes.md"))
    assert [valid["switchers"]["distinct_routes"] for valid in log_of(run, "valid")] == [1] * 5
    metrics = json_of(run / "metrics.json")
    assert metrics["last_validation"]["switchers"] == log_of(run, "valid")[-1]["switchers"]
    assert metrics["best_validation"]["switchers"]["commonest_share"] == 1.0

    with interrupted_at(7):
        world.run("train_concap", tmp_path / "parts", "switchbert", *flags)
    assert "collapsed" in capsys.readouterr().err
    again = world.run("train_concap", tmp_path / "parts", "switchbert", *flags, "--resume")
    assert "collapsed" not in capsys.readouterr().err
    assert same_end(again, run) and logged(again) == logged(run)
    assert newest(run).plain["switchers"] == {"informed": False, "collapsed": True}


def test_switchers_that_vary_have_not_collapsed(world, tmp_path, capsys):
    torch.manual_seed(0)
    model = BertForVLPreTraining(world.config("switchbert"))
    scatter(switch_encoder(model))
    write_weights(tmp_path / "weights.bin", to_volta(model))
    flags = (*SHORT, "--num_train_epochs", 2, "--from_pretrained", tmp_path / "weights.bin")
    run = world.run("train_concap", tmp_path, "switchbert", *flags)
    assert "collapsed" not in capsys.readouterr().err and not log_of(run, "collapse")
    last = log_of(run, "valid")[-1]["switchers"]
    assert last["distinct_routes"] > 1 and last["mutual_information"] > 0.05
    assert newest(run).plain["switchers"] == {"informed": True, "collapsed": False}


def test_fine_tuning_is_watched_and_numbers_go_to_tensorboard(world, pretrained, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    start = pretrained("switchbert") / "pytorch_model_best.bin"
    flags = (*FINETUNING, "--num_epoch", 1, "--from_pretrained", start)
    run = world.run("train_task", tmp_path, "switchbert", *flags, task="refer")
    [valid] = log_of(run, "valid")
    assert valid["switchers"]["pairs"] == len(world.task("refer", world.config("switchbert")).dataset("val", False))
    [events] = (tmp_path / "logs" / run.name).glob("events.*")
    drawn = EventAccumulator(str(events))
    drawn.Reload()
    for name in ("commonest_share", "distinct_routes", "mutual_information", "route_entropy", "constant", "varying"):
        [scalar] = drawn.Scalars(f"valid/switchers/{name}")
        assert scalar.value == pytest.approx(valid["switchers"][name], rel=1e-6) and scalar.step == valid["step"]


def test_a_static_model_has_none_of_it(pretrained):
    run = pretrained("ctrl_uniter")
    assert not any("switchers" in line for line in log_of(run, "valid")) and not log_of(run, "collapse")
    assert newest(run).plain["switchers"] == {}


def test_a_checkpoint_of_before_goes_on(world):
    watch = SwitchWatch(model_and_task(world, "refer")[2], Log())
    watch.restore(None)
    assert watch.state() == {"informed": False, "collapsed": False}
