"""A tensor becomes a parameter only if it is one: dense, of floating-point numbers, finite; by every loader."""

import pytest
import torch

from golden_files import load_golden
from volta_switch import BertForVLPreTraining, UserError, load_config
from volta_switch.train.start import initial_weights
from volta_switch.weights import load_volta, read_weights
from weights.layouts import hugging_face_state

OF_A_RUN = "bert.encoder.layer.2.attention_self.key.bias"
OF_BERT = "bert.encoder.layer.1.attention.self.key.bias"


def start_from_run(tensor, path):
    state = {**load_golden("ctrl_uniter").part("state"), OF_A_RUN: tensor}
    # the names of one weight, which this model shares
    state |= {OF_A_RUN.replace("key", "v_key"): tensor}
    return start(state, path)


def start_from_bert(tensor, path):
    return start({**hugging_face_state(), OF_BERT: tensor}, path)


def evaluate(tensor, path):
    torch.save({**load_golden("ctrl_uniter").part("state"), OF_A_RUN: tensor}, path)
    model = BertForVLPreTraining(load_config(load_golden("ctrl_uniter").config))
    load_volta(model, read_weights(path), source=str(path))
    return model


def start(state, path):
    torch.save(state, path)
    config = load_config(load_golden("ctrl_uniter").config)
    torch.manual_seed(3)
    model = BertForVLPreTraining(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        initial_weights(model, config, str(path))
    except UserError:
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        raise
    return model


LOADERS = {start_from_run: OF_A_RUN, start_from_bert: OF_BERT, evaluate: OF_A_RUN}
WHOLE = torch.zeros(24)
OTHER_KINDS = {
    "int8": WHOLE.to(torch.int8), "uint8": WHOLE.to(torch.uint8), "int64": WHOLE.to(torch.int64),
    "bool": WHOLE.bool(), "complex64": WHOLE.to(torch.complex64), "float8_e4m3fn": WHOLE.to(torch.float8_e4m3fn),
    "without values (meta)": WHOLE.to("meta"), "sparse": WHOLE.to_sparse(),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHER_KINDS)
@pytest.mark.parametrize("load", LOADERS)
def test_a_tensor_of_another_kind_is_refused_by_name(load, kind, tmp_path):
    path = tmp_path / "odd.bin"
    with pytest.raises(UserError) as caught:
        load(OTHER_KINDS[kind], path)
    assert str(caught.value).startswith(f"{path}: {LOADERS[load]} is a ") and kind in str(caught.value)
    assert "expected a dense tensor of floating-point numbers" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("load", LOADERS)
def test_floating_point_numbers_of_other_widths_are_cast(load, dtype, tmp_path):
    values = torch.linspace(-1, 1, 24).to(dtype)
    model = load(values, tmp_path / "wide.bin") if load is not evaluate else start_from_run(values, tmp_path / "w.bin")
    assert torch.equal(model.state_dict()[OF_A_RUN], values.float())


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), 1e300])
@pytest.mark.parametrize("load", LOADERS)
def test_numbers_that_are_not_finite_are_refused_by_name(load, number, tmp_path):
    values = torch.zeros(24, dtype=torch.float64)
    values[17] = number
    path = tmp_path / "bad.bin"
    with pytest.raises(UserError) as caught:
        load(values, path)
    assert str(caught.value).startswith(f"{path}: {LOADERS[load]}") and "not finite" in str(caught.value)


def test_many_weights_that_are_not_finite_are_summed_up():
    state = {name: tensor * float("nan") for name, tensor in load_golden("ctrl_uniter").part("state").items()}
    model = BertForVLPreTraining(load_config(load_golden("ctrl_uniter").config))
    with pytest.raises(UserError, match=rf"^it\.bin: .* and {len(state) - 3} more hold numbers that are not finite"):
        load_volta(model, state, source="it.bin")


def test_a_huge_tensor_of_one_repeated_number_costs_nothing(tmp_path):
    with pytest.raises(UserError, match=r"has shape \[1000000000000\], the model expects \[24\]"):
        start_from_bert(torch.zeros(1).expand(10**12), tmp_path / "huge.bin")


def test_a_counter_stays_a_whole_number():
    golden = load_golden("ctrl_uniter")
    config = load_config({**golden.config, "switch": {}})
    state = dict(BertForVLPreTraining(config).state_dict())
    for samples, told in (
        (torch.tensor(3.5), "is a tensor of float32; expected a dense tensor of whole numbers"),
        (torch.tensor(True), "is a tensor of bool"),
    ):
        with pytest.raises(UserError, match=rf"bert\.encoder\.switch_samples {told}"):
            load_volta(BertForVLPreTraining(config), {**state, "bert.encoder.switch_samples": samples})
    model = BertForVLPreTraining(config)
    load_volta(model, {**state, "bert.encoder.switch_samples": torch.tensor(7, dtype=torch.int32)})
    assert model.state_dict()["bert.encoder.switch_samples"].dtype == torch.int64
