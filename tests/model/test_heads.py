"""Poolers, fusion methods and task heads; models do not write into their inputs."""

import pytest
import torch

from golden_files import load_golden, relative_error
from volta_switch import BertForVLPreTraining, BertForVLTasks, UserError, load_config
from volta_switch.model.embeddings import ModelInputs
from volta_switch.weights import load_volta

TOLERANCE = 1e-6


def tasks_model(tasks, name="ctrl_uniter", **fields):
    torch.manual_seed(0)
    return BertForVLTasks(load_config({**load_golden(name).config, **fields}), tasks).eval()


def whole_run(model, inputs):
    """The last states of all positions, (B, T, D) and (B, R, D), which a task does not compute, and what is pooled."""
    encoded, out, _ = model.bert(ModelInputs(**inputs))
    return (*encoded.padded(), out)


@pytest.mark.parametrize(
    ("task", "shape"),
    [
        ({"type": "VL-classifier", "num_labels": 13}, (4, 13)),
        ({"type": "VL-classifier-GQA", "num_labels": 5}, (4, 5)),
        ({"type": "VL-logit"}, (4, 1)),
        ({"type": "VL-tri-classifier"}, (4, 3)),
        ({"type": "VL-binary-classifier"}, (2, 2)),
        ({"type": "V-logit"}, (4, 8, 1)),
        ({"type": "V-logit", "num_clf_layers": 2}, (4, 8, 1)),
    ],
    ids=lambda value: value.get("type", "") if isinstance(value, dict) else "",
)
def test_task_scores_have_their_shapes(task, shape):
    model, inputs = tasks_model({"TASK1": task}), load_golden("ctrl_uniter").inputs
    shape = tuple(inputs["image_feat"].shape[1] if size == 8 else size for size in shape)
    scores = model("TASK1", **inputs).scores
    assert scores.shape == shape
    scores.sum().backward()
    assert all(parameter.grad.any() for parameter in model.clfs_dict.parameters())


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"type": "VL-classifier"}, "num_labels"),
        ({"type": "VL-klassifier"}, "one of VL-classifier"),
        ({}, "one of VL-classifier"),
    ],
)
def test_a_task_that_cannot_be_built_is_named(task, message):
    with pytest.raises(UserError, match=f"TASK7: .*{message}"):
        tasks_model({"TASK7": task})


def test_a_task_without_a_head_is_named():
    model = tasks_model({"TASK1": {"type": "VL-logit"}})
    with pytest.raises(UserError, match=r"TASK2: .*TASK1"):
        model("TASK2", **load_golden("ctrl_uniter").inputs)


def test_region_scores_are_lowered_at_padding_only():
    model, inputs = tasks_model({"TASK10": {"type": "V-logit"}}), load_golden("ctrl_uniter").inputs
    padding = inputs["image_attention_mask"] == 0
    assert padding.any()
    with torch.no_grad():
        out = model("TASK10", **inputs)
        plain = model.clfs_dict["TASK10"](whole_run(model, inputs)[1])
    assert out.sequence_t is None and out.sequence_v is None
    assert relative_error(out.scores[~padding], plain[~padding]) < TOLERANCE
    assert torch.equal(out.scores[padding], torch.full_like(out.scores[padding], -10000))


def test_boolean_masks_are_accepted():
    model, inputs = tasks_model({"TASK10": {"type": "V-logit"}}), load_golden("ctrl_uniter").inputs
    masks = {key: inputs[key].bool() for key in ("attention_mask", "image_attention_mask")}
    with torch.no_grad():
        assert torch.equal(model("TASK10", **{**inputs, **masks}).scores, model("TASK10", **inputs).scores)


def test_the_binary_classifier_pairs_neighbouring_rows():
    model, inputs = tasks_model({"TASK12": {"type": "VL-binary-classifier"}}), load_golden("ctrl_uniter").inputs
    with torch.no_grad():
        out = model("TASK12", **inputs)
        fused = out.pooled_t * out.pooled_v
        for row in range(2):
            expected = model.clfs_dict["TASK12"](torch.cat((fused[2 * row], fused[2 * row + 1])))
            assert relative_error(out.scores[row], expected) < TOLERANCE


@pytest.mark.parametrize("method", ["mul", "sum", "text", "vl-bert_vqa"])
def test_fusion_methods_combine_the_pooled_vectors(method):
    model = tasks_model({"TASK8": {"type": "VL-logit"}}, fusion_method=method)
    with torch.no_grad():
        out = model("TASK8", **load_golden("ctrl_uniter").inputs)
        combine = {"mul": lambda t, v: t * v, "sum": lambda t, v: t + v}.get(method, lambda t, v: t)
        expected = model.clfs_dict["TASK8"](combine(out.pooled_t, out.pooled_v))
    assert (out.pooled_v is None) == (method in ("text", "vl-bert_vqa"))
    assert relative_error(out.scores, expected) < TOLERANCE


def test_no_fusion_leaves_regions_to_score_but_nothing_to_classify():
    tasks = {"TASK8": {"type": "VL-logit"}, "TASK10": {"type": "V-logit"}}
    model, inputs = tasks_model(tasks, fusion_method="none"), load_golden("ctrl_uniter").inputs
    assert model("TASK10", **inputs).pooled_t is None
    with pytest.raises(UserError, match="TASK8: fusion_method none"):
        model("TASK8", **inputs)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_poolers_read_the_first_position(activation):
    model = tasks_model({"TASK8": {"type": "VL-logit"}}, fusion_act=activation)
    with torch.no_grad():
        pruned = model("TASK8", **load_golden("ctrl_uniter").inputs)
        act = torch.relu if activation == "relu" else torch.tanh
        sequence_t, sequence_v, out = whole_run(model, load_golden("ctrl_uniter").inputs)
        text, vision = model.bert.t_pooler.dense(sequence_t[:, 0]), model.bert.v_pooler.dense(sequence_v[:, 0])
    assert torch.equal(out.pooled_t, act(text)) and torch.equal(out.pooled_v, act(vision))
    assert relative_error(pruned.pooled_t, out.pooled_t) < TOLERANCE
    assert relative_error(pruned.pooled_v, out.pooled_v) < TOLERANCE
    assert (text < 0).any()


def test_vl_berts_vqa_pooler_reads_the_last_but_one_word():
    model = tasks_model({"TASK1": {"type": "VL-logit"}}, name="ctrl_vl-bert", fusion_method="vl-bert_vqa")
    inputs = load_golden("ctrl_vl-bert").inputs
    with torch.no_grad():
        out = model("TASK1", **inputs)
        sequence_t, _, _ = whole_run(model, inputs)
        rows = torch.stack([sequence_t[b, words - 2] for b, words in enumerate((9, 5, 3, 7))])
        assert torch.equal((inputs["input_ids"] != 0).sum(1), torch.tensor([9, 5, 3, 7]))
        assert relative_error(out.pooled_t, torch.relu(model.bert.t_pooler.dense(rows))) < TOLERANCE


@pytest.mark.parametrize("name", ["ctrl_vl-bert", "ctrl_uniter", "ctrl_vilbert"])
def test_models_do_not_write_into_their_inputs(name):
    golden = load_golden(name)
    model = BertForVLPreTraining(load_config(golden.config)).eval()
    load_volta(model, golden.part("state"))
    batch = golden.part("input")
    batch["image_feat"][:, 2] = 0  # VL-BERT's masked regions
    before = {key: tensor.clone() for key, tensor in batch.items()}
    model(**batch).loss.backward()
    assert all(torch.equal(batch[key], before[key]) for key in batch)


def test_vl_berts_masked_regions_read_the_learned_feature():
    golden = load_golden("ctrl_vl-bert")
    model = BertForVLPreTraining(load_config(golden.config)).eval()
    load_volta(model, golden.part("state"))
    inputs = golden.inputs
    inputs["image_feat"][:, 1] = 0
    explicit = {**inputs, "image_feat": inputs["image_feat"].clone()}
    explicit["image_feat"][:, 1] = model.bert.embeddings.object_mask_visual_embedding.weight[0].detach()
    with torch.no_grad():
        found, expected = model(**inputs), model(**explicit)
    assert relative_error(found.sequence_v, expected.sequence_v) < TOLERANCE
    assert model.bert.embeddings.object_mask_visual_embedding.weight.abs().max() > 1e-3
