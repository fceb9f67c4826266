"""Weights of runs: loading accounts for every name, shape and kind, and changes nothing where it refuses."""

import pytest
import torch

from golden_files import load_golden
from model.small_models import static_model, switch_config
from volta_switch import BertForVLPreTraining, BertForVLTasks, UserError, load_config
from volta_switch.weights import load_volta, shared_names, to_volta

NAME = "bert.encoder.layer.2.attention_self.query.weight"


@pytest.fixture
def uniter():
    """A reference model and its state."""
    golden = load_golden("ctrl_uniter")
    return BertForVLPreTraining(load_config(golden.config)), golden.part("state")


def unchanged(model, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def refused(model, state, **arguments):
    """The message with which a state is refused; the model must be as it was."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_volta(model, state, **arguments)
    assert unchanged(model, before) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_name_is_named(uniter):
    model, state = uniter
    del state[NAME]
    message = refused(model, state, source="my.bin")
    assert message.startswith("my.bin: ") and NAME in message and "missing" in message


def test_an_unexpected_name_is_named(uniter):
    model, state = uniter
    message = refused(model, {**state, "bert.extra.weight": torch.zeros(1)})
    assert "bert.extra.weight unexpected" in message


def test_a_misshapen_tensor_is_named_with_both_shapes(uniter):
    model, state = uniter
    state[NAME] = torch.zeros(24, 25)
    message = refused(model, state)
    assert NAME in message and "[24, 25]" in message and "[24, 24]" in message


def test_two_names_of_one_weight_must_agree(uniter):
    model, state = uniter
    twin = NAME.replace("query", "v_query")
    state[twin] = state[twin] + 1e-3
    message = refused(model, state)
    assert NAME in message and twin in message and "shared" in message


def test_a_checkpoint_of_another_architecture_is_refused(uniter):
    model, _ = uniter
    assert "missing" in refused(model, load_golden("ctrl_vilbert").part("state"))


def test_many_names_are_summed_up(uniter):
    model, _ = uniter
    assert f" and {len(model.state_dict()) - 3} more missing" in refused(model, {})


def test_names_that_may_be_fresh_keep_their_values(uniter):
    model, state = uniter
    pooler = {name: tensor for name, tensor in state.items() if "pooler" in name}
    before = model.state_dict()["bert.t_pooler.dense.weight"].clone()
    kept = load_volta(model, {name: t for name, t in state.items() if name not in pooler}, fresh=("pooler",))
    assert set(kept) == set(pooler)
    assert torch.equal(model.state_dict()["bert.t_pooler.dense.weight"], before)
    assert torch.equal(model.state_dict()[NAME], state[NAME])
    assert load_volta(model, state, fresh=("pooler",)) == []
    assert torch.equal(model.state_dict()["bert.t_pooler.dense.weight"], pooler["bert.t_pooler.dense.weight"])


def test_fresh_excuses_no_other_name_and_no_wrong_shape(uniter):
    model, state = uniter
    state["bert.t_pooler.dense.bias"] = torch.zeros(21)
    assert "bert.t_pooler.dense.bias" in refused(model, state, fresh=("pooler",))
    del state["bert.t_pooler.dense.bias"], state[NAME]
    assert NAME in refused(model, state, fresh=("pooler",))


def test_names_that_are_not_used_may_be_left_over(uniter):
    _, state = uniter
    golden = load_golden("ctrl_uniter")
    tasks = BertForVLTasks(load_config(golden.config), golden.tasks)
    assert "cls." in refused(tasks, {**state, **golden.part("task_state")})
    inside = {**state, **golden.part("task_state"), "bert.cls.weight": torch.zeros(1)}
    assert "bert.cls.weight unexpected" in refused(tasks, inside, unused=("cls.",))
    kept = load_volta(tasks, state, fresh=("clfs_dict",), unused=("cls.",))
    assert kept and all(name.startswith("clfs_dict.") for name in kept)
    assert torch.equal(tasks.state_dict()[NAME], state[NAME])


def test_data_parallels_prefix_is_dropped(uniter):
    model, state = uniter
    load_volta(model, {f"module.{name}": tensor for name, tensor in state.items()})
    assert torch.equal(model.state_dict()[NAME], state[NAME])


def test_switch_bert_starts_from_a_uniter_checkpoint():
    golden = load_golden("ctrl_uniter")
    torch.manual_seed(0)
    model = BertForVLPreTraining(switch_config("ctrl_uniter"))
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items() if "switch" in name}
    assert "switch" in refused(model, golden.part("state"))
    kept = load_volta(model, golden.part("state"), fresh=("switch",))
    assert set(kept) == set(fresh)
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in (golden.part("state") | fresh).items())


def test_voltas_state_repeats_shared_weights():
    model = static_model(["J"] * 3, "ctrl_uniter")
    groups = shared_names(model)
    assert ["bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"] in groups
    state = to_volta(model)
    assert all(torch.equal(state[names[0]], state[name]) for names in groups for name in names)
    assert not any(tensor.requires_grad for tensor in state.values())
