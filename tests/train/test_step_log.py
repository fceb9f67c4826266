"""Routes and operations in the training log: planted switchers give what was planted, and training never notices."""

import pytest
import torch

from synthetic_world import SIZES, equal_weights, json_of, log_of, weights_of
from train.run_ends import logged
from volta_switch import BertForVLPreTraining, load_config
from volta_switch.cost import EPSILON
from volta_switch.cost.counts import BatchCounts, some_batch
from volta_switch.cost.executed import training_step
from volta_switch.cost.paths import Activity, training_paths
from volta_switch.data.batches.collate import Batch
from volta_switch.model.bert import switch_encoder
from volta_switch.model.switch import Routes
from volta_switch.train.loop import Trainer
from volta_switch.train.pretraining import Pretraining
from volta_switch.train.step_log import RouteLog

B, L, M, C = 8, 4, 4, 3
SURE = 1e5  # a logit against which neither noise nor a temperature of 5 has a chance


def learner_of(*overrides, name="demo/switchbert"):
    torch.manual_seed(0)
    sizes = {**SIZES, **({"switch.hidden_size": 8} if "switch" in name else {})}
    config = load_config(name, (*(f"{key}={value}" for key, value in sizes.items()), *overrides))
    return Pretraining(BertForVLPreTraining(config).train(), 1)


def batch_of(config, rows=slice(None), longest=()):
    """A batch of pre-training; the ``longest`` samples fill all slots, and all of them are masked."""
    inputs = some_batch(B, config=config)
    for name in ("input_ids", "masked_lm_labels"):
        inputs[name] = inputs[name].clamp(max=config.vocab_size - 1)
    for name, value in (("attention_mask", 1), ("masked_lm_labels", 5), ("image_label", 1)):
        inputs[name][list(longest)] = value
    inputs = {name: tensor[rows] for name, tensor in inputs.items()}
    return Batch(inputs, None, [str(number) for number in range(B)][rows])


def plant(learner, modes, inputs):
    """Sets all switchers to constants, whatever they see: logits (L, M) and, the first row unused, (L, C)."""
    encoder = switch_encoder(learner.model)
    layers = [*zip(encoder.attention_switch, modes, strict=True), *zip(encoder.input_switch, inputs[1:], strict=True)]
    with torch.no_grad():
        for switcher, logits in layers:
            switcher.options.weight.zero_()
            switcher.options.bias.copy_(torch.tensor(logits))
    return encoder


def watched(learner, *batches, backward=False):
    """What the log says of a step of these parts."""
    log = RouteLog(learner)
    with log.watching():
        for batch in batches:
            loss = torch.stack(list(learner(batch).values())).sum()
            if backward:
                loss.backward()
    assert not learner._forward_hooks and not any(module._forward_hooks for module in learner.modules())
    return log.read()


def counts_of(learner, batch):
    return BatchCounts.from_batch(learner.model.config, batch.inputs)


def one_hot(numbers, options):
    return torch.eye(options)[torch.tensor(numbers)]


def test_sure_switchers_give_their_options_with_noise_too():
    learner, modes, inputs = learner_of(), [0, 3, 1, 2], [0, 2, 1, 0]
    plant(learner, (SURE * one_hot(modes, M)).tolist(), (SURE * one_hot(inputs, C)).tolist())
    batch = batch_of(learner.model.config)
    found = watched(learner, batch, backward=True)
    routes, counts = found["routes"], counts_of(learner, batch)
    assert routes["modes"] == one_hot(modes, M).tolist() and routes["inputs"] == one_hot(inputs, C).tolist()
    assert routes["mode_entropy"] == routes["input_entropy"] == [0] * L
    assert routes["active_modes"] == routes["active_inputs"] == [1] * L
    taken = Activity(one_hot(modes, M).expand(B, L, M), one_hot(inputs, C).expand(B, L, C))
    expected = training_paths(learner.model.config, counts, taken) / B
    assert found["path_flops_per_pair"] == pytest.approx(expected, rel=1e-12)
    assert found["executed_flops_per_pair"] == training_step(learner.model.config, counts) / B and found["pairs"] == B


def test_probabilities_that_are_set_are_the_mean_weights():
    learner = learner_of("switch.finetune_temperature=1.0")
    modes, inputs = [[0.5, 0.25, 0.25 - 1e-3, 1e-3]] * L, [[0.995, 0.0025, 0.0025]] * L
    encoder = plant(learner, torch.tensor(modes).log().tolist(), torch.tensor(inputs).log().tolist())
    encoder.start_annealing(1.0)
    encoder.routing = "soft"  # without noise
    routes = watched(learner, batch_of(learner.model.config))["routes"]
    torch.testing.assert_close(torch.tensor(routes["modes"]), torch.tensor(modes), rtol=0, atol=2e-6)
    expected = torch.tensor([[1.0, 0.0, 0.0], *inputs[1:]])
    torch.testing.assert_close(torch.tensor(routes["inputs"]), expected, rtol=0, atol=2e-6)
    assert routes["mode_entropy"] == pytest.approx([0.5 + 0.5 + 0.249 * 2.00577 + 0.00997] * L, abs=1e-4)  # by hand
    assert routes["input_entropy"] == pytest.approx([0.0] + [0.0072 + 0.005 * 8.6439] * 3, abs=1e-4)
    assert routes["active_modes"] == [3] * L and routes["active_inputs"] == [1] * L


def test_samples_that_go_different_ways_are_averaged_one_by_one(monkeypatch):
    """A sample's entropy and its active paths are its own; those of the mean weights would be more."""
    learner = learner_of()
    encoder = switch_encoder(learner.model)
    of_modes = torch.cat((one_hot([0] * 6, M), torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.005, 0.995]])))  # (B, M)
    of_inputs = torch.cat((one_hot([1] * 4, C), torch.tensor([[0.25, 0.25, 0.5]] * 4)))  # (B, C)
    monkeypatch.setattr(encoder, "weigh", lambda said, *_: of_modes if said.shape[1] == M else of_inputs)
    batch = batch_of(learner.model.config)
    found = watched(learner, batch)
    routes = found["routes"]
    assert routes["modes"] == [pytest.approx([6.5 / 8, 0.5 / 8, 0.005 / 8, 0.995 / 8], abs=1e-6)] * L
    assert routes["inputs"][1:] == [[0.125, 0.625, 0.25]] * 3
    assert routes["active_modes"] == [9 / 8] * L and routes["active_inputs"] == [1.0, 2.0, 2.0, 2.0]
    assert routes["mode_entropy"] == pytest.approx([(1 + 0.045415) / 8] * L, abs=1e-5)  # 0.045415: of 0.005, 0.995
    assert routes["input_entropy"] == [0.0, 0.75, 0.75, 0.75]
    first = one_hot([0], C).expand(B, 1, C)
    taken = Routes(of_modes[:, None].expand(B, L, M), torch.cat((first, of_inputs[:, None].expand(B, L - 1, C)), 1))
    expected = training_paths(learner.model.config, counts_of(learner, batch), Activity.from_routes(taken)) / B
    assert found["path_flops_per_pair"] == pytest.approx(expected, rel=1e-12)


def test_a_high_temperature_activates_all_paths():
    learner = learner_of()
    switch_encoder(learner.model).start_annealing(1e4)
    batch = batch_of(learner.model.config)
    found, counts = watched(learner, batch), counts_of(learner, batch)
    assert found["routes"]["active_modes"] == [M] * L and found["routes"]["active_inputs"] == [1, C, C, C]
    assert found["routes"]["mode_entropy"] == pytest.approx([2.0] * L, abs=1e-4)
    closed_form = training_paths(learner.model.config, counts) / B  # K is 4
    assert found["path_flops_per_pair"] == pytest.approx(closed_form, rel=1e-12)
    assert closed_form > 1.3 * found["executed_flops_per_pair"]


@pytest.mark.parametrize("mode", range(M))
def test_one_active_mode_is_paid_for_once(mode):
    learner = learner_of("switch.top_k=1")
    plant(learner, (SURE * one_hot([mode] * L, M)).tolist(), (SURE * one_hot([0] * L, C)).tolist())
    batch = batch_of(learner.model.config)
    found, config = watched(learner, batch), learner.model.config
    lone = Activity(one_hot([mode], M).expand(B, L, M), one_hot([0], C).expand(B, L, C))
    assert found["path_flops_per_pair"] == pytest.approx(
        training_paths(config, counts_of(learner, batch), lone) / B, rel=1e-12
    )
    joint = mode == config.switch.modes.index("J")
    assert (found["path_flops_per_pair"] == pytest.approx(found["executed_flops_per_pair"], rel=1e-12)) == joint


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_k_modes_are_active_at_a_high_temperature(top_k):
    learner = learner_of(f"switch.top_k={top_k}")
    switch_encoder(learner.model).start_annealing(1e4)
    assert watched(learner, batch_of(learner.model.config))["routes"]["active_modes"] == [top_k] * L


def test_two_unequal_parts_of_a_step_are_logged_as_one():
    """Each has a sample that fills all slots: attention is paid by the slots of its own part."""
    learner = learner_of()
    encoder = switch_encoder(learner.model)
    with torch.no_grad():
        for switcher in (*encoder.attention_switch, *encoder.input_switch):
            torch.nn.init.normal_(switcher.options.weight, std=8)
    encoder.start_annealing(0.2)
    encoder.routing = "soft"  # a sample's route depends on itself alone
    config, full = learner.model.config, (0, 7)
    whole = watched(learner, batch_of(config, longest=full))
    divided = watched(learner, *(batch_of(config, rows, full) for rows in (slice(0, 5), slice(5, 8))), backward=True)
    assert whole.keys() == divided.keys() and divided["pairs"] == B
    assert 1 < whole["routes"]["active_modes"][-1] < M
    for name in whole["routes"]:
        left, right = (torch.tensor(found["routes"][name]) for found in (divided, whole))
        torch.testing.assert_close(left, right, rtol=0, atol=3e-6)
    for name in ("executed_flops_per_pair", "path_flops_per_pair"):
        assert divided[name] == pytest.approx(whole[name], rel=1e-12)


def test_a_stand_in_and_a_step_that_nobody_watches_count_nothing():
    learner = learner_of()
    batch = batch_of(learner.model.config)
    stand_in = Batch(batch_of(learner.model.config, slice(0, 1)).inputs, None, [])
    assert watched(learner, stand_in) == {}
    assert watched(learner, batch, stand_in)["pairs"] == B
    log = RouteLog(learner)
    with log.watching(due=False):
        learner(batch)
    assert log.read() == {}


def test_blocks_that_are_switched_off_have_one_path():
    learner = learner_of("switch.attention=false")
    switch_encoder(learner.model).start_annealing(1e4)
    found = watched(learner, batch_of(learner.model.config))["routes"]
    assert found["modes"] == [[0, 0, 0, 1]] * L and found["active_inputs"] == [1, C, C, C]


def test_a_static_architecture_has_executed_operations_alone():
    learner = learner_of(name="demo/ctrl_uniter")
    batch = batch_of(learner.model.config)
    expected = training_step(learner.model.config, counts_of(learner, batch)) / B
    assert watched(learner, batch) == {"pairs": B, "executed_flops_per_pair": expected}


def test_a_watched_step_reads_no_value_of_the_device():
    """The meta device has none, and refuses."""
    learner = learner_of().to("meta")
    batch = batch_of(learner.model.config).to("meta")
    log = RouteLog(learner)
    with log.watching():
        torch.stack(list(learner(batch).values())).sum().backward()
    with pytest.raises(NotImplementedError):
        log.read()


# Runs

PRETRAINING = ("--train_batch_size", 6, "--num_train_epochs", 2, "--learning_rate", 5e-3, "--save_every", 1)
DIVIDED = (*PRETRAINING, "--gradient_accumulation_steps", 2, "--gradient_checkpointing", "--precision", "bf16")


def mean_of(run, name):
    lines = log_of(run, "train")
    return sum(line["pairs"] * line[name] for line in lines) / sum(line["pairs"] for line in lines)


@pytest.mark.parametrize("flags", [PRETRAINING, DIVIDED], ids=["plain", "divided"])
def test_logging_every_step_changes_no_number_of_training(world, tmp_path, flags):
    runs = [
        world.run(
            "train_concap", tmp_path / str(every), "switchbert", *flags, "--log_every", every, hidden_dropout_prob=0.1
        )
        for every in (1, 3)
    ]
    often, seldom = (log_of(run, "train") for run in runs)
    assert [line["step"] for line in often] == [*range(1, 9)] and [line["step"] for line in seldom] == [3, 4, 6, 8]
    assert equal_weights(*(weights_of(run, "pytorch_model_1.bin") for run in runs))
    names = ("routes", "pairs", "path_flops_per_pair", "executed_flops_per_pair")
    assert [[line[name] for name in names] for line in often if line["step"] in (3, 4, 6, 8)] == [
        [line[name] for name in names] for line in seldom
    ]
    assert sorted(line["pairs"] for line in often) == [2] * 2 + [6] * 6
    for run in runs:
        metrics = json_of(run / "metrics.json")
        for name in names[2:]:
            assert metrics[name] == pytest.approx(mean_of(run, name), rel=1e-12)
    active = torch.tensor([line["routes"]["active_modes"] for line in often])
    assert active.shape == (8, 4) and active.min() > 1 and EPSILON == 0.01


def test_a_run_that_goes_on_from_an_epochs_last_step_logs_what_one_left_alone_logs(world, tmp_path, monkeypatch):
    """The checkpoint of an epoch's last step is written after its log line, which no step could give again."""
    flags = (*PRETRAINING, "--log_every", 3)
    whole = world.run("train_concap", tmp_path / "whole", "switchbert", *flags)

    def killed(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_finish_epoch", killed)
        world.run("train_concap", tmp_path / "killed", "switchbert", *flags)
    killed_run = world.run("train_concap", tmp_path / "killed", "switchbert", *flags, "--resume")
    assert [line["step"] for line in log_of(killed_run, "train")] == [3, 4, 6, 8]
    assert logged(killed_run) == logged(whole)
    assert json_of(killed_run / "metrics.json") == json_of(whole / "metrics.json")


def test_fine_tuning_logs_the_routes_of_every_pair_and_a_static_model_its_operations(world, tmp_path):
    flags = ("--batch_size", 8, "--num_epoch", 1, "--log_every", 1)
    switched = world.run("train_task", tmp_path / "switched", "switchbert", *flags, task="retrieval")
    line = log_of(switched, "train")[0]
    assert line["pairs"] == 4 * line["samples"] == 32  # four alternatives
    assert line["path_flops_per_pair"] > line["executed_flops_per_pair"] > 0 and len(line["routes"]["modes"]) == 4
    static = world.run("train_task", tmp_path / "static", "ctrl_uniter", *flags, task="refer")
    line = log_of(static, "train")[0]
    assert line["pairs"] == line["samples"] and "routes" not in line and "path_flops_per_pair" not in line
    metrics = json_of(static / "metrics.json")
    assert metrics["executed_flops_per_pair"] == pytest.approx(mean_of(static, "executed_flops_per_pair"), rel=1e-12)
    assert "path_flops_per_pair" not in metrics
