"""Padding never changes a real position, and samples do not see each other."""

import pytest
import torch

from golden_files import ARCHITECTURES, load_golden, relative_error
from model.small_models import encoder_of, switch_model
from volta_switch import BertForVLPreTraining, load_config
from volta_switch.weights import load_volta

TOLERANCE = 1e-5
# VL-BERT is left out: its words carry the last region slot's appearance, its positions count the slots (as in VOLTA).
WITHOUT_VL_BERT = tuple(name for name in ARCHITECTURES if name != "ctrl_vl-bert")
MODELS = (*WITHOUT_VL_BERT, "route_mixed", "switch hard", "switch soft")


def model_and_inputs(name):
    if name.startswith("switch"):
        golden, model = switch_model()
        encoder_of(model).routing = name.split()[1]
    else:
        golden = load_golden(name)
        model = BertForVLPreTraining(load_config(golden.config)).eval()
        load_volta(model, golden.part("state"))
    with torch.no_grad():  # rows of the reference models hardly see each other; make what leaks show
        for part, parameter in model.bert.encoder.named_parameters():
            if "attention_" in part and part.endswith("weight") and "switch" not in part and parameter.dim() == 2:
                parameter.mul_(3)
    return model, golden.inputs


def padded(batch, tokens, regions):
    """The batch with more padding, which holds words and features like any others."""
    generator = torch.Generator().manual_seed(1)
    B = len(batch["input_ids"])

    def longer(name, extra):
        return torch.cat((batch[name], extra.to(batch[name].dtype)), 1)

    F, locations = batch["image_feat"].shape[-1], batch["image_loc"].shape[-1]
    return {
        "input_ids": longer("input_ids", torch.randint(1, 97, (B, tokens), generator=generator)),
        "token_type_ids": longer("token_type_ids", torch.ones(B, tokens)),
        "attention_mask": longer("attention_mask", torch.zeros(B, tokens)),
        "image_feat": longer("image_feat", 5 * torch.randn(B, regions, F, generator=generator)),
        "image_loc": longer("image_loc", torch.rand(B, regions, locations, generator=generator)),
        "image_attention_mask": longer("image_attention_mask", torch.zeros(B, regions)),
    }


def assert_same_real_positions(found, expected, batch):
    text, vision = batch["attention_mask"] == 1, batch["image_attention_mask"] == 1
    T, R = text.shape[1], vision.shape[1]
    assert relative_error(found.sequence_t[:, :T][text], expected.sequence_t[text]) < TOLERANCE
    assert relative_error(found.sequence_v[:, :R][vision], expected.sequence_v[vision]) < TOLERANCE
    assert not expected.sequence_t[~text].any() and not expected.sequence_v[~vision].any()
    assert not found.sequence_t[:, :T][~text].any() and not found.sequence_t[:, T:].any()
    assert not found.sequence_v[:, :R][~vision].any() and not found.sequence_v[:, R:].any()
    for key in ("pooled_t", "pooled_v", "seq_relationship_score"):
        assert relative_error(getattr(found, key), getattr(expected, key)) < TOLERANCE, key
    if expected.routes is not None:
        assert relative_error(found.routes.modes, expected.routes.modes) < TOLERANCE
        assert relative_error(found.routes.inputs, expected.routes.inputs) < TOLERANCE


@pytest.mark.parametrize(("tokens", "regions"), [(1, 0), (0, 3), (4, 2)])
@pytest.mark.parametrize("name", MODELS)
def test_more_padding_never_changes_a_real_position(name, tokens, regions):
    model, batch = model_and_inputs(name)
    with torch.no_grad():
        assert_same_real_positions(model(**padded(batch, tokens, regions)), model(**batch), batch)


@pytest.mark.parametrize("name", MODELS)
def test_what_padding_holds_never_changes_a_real_position(name):
    model, batch = model_and_inputs(name)
    other = {key: tensor.clone() for key, tensor in batch.items()}
    other["input_ids"][batch["attention_mask"] == 0] = 96
    other["image_feat"][batch["image_attention_mask"] == 0] = 7.0
    other["image_loc"][batch["image_attention_mask"] == 0] = 0.5
    assert not torch.equal(other["input_ids"], batch["input_ids"])
    assert not torch.equal(other["image_feat"], batch["image_feat"])
    with torch.no_grad():
        assert_same_real_positions(model(**other), model(**batch), batch)


@pytest.mark.parametrize("name", MODELS)
def test_a_real_token_and_a_real_region_do_change_the_outputs(name):
    model, batch = model_and_inputs(name)
    with torch.no_grad():
        before = model(**batch)
        word = {**batch, "input_ids": batch["input_ids"].clone()}
        word["input_ids"][:, 1] = 96
        region = {**batch, "image_feat": batch["image_feat"].clone()}
        region["image_feat"][:, 1] += 3
        assert relative_error(model(**word).sequence_v, before.sequence_v) > 100 * TOLERANCE
        assert relative_error(model(**region).sequence_t, before.sequence_t) > 100 * TOLERANCE


@pytest.mark.parametrize("name", [*MODELS, "ctrl_vl-bert"])
def test_shuffling_the_batch_shuffles_the_outputs(name):
    model, batch = model_and_inputs(name)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        expected, found = model(**batch), model(**{key: tensor[order] for key, tensor in batch.items()})
    for key in ("sequence_t", "sequence_v", "pooled_t", "pooled_v", "prediction_scores_t", "seq_relationship_score"):
        assert relative_error(getattr(found, key), getattr(expected, key)[order]) < TOLERANCE, key
    if expected.routes is not None:
        assert relative_error(found.routes.modes, expected.routes.modes[order]) < TOLERANCE
