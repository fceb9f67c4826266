"""The plug-in's own contract, with a stand-in for VOLTA; what is put into VOLTA itself is in test_plugin_in_volta."""

import dataclasses
import sys
import textwrap

import pytest
import torch

from golden_files import relative_error
from model.small_models import embedded, switch_config, switch_model
from volta_switch import UserError
from volta_switch.model.rows import PackedLayout
from volta_switch.plugin import VoltaSwitchEncoder, encoder_config, register, unregister
from volta_switch.plugin import encoder as plugin_encoder

pytestmark = pytest.mark.usefixtures("no_volta")

STAND_IN = """
    from torch import nn

    class Pretrained(nn.Module):
        @classmethod
        def from_pretrained(cls, path, config=None, **kwargs):
            if path == "missing":
                return None
            model = cls(config, **kwargs)
            if hasattr(model.bert.encoder, "switch_samples"):
                model.bert.encoder.switch_samples.fill_(10**9)  # as another run's weights would
            return (model, {}) if path == "with info" else model

    class BertModel(Pretrained):
        def __init__(self, config):
            super().__init__()
            self.encoder = nn.Identity()

        def init_weights(self, module):
            if isinstance(module, nn.Linear):
                module.weight.data.normal_(std=0.02)
                module.bias.data.zero_()

    class BertForVLPreTraining(Pretrained):
        def __init__(self, config):
            super().__init__()
            self.bert = BertModel(config)

    class BertForVLTasks(Pretrained):
        def __init__(self, config, task_cfg, task_ids):
            super().__init__()
            self.bert = BertModel(config)
            self.apply(self.bert.init_weights)
"""


TASKS = {"task_cfg": {"TASK8": {"process": "retrieval"}}, "task_ids": ["TASK8"]}


class VoltaConfig:
    """VOLTA's BertConfig: every key of the JSON file becomes an attribute."""

    def __init__(self, values):
        self.__dict__.update(values)


@pytest.fixture
def checkout(tmp_path):
    """A folder that looks like a checkout."""
    return write_package(tmp_path / "checkout", encoders=STAND_IN)


def write_package(folder, **modules):
    (folder / "volta").mkdir(parents=True)
    (folder / "volta" / "__init__.py").write_text("")
    for name, source in modules.items():
        (folder / "volta" / f"{name}.py").write_text(textwrap.dedent(source))
    return folder


def volta_config(**changes):
    values = {**switch_config().to_dict(), "an_unknown_key": 1, "visualization": True}
    return VoltaConfig({**values, **changes})


# --- Registering --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["argument", "environment", "path"])
def test_register_puts_the_switched_encoder_into_switch_configurations_only(given, checkout, monkeypatch):
    if given == "environment":
        monkeypatch.setenv("VOLTA_HOME", str(checkout))
    elif given == "path":
        sys.path.insert(0, str(checkout))
    register(checkout if given == "argument" else None)
    from volta import encoders

    assert type(encoders.BertForVLPreTraining(volta_config()).bert.encoder) is VoltaSwitchEncoder
    assert type(encoders.BertForVLPreTraining(volta_config(switch=None)).bert.encoder) is torch.nn.Identity
    assert type(encoders.BertForVLPreTraining(VoltaConfig({})).bert.encoder) is torch.nn.Identity
    assert not list(checkout.rglob("*.pyc"))


def test_register_twice_is_register_once_and_unregister_takes_it_out(checkout):
    register(checkout)
    from volta import encoders

    once = encoders.BertModel.__init__
    register(checkout)
    assert encoders.BertModel.__init__ is once
    unregister()
    unregister()
    assert encoders.BertModel.__init__ is not once and "from_pretrained" not in vars(encoders.BertForVLTasks)
    assert type(encoders.BertModel(volta_config()).encoder) is torch.nn.Identity
    register(checkout)
    assert type(encoders.BertModel(volta_config()).encoder) is VoltaSwitchEncoder


def test_switchers_start_with_equal_options_however_often_volta_initialises(checkout):
    register(checkout)
    from volta import encoders

    for kind in (encoders.BertForVLPreTraining, encoders.BertForVLTasks):
        torch.manual_seed(0)
        tasks = TASKS if kind is encoders.BertForVLTasks else {}
        parameters = dict(kind(volta_config(), **tasks).named_parameters())
        for name, parameter in parameters.items():
            if ".options." in name:
                assert not parameter.any(), name
            elif name.endswith("hidden.weight"):
                assert 0.015 < parameter.std() < 0.025, name
        assert "bert.encoder.attention_switch.0.options.weight" in parameters


def test_other_functions_are_applied_without_resetting_the_switchers():
    encoder = VoltaSwitchEncoder(volta_config())
    with torch.no_grad():
        encoder.attention_switch[0].options.weight.fill_(1.0)
    assert encoder.apply(lambda module: None) is encoder
    assert (encoder.attention_switch[0].options.weight == 1).all()


@pytest.mark.parametrize("path", ["file", "with info"])
def test_fine_tuning_from_other_weights_starts_the_temperature_anew(path, checkout):
    register(checkout)
    from volta import encoders

    def encoder_of(kind):
        tasks = TASKS if kind is encoders.BertForVLTasks else {}
        loaded = kind.from_pretrained(path, config=volta_config(), **tasks)
        return (loaded[0] if path == "with info" else loaded).bert.encoder

    tasks = encoder_of(encoders.BertForVLTasks)
    assert float(tasks.temperature) == 1.0 and int(tasks.switch_samples) == 0
    assert int(encoder_of(encoders.BertForVLPreTraining).switch_samples) == 10**9
    assert encoders.BertForVLTasks.from_pretrained("missing") is None
    plain = encoders.BertForVLTasks.from_pretrained("file", config=VoltaConfig({}), **TASKS)
    assert type(plain.bert.encoder) is torch.nn.Identity


# --- What cannot be registered ------------------------------------------------------------------------------------


def refused(home=None):
    with pytest.raises(UserError) as caught:
        register(home)
    assert not plugin_encoder._patches and "\n" not in str(caught.value)
    return str(caught.value)


def test_without_volta_the_message_says_what_to_set():
    message = refused()
    assert "VOLTA_HOME" in message and "github.com/e-bug/volta" in message


@pytest.mark.parametrize("given", ["argument", "environment"])
def test_a_home_that_is_no_checkout_is_named(given, tmp_path, monkeypatch):
    if given == "environment":
        monkeypatch.setenv("VOLTA_HOME", str(tmp_path))
    assert str(tmp_path) in refused(tmp_path if given == "argument" else None)


def test_another_package_named_volta_is_refused(tmp_path):
    sys.path.insert(0, str(write_package(tmp_path / "site-packages", voltage="x = 1")))
    message = refused()
    assert "another package named volta" in message and "site-packages" in message
    assert "volta" not in sys.modules  # and was not run


def test_volta_home_goes_before_another_package_named_volta(tmp_path, checkout, monkeypatch):
    sys.path.insert(0, str(write_package(tmp_path / "site-packages", voltage="x = 1")))
    monkeypatch.setenv("VOLTA_HOME", str(checkout))
    register()
    assert type(sys.modules["volta.encoders"].BertModel(volta_config()).encoder) is VoltaSwitchEncoder


def test_a_volta_that_was_imported_from_elsewhere_is_refused(tmp_path, checkout):
    sys.path.insert(0, str(write_package(tmp_path / "other", encoders=STAND_IN)))
    import volta  # noqa: F401

    assert "another package" in refused(checkout)


def test_what_voltas_imports_lack_is_told(tmp_path):
    home = write_package(tmp_path, encoders="import surely_not_installed")
    assert "No module named 'surely_not_installed'" in refused(home)


def test_encoders_without_voltas_models_are_refused(tmp_path):
    assert "no BertModel" in refused(write_package(tmp_path, encoders="x = 1"))


# --- The encoder --------------------------------------------------------------------------------------------------


def encoder_and_inputs():
    """The plug-in's encoder with the weights of a switched model, that model, and what enters both."""
    golden, model = switch_model()
    encoder = VoltaSwitchEncoder(VoltaConfig(model.config.to_dict())).eval()
    encoder.load_state_dict(model.bert.encoder.state_dict())
    states, layout = embedded(model, golden.inputs)
    masks = [(1.0 - golden.inputs[f"{kind}attention_mask"][:, None, None].float()) * -10000 for kind in ("", "image_")]
    every = (layout.text.unpack(states[0]).detach(), layout.vision.unpack(states[1]).detach())
    for tensor, mask in zip(every, masks, strict=True):  # VOLTA embeds padding, too
        tensor[mask[:, 0, 0] < 0] = 7.0
    return encoder, model, (*every, *masks)


@pytest.mark.parametrize("training", [False, True])
def test_the_encoder_speaks_voltas_contract(training):
    encoder, model, inputs = encoder_and_inputs()
    encoder.train(training), model.train(training)
    real = [mask[:, 0, 0] == 0 for mask in inputs[2:]]  # (B, T) and (B, R)
    assert not real[0].all() and not real[1].all()
    layout = PackedLayout.of(real)
    states = layout.text.pack(inputs[0]), layout.vision.pack(inputs[1])
    torch.manual_seed(0)
    expected = model.bert.encoder(states, layout, keep_all=True)
    torch.manual_seed(0)
    text, vision, (text_masks, vision_masks) = encoder(
        *inputs, output_all_encoded_layers=True, output_all_attention_masks=True
    )
    assert len(text) == len(vision) == len(text_masks) == len(vision_masks) == 1 + 8  # the embeddings, 8 sublayers
    all_text, all_vision = zip(*(layout.split(each) for each in expected.history), strict=True)
    for found, wanted, mask in ((text, all_text, real[0]), (vision, all_vision, real[1])):
        for mine, theirs in zip(found, wanted, strict=True):
            assert relative_error(mine[mask], theirs.detach()) < 1e-6
        assert not any(mine[~mask].any() for mine in found[1:])  # zero at padding
    assert torch.equal(text[0], inputs[0]) and torch.equal(vision[0], inputs[1])
    assert torch.equal(vision[-1], expected.padded()[1])
    assert torch.equal(encoder.routes.modes, expected.routes.modes) and not encoder.routes.modes.requires_grad
    torch.manual_seed(0)
    encoder.switch_samples.zero_()
    short_text, short_vision, masks = encoder(*inputs, output_all_encoded_layers=False)
    assert torch.equal(short_text[-1], text[-1]) and torch.equal(short_vision[-1], vision[-1])
    assert len(short_text) == len(short_vision) == 2 and masks == ([None], [None])


def test_training_passes_count_their_samples_and_evaluation_does_not():
    encoder, _, inputs = encoder_and_inputs()
    encoder(*inputs)
    assert int(encoder.switch_samples) == 0
    encoder.train()
    encoder(*inputs)
    encoder(*(tensor[:3] for tensor in inputs))
    assert int(encoder.switch_samples) == 4 + 3
    assert int(encoder.state_dict()["switch_samples"]) == 7


@pytest.mark.parametrize("field", ["anneal_share", "finetune_anneal_share"])
def test_a_share_of_a_run_whose_length_nobody_knows_is_refused_in_training(field):
    encoder, _, inputs = encoder_and_inputs()
    encoder.switch = dataclasses.replace(encoder.switch, **{field: 0.5})
    encoder.eval()(*inputs)
    with pytest.raises(UserError, match=rf"switch\.{field} is 0\.5, .*switch\.anneal_rate"):
        encoder.train()(*inputs)


def test_every_ranks_samples_are_counted(monkeypatch):
    encoder, _, inputs = encoder_and_inputs()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 8)
    encoder.train()(*inputs)
    assert int(encoder.switch_samples) == 32


class OnTwoDevices(torch.nn.DataParallel):
    """DataParallel's own forward pass, with two replicas on a machine without GPUs."""

    def __init__(self, module):
        super().__init__(module)
        self.device_ids, self.src_device_obj, self.output_device = [0, 1], torch.device("cpu"), 0

    def scatter(self, inputs, kwargs, device_ids):
        parts = zip(*(tensor.split((3, 1)) for tensor in inputs), strict=True)
        return tuple(parts), ({}, {})

    def replicate(self, module, device_ids):
        return [self._replica_of(module) for _ in device_ids]

    def _replica_of(self, module):
        replica = module._replicate_for_data_parallel()
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            setattr(replica, name, tensor.detach().clone() if tensor is not None else None)
        for name, child in module._modules.items():
            replica._modules[name] = self._replica_of(child)
        return replica

    def parallel_apply(self, replicas, inputs, kwargs):
        return [replica(*given) for replica, given in zip(replicas, inputs, strict=True)]

    def gather(self, outputs, output_device):
        return torch.cat([vision[-1] for _, vision, _ in outputs])


def test_the_samples_of_all_replicas_are_counted(checkout):
    register(checkout)
    encoder, _, inputs = encoder_and_inputs()
    parallel = OnTwoDevices(encoder.train())
    assert len(parallel(*inputs)) == 4 and int(encoder.switch_samples) == 4
    parallel(*inputs)
    assert int(encoder.switch_samples) == 8
    parallel.eval()(*inputs)
    assert int(encoder.switch_samples) == 8


@pytest.mark.parametrize(("process", "rows"), [("retrieval", 4), ("nlvr", 2), ("normal", 1), (None, 1)])
def test_rows_that_volta_makes_of_one_sample_count_once(process, rows, checkout):
    register(checkout)
    from volta import encoders

    model = encoders.BertForVLTasks(volta_config(), {"TASK1": {"process": process} if process else {}}, ["TASK1"])
    _, _, inputs = encoder_and_inputs()
    model.bert.encoder.train()(*inputs)
    assert int(model.bert.encoder.switch_samples) == 4 // rows


def test_the_encoders_configuration_is_voltas():
    config = encoder_config(volta_config(hidden_dropout_prob=0.25, switch={"top_k": 2}))
    assert config.hidden_dropout_prob == 0.25 and config.hidden_size == 24 and config.switch.top_k == 2


def test_a_wrong_switch_section_is_named(checkout):
    register(checkout)
    from volta import encoders

    with pytest.raises(UserError, match=r"switch\.topk; did you mean switch\.top_k"):
        encoders.BertForVLPreTraining(volta_config(switch={"topk": 2}))
    with pytest.raises(UserError, match="single stream"):
        encoders.BertForVLPreTraining(volta_config(tv_attn_sublayers=[]))
