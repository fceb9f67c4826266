"""LXMERT and VisualBERT as transformers computes them: outputs, losses and answers of imported models are theirs."""

import json

import pytest
import torch

from golden_files import relative_error
from volta_switch import BertForVLPreTraining, BertForVLTasks, UserError
from volta_switch.weight_tools.importing import import_weights
from volta_switch.weights import load_volta

transformers = pytest.importorskip("transformers")

B, T, R, F, V = 3, 7, 5, 16, 41
TOLERANCE = 1e-6
SMALL = {"vocab_size": V, "hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 40}
SMALL |= {"max_position_embeddings": 20}
LXMERT = {**SMALL, "l_layers": 3, "r_layers": 2, "x_layers": 2, "visual_feat_dim": F, "num_qa_labels": 9}
LXMERT |= {"num_object_labels": 12, "num_attr_labels": 6}
VISUAL_BERT = {**SMALL, "num_hidden_layers": 3, "visual_embedding_dim": F}


def shaken(model):
    """The same model with weights in which nothing is zero, one, or equal to another by its start."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def saved(model, folder, form="safetensors"):
    """The folder, or the file alone, in which transformers keeps it."""
    if form == "safetensors":
        model.save_pretrained(folder)
        return folder
    torch.save(model.state_dict(), folder / "weights.bin")
    model.config.save_pretrained(folder)
    return folder / "weights.bin"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(5)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(5, V, (B, T), generator=generator)
    text, regions = torch.ones(B, T, dtype=torch.long), torch.ones(B, R, dtype=torch.long)
    text[1, 5:] = 0
    regions[2, 3:] = 0
    words[text == 0] = 0
    return {
        "input_ids": words,
        "image_feat": torch.randn(B, R, F, generator=generator),
        "image_loc": torch.rand(B, R, 4, generator=generator),
        "attention_mask": text,
        "image_attention_mask": regions,
        "token_type_ids": torch.randint(0, 2, (B, T), generator=generator),
    }


def of_lxmert(batch):
    names = {"image_feat": "visual_feats", "image_loc": "visual_pos", "image_attention_mask": "visual_attention_mask"}
    return {names.get(name, name): tensor for name, tensor in batch.items()}


def of_visual_bert(batch):
    names = {"image_feat": "visual_embeds", "image_attention_mask": "visual_attention_mask"}
    return {names.get(name, name): tensor for name, tensor in batch.items() if name != "image_loc"}


def same(ours, theirs, where=None):
    where = slice(None) if where is None else where
    assert relative_error(ours[where].detach(), theirs[where].detach()) < TOLERANCE


def pretraining_model(imported):
    model = BertForVLPreTraining(imported.config).eval()
    load_volta(model, imported.state)
    return model


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_lxmert_before_fine_tuning(form, batch, tmp_path):
    theirs = shaken(transformers.LxmertForPreTraining(transformers.LxmertConfig(**LXMERT)))
    imported = import_weights(saved(theirs, tmp_path, form))
    assert imported.layout.name == "lxmert" and imported.config.fusion_act == "tanh" and not imported.initial
    assert set(imported.left_out) == {f"answer_head.logit_fc.{n}.{end}" for n in "023" for end in ("weight", "bias")}
    ours = pretraining_model(imported)(**batch)
    out = theirs(**of_lxmert(batch))
    words, regions = batch["attention_mask"] == 1, batch["image_attention_mask"] == 1
    same(ours.prediction_scores_t, out.prediction_logits, words)
    same(ours.seq_relationship_score, out.cross_relationship_score.flip(1))  # theirs: 1 aligned
    states = theirs.lxmert(**of_lxmert(batch))
    same(ours.sequence_t, states.language_output, words)
    same(ours.sequence_v, states.vision_output, regions)
    same(ours.pooled_t, states.pooled_output)
    predicted = theirs.obj_predict_head(states.vision_output)
    for target, name in (("3", "obj"), ("4", "attr"), ("5", "feat")):
        same(ours.prediction_scores_v[target], predicted[name], regions)


def test_lxmerts_losses(batch, tmp_path):
    theirs = shaken(transformers.LxmertForPreTraining(transformers.LxmertConfig(**LXMERT, visual_loss_normalizer=2.5)))
    weights = 'visual_target_weights={"3": 2.5, "4": 2.5, "5": 2.5}'
    model = pretraining_model(import_weights(saved(theirs, tmp_path), overrides=[weights]))
    batch["image_attention_mask"] = torch.ones(B, R, dtype=torch.long)
    generator = torch.Generator().manual_seed(2)
    labels = torch.where(torch.rand(B, T, generator=generator) < 0.5, batch["input_ids"], -1)
    labels[batch["attention_mask"] == 0] = -1
    aligned = torch.tensor([0, 1, 1])  # ours: 0 aligned
    objects, attributes = (torch.randint(0, n, (B, R), generator=generator) for n in (12, 6))
    confidence = torch.rand(B, R, generator=generator)
    ours = model(
        **batch,
        masked_lm_labels=labels,
        next_sentence_label=aligned,
        image_label=torch.ones(B, R, dtype=torch.long),  # all are masked: theirs is a mean over all regions
        obj_labels=objects,
        obj_confs=confidence,
        attr_labels=attributes,
        attr_confs=confidence,
    )
    theirs_of = {
        "obj": (objects, confidence),
        "attr": (attributes, confidence),
        "feat": (batch["image_feat"], torch.ones(B, R)),
    }
    words = torch.where(labels == -1, -100, labels)
    for given, own in (
        ({"labels": words}, ours.loss_mlm),
        ({"matched_label": 1 - aligned}, ours.loss_itm),
        ({"obj_labels": theirs_of}, ours.loss_vision),
        ({"labels": words, "matched_label": 1 - aligned, "obj_labels": theirs_of}, ours.loss),
    ):
        torch.testing.assert_close(own, theirs(**of_lxmert(batch), **given).loss, atol=2e-6, rtol=1e-6)


def test_lxmerts_answers_in_the_order_of_the_data(batch, tmp_path):
    theirs = shaken(transformers.LxmertForQuestionAnswering(transformers.LxmertConfig(**LXMERT)))
    labels = [f"answer {n}" for n in range(9)]
    wanted = [labels[n] for n in (4, 0, 8, 2)]
    for order, rows in (([], list(range(9))), (wanted, [4, 0, 8, 2])):
        imported = import_weights(saved(theirs, tmp_path), task="TASK1", labels=labels, wanted=order)
        assert (
            imported.task == {"TASK1": {"type": "VL-classifier", "num_labels": len(rows)}}
            and not imported.left_out
            and not imported.initial
        )
        model = BertForVLTasks(imported.config, imported.task).eval()
        load_volta(model, imported.state)
        out = theirs(**of_lxmert(batch)).question_answering_score
        same(model("TASK1", **batch).scores, out[:, rows])


def test_lxmert_under_relu_would_be_wrong(batch, tmp_path):
    # The trap for which the layout has its own configuration: VOLTA's LXMERT has ReLU, and words would still agree.
    theirs = shaken(transformers.LxmertForPreTraining(transformers.LxmertConfig(**LXMERT)))
    imported = import_weights(saved(theirs, tmp_path), overrides=["fusion_act=relu"])
    ours, out = pretraining_model(imported)(**batch), theirs(**of_lxmert(batch))
    same(ours.prediction_scores_t, out.prediction_logits, batch["attention_mask"] == 1)
    assert (ours.seq_relationship_score - out.cross_relationship_score.flip(1)).abs().max() > 0.01


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_visual_bert_before_fine_tuning(form, batch, tmp_path):
    theirs = shaken(transformers.VisualBertForPreTraining(transformers.VisualBertConfig(**VISUAL_BERT)))
    imported = import_weights(saved(theirs, tmp_path, form))
    assert imported.layout.name == "visualbert" and not imported.left_out
    assert all(name.startswith("cls.imagePredictions.") for name in imported.initial) and imported.initial
    batch["image_loc"] = torch.rand(B, R, imported.config.num_locs)
    ours = pretraining_model(imported)(**batch)
    out = theirs(**of_visual_bert(batch))
    words = batch["attention_mask"] == 1
    same(ours.prediction_scores_t, out.prediction_logits[:, :T], words)
    same(ours.seq_relationship_score, out.seq_relationship_logits)
    states = theirs.visual_bert(**of_visual_bert(batch))
    same(ours.sequence_v, states.last_hidden_state[:, T:], batch["image_attention_mask"] == 1)
    same(ours.pooled_t, states.pooler_output)


def test_visual_berts_losses(batch, tmp_path):
    theirs = shaken(transformers.VisualBertForPreTraining(transformers.VisualBertConfig(**VISUAL_BERT)))
    imported = import_weights(saved(theirs, tmp_path))
    batch["image_loc"] = torch.rand(B, R, imported.config.num_locs)
    labels = torch.where(torch.arange(T) % 2 == 0, batch["input_ids"], -1)
    labels[batch["attention_mask"] == 0] = -1
    aligned = torch.tensor([0, 1, 1])
    ours = pretraining_model(imported)(**batch, masked_lm_labels=labels, next_sentence_label=aligned)
    words = torch.cat((torch.where(labels == -1, -100, labels), torch.full((B, R), -100)), 1)
    out = theirs(**of_visual_bert(batch), labels=words, sentence_image_labels=aligned)
    torch.testing.assert_close(ours.loss, out.loss, atol=TOLERANCE, rtol=1e-6)


def test_visual_berts_answers_in_the_order_of_the_data(batch, tmp_path):
    theirs = shaken(
        transformers.VisualBertForQuestionAnswering(transformers.VisualBertConfig(**VISUAL_BERT, num_labels=4))
    )
    labels = list("abcd")
    for order, rows in (([], [0, 1, 2, 3]), (["d", "a", "c"], [3, 0, 2])):
        imported = import_weights(saved(theirs, tmp_path), task="TASK1", labels=labels, wanted=order)
        assert imported.task == {"TASK1": {"type": "VL-classifier", "num_labels": len(rows)}}
        assert imported.labels == tuple(order or labels) and not imported.initial
        assert set(imported.left_out) == {"pooler.dense.weight", "pooler.dense.bias"}
        model = BertForVLTasks(imported.config, imported.task).eval()
        load_volta(model, imported.state)
        given = {**batch, "image_loc": torch.rand(B, R, imported.config.num_locs)}
        same(model("TASK1", **given).scores, theirs(**of_visual_bert(batch)).logits[:, rows])


def test_visual_berts_judgement_of_two_images_in_one_sequence(batch, tmp_path):
    theirs = shaken(
        transformers.VisualBertForVisualReasoning(transformers.VisualBertConfig(**VISUAL_BERT, num_labels=2))
    )
    given = {**batch, "image_loc": torch.rand(B, R, 5)}
    given["image_token_type_ids"] = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [0, 0, 1, 0, 0]])
    asked = of_visual_bert(batch) | {"visual_token_type_ids": given["image_token_type_ids"]}
    path = saved(theirs, tmp_path)
    for labels, rows in ((["false", "true"], [0, 1]), (["true", "false"], [1, 0])):
        imported = import_weights(path, task="TASK12", labels=labels)
        assert imported.task == {"TASK12": {"type": "VL-binary-classifier", "num_labels": 2}}
        assert imported.labels == ("false", "true") and not imported.initial and not imported.left_out
        model = BertForVLTasks(imported.config, imported.task).eval()
        load_volta(model, imported.state)
        scores = model("TASK12", **given).scores
        same(scores, theirs(**asked).logits[:, rows])
    one_type = theirs(**of_visual_bert(batch)).logits[:, rows].detach()
    assert relative_error(scores, one_type) > 1e-4  # the types are read
    with pytest.raises(UserError, match="its head has no answer false, true, which the task's data have"):
        import_weights(path, task="TASK12", labels=["a", "b"])
    with pytest.raises(UserError, match="whether a statement about two images is true; leave out --answers-of"):
        import_weights(path, task="TASK12", labels=["false", "true"], wanted=["yes", "no"])


@pytest.mark.parametrize(
    ("architectures", "told"),
    [
        (["VisualBertForMultipleChoice"], "scores answers that are part of the text"),
        (["Other"], "nothing says whose head cls.weight is"),
        (None, "nothing says whose head cls.weight is"),
    ],
)
def test_another_head_of_visual_bert_becomes_no_tasks(architectures, told, tmp_path):
    theirs = transformers.VisualBertForVisualReasoning(transformers.VisualBertConfig(**VISUAL_BERT, num_labels=2))
    path = saved(theirs, tmp_path, "bin")
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "architectures": architectures}))
    with pytest.raises(UserError, match=told):
        import_weights(path, task="TASK1", labels=["a", "b"])
    assert import_weights(path).left_out.keys() == {"cls.weight", "cls.bias"}


@pytest.mark.parametrize("kind", ["VisualBertForQuestionAnswering", "VisualBertForVisualReasoning"])
def test_visual_berts_task_heads_are_left_out_with_a_reason_and_the_encoder_is_kept(kind, batch, tmp_path):
    theirs = shaken(getattr(transformers, kind)(transformers.VisualBertConfig(**VISUAL_BERT, num_labels=4)))
    imported = import_weights(saved(theirs, tmp_path))
    assert set(imported.left_out) == {"cls.weight", "cls.bias"} and not imported.initial
    told = "--task TASK1 keeps them" if kind.endswith("Answering") else "--task TASK12 keeps them"
    assert all(told in why for why in imported.left_out.values())
    model = BertForVLTasks(imported.config, {"TASK1": {"type": "VL-classifier", "num_labels": 2}}).eval()
    load_volta(model, imported.state, fresh=("clfs_dict",))
    assert {name.split(".")[0] for name in imported.state} == {"bert"}
    batch["image_loc"] = torch.rand(B, R, imported.config.num_locs)
    states = theirs.visual_bert(**of_visual_bert(batch))
    same(model("TASK1", **batch).pooled_t, states.pooler_output)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hidden_act": "silu"}, "hidden_act"),
        ({"num_attention_heads": 5}, "heads"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps"),
        ({"hidden_dropout_prob": 7}, "hidden_dropout_prob"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_by_its_own_name(change, told, tmp_path):
    theirs = transformers.VisualBertForPreTraining(transformers.VisualBertConfig(**VISUAL_BERT))
    path = saved(theirs, tmp_path, "bin")
    beside = tmp_path / "config.json"
    beside.write_text(json.dumps({**json.loads(beside.read_text()), **change}))
    with pytest.raises(UserError) as caught:
        import_weights(path)
    assert str(caught.value).startswith(f"{path}: VisualBERT (Hugging Face's layout): ") and told in str(caught.value)


@pytest.mark.parametrize("lost", ["encoder.layer.1.", "encoder.layer.2.output.dense.weight", "pooler."])
def test_a_model_with_a_hole_is_refused(lost, tmp_path):
    theirs = transformers.VisualBertForPreTraining(transformers.VisualBertConfig(**VISUAL_BERT))
    path = saved(theirs, tmp_path, "bin")
    state = {name: tensor for name, tensor in theirs.state_dict().items() if f"visual_bert.{lost}" not in name}
    torch.save(state, path)
    with pytest.raises(UserError, match=r"missing|is there"):
        import_weights(path)


# --- The same models in their projects' own files --------------------------------------------------------------------


def renamed(state, *changes):
    def name_of(name):
        for before, after in changes:
            name = after + name.removeprefix(before) if name.startswith(before) else name
        return name

    return {name_of(name): tensor for name, tensor in state.items()}


def same_import(one, other):
    assert one.config == other.config and one.layout == other.layout and one.state.keys() == other.state.keys()
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


@pytest.mark.parametrize(
    ("kind", "changes", "task"),
    [
        ("LxmertForPreTraining", [("lxmert.", "bert.")], ""),
        ("LxmertForPreTraining", [("lxmert.", "module.bert."), ("", "module.")], ""),
        (
            "LxmertForQuestionAnswering",
            [("lxmert.", "lxrt_encoder.model.bert."), ("answer_head.logit_fc", "logit_fc")],
            "TASK1",
        ),
    ],
)
def test_lxmerts_own_files_are_read_alike(kind, changes, task, tmp_path):
    theirs = shaken(getattr(transformers, kind)(transformers.LxmertConfig(**LXMERT)))
    answers = {"task": task, "labels": list("abcdefghi")} if task else {}
    expected = import_weights(saved(theirs, tmp_path), **answers)
    state = renamed(theirs.state_dict(), *changes)
    if changes[0][1] == "module.bert.":
        state = {name.replace("module.module.", "module."): tensor for name, tensor in state.items()}
    torch.save(state, tmp_path / "own.pth")
    same_import(import_weights(tmp_path / "own.pth", **answers), expected)


def test_visual_berts_own_files_are_read_alike(tmp_path):
    theirs = shaken(transformers.VisualBertForPreTraining(transformers.VisualBertConfig(**VISUAL_BERT)))
    expected = import_weights(saved(theirs, tmp_path))
    own = {
        "visual_token_type_embeddings": "token_type_embeddings_visual",
        "visual_position_embeddings": "position_embeddings_visual",
        "visual_projection": "projection",
    }
    state = renamed(theirs.state_dict(), ("visual_bert.", "bert.bert."), ("cls.", "bert.cls."))
    for before, after in own.items():
        state = {name.replace(before, after): tensor for name, tensor in state.items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "own.th")
    same_import(import_weights(tmp_path / "own.th"), expected)


def test_voltas_conversion_of_lxmert_is_read_alike(tmp_path):
    layers = {"l_layers": 9, "r_layers": 5, "x_layers": 5}  # the conversion's only depth
    theirs = shaken(transformers.LxmertForPreTraining(transformers.LxmertConfig(**{**LXMERT, **layers})))
    expected = import_weights(saved(theirs, tmp_path), task="TASK1", labels=list("abcdefghi"))
    state = {name: tensor for name, tensor in expected.state.items() if not name.startswith("clfs_dict.")}
    for end in ("weight", "bias"):  # it keeps LXMERT's order of matching
        state[f"cls.bi_seq_relationship.{end}"] = state[f"cls.bi_seq_relationship.{end}"].flip(0)
    answers = {name: tensor for name, tensor in theirs.state_dict().items() if name.startswith("answer_head.")}
    state |= renamed(answers, ("answer_head", "cls.qaPredictions"))
    torch.save(state, tmp_path / "converted.bin")
    imported = import_weights(tmp_path / "converted.bin", task="TASK1", labels=list("abcdefghi"))
    assert imported.layout.name == "volta-lxmert" and imported.config == expected.config
    assert imported.state.keys() == expected.state.keys()
    assert all(torch.equal(imported.state[name], expected.state[name]) for name in expected.state)
