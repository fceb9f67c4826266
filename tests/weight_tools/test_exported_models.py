"""Exports: what comes back is the same model, bit for bit; other programs compute with it what models here compute."""

import json

import pytest
import torch

from golden_files import relative_error
from volta_switch import BertForVLPreTraining, BertForVLTasks, UserError, load_config
from volta_switch.checksums import record_json
from volta_switch.cli import main
from volta_switch.config.model_folder import task_bytes
from volta_switch.weight_tools.exporting import FORMATS, export_weights, write_export
from volta_switch.weight_tools.imported_folders import write_model
from volta_switch.weight_tools.importing import import_weights
from volta_switch.weights import load_volta, read_weights, write_weights
from weight_tools.test_layouts_of_peers import golden, part, written
from weight_tools.test_layouts_of_transformers import (
    LXMERT,
    VISUAL_BERT,
    batch,  # noqa: F401 (a fixture)
    of_lxmert,
    of_visual_bert,
    same,
    saved,
    shaken,
)

transformers = pytest.importorskip("transformers")

SIZES = {"vocab_size": 41, "hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 40, "v_feature_size": 16}
SIZES |= {"v_hidden_size": 24, "v_num_attention_heads": 4, "v_intermediate_size": 40, "max_position_embeddings": 20}
SIZES |= {"pooler_size": 24, "v_pooler_size": 24, "v_num_classes": 12, "v_num_attributes": 6, "clf_hidden_size": 48}
WIDE = {"sublayer2attn_hidden_size": {}, "sublayer2num_attention_heads": {}}
TANH = ["fusion_method=text", "fusion_act=tanh", "add_global_imgfeat=null"]
FITTING = {  # configurations of models that each format has a place for
    "lxmert": ("lxmert", TANH),
    "visualbert": ("ctrl_visualbert_base", TANH),
    "uniter": ("ctrl_uniter_base", [*TANH, "num_locs=7"]),
    "vilbert": ("vilbert_base", [f"{key}={json.dumps(value)}" for key, value in WIDE.items()]),
}
VQA = {"TASK1": {"name": "VQA", "type": "VL-classifier", "num_labels": 3}}
PAIRS = {"TASK12": {"name": "NLVR2", "type": "VL-binary-classifier", "num_labels": 2}}


def configuration(layout, *more):
    name, overrides = FITTING.get(layout, ("switchbert", []))
    sizes = [f"{key}={value}" for key, value in SIZES.items()]
    return load_config(name, [*sizes, *overrides, *more])


def folder_of(path, config, tasks=None, labels=("a", "b", "c")):
    """A model's folder with random weights, as a run leaves it."""
    torch.manual_seed(3)
    model = BertForVLTasks(config, tasks) if tasks else BertForVLPreTraining(config)
    path.mkdir()
    record_json(path / "config.json", config.to_dict())
    write_weights(path / "pytorch_model_best.bin", shaken(model).state_dict())
    (path / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    if tasks:
        (path / "task.yml").write_bytes(task_bytes(tasks))
        record_json(path / "labels.json", {task: list(labels) for task in tasks})
    return model


def exported(source, to, layout):
    write_export(export_weights(source, layout), to)
    return to


def same_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def loaded(kind, folder, missing=()):
    """transformers' own class, which found every name it knows, and knows every name."""
    model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert set(info["missing_keys"]) == set(missing) and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval()


# --- Round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", FITTING)
def test_a_model_comes_back_bit_for_bit(layout, tmp_path):
    folder_of(tmp_path / "own", configuration(layout))
    back = import_weights(exported(tmp_path / "own", tmp_path / "to", layout))
    assert back.layout.name == layout
    state = read_weights(tmp_path / "own" / "pytorch_model_best.bin")
    same_weights(*({name: each[name] for name in each if name not in back.initial} for each in (state, back.state)))
    found, own = back.config.to_dict(), configuration(layout).to_dict()
    ignored = ("bert_layer2", "clf_hidden_size", "v_pooler_size", "v_num", "num_locs", "sublayer2")
    assert {key: found[key] for key in own if not key.startswith(ignored)} == {
        key: value for key, value in own.items() if not key.startswith(ignored)
    }
    assert {path.name for path in (tmp_path / "to").iterdir()} >= {"config.json", "vocab.txt"}


@pytest.mark.parametrize("layout", ["lxmert", "uniter"])
def test_a_head_of_answers_comes_back_bit_for_bit(layout, tmp_path):
    folder_of(tmp_path / "own", configuration(layout), VQA)
    to = exported(tmp_path / "own", tmp_path / "to", layout)
    labels = json.loads((to / "labels.json").read_text())["TASK1"]
    back = import_weights(to, task="TASK1", labels=labels)
    same_weights(read_weights(tmp_path / "own" / "pytorch_model_best.bin"), back.state)
    assert back.config.clf_hidden_size == 48 and labels == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["uniter", "vilbert"])
def test_other_programs_own_files_come_back_as_they_were(name, tmp_path):
    tensors, settings = golden(name)
    state = part(tensors, "state")
    imported = import_weights(written(state, settings, tmp_path))
    write_model(imported, tmp_path / "own")
    to = exported(tmp_path / "own", tmp_path / "to", name)
    found = read_weights(to / "pytorch_model.bin")
    left_out = {name for name in state if name.removeprefix("uniter.").removeprefix("bert.") in imported.left_out}
    tied = {"cls.predictions.decoder.bias"}
    same_weights(found, {name: tensor for name, tensor in state.items() if name not in left_out | tied})
    told = json.loads((to / "config.json").read_text())
    assert {key: told[key] for key in settings} == settings
    assert import_weights(to).config == imported.config


def test_voltas_files_are_a_models_folder_with_what_volta_reads(tmp_path):
    config = configuration("switchbert", "v_num_classes=1601", "v_num_attributes=401", "image_bias_range=0.1")
    folder_of(tmp_path / "own", config)
    told = export_weights(tmp_path / "own", "volta")
    assert told.not_told == ("switch: VOLTA builds it with volta_switch.plugin alone",)
    to = exported(tmp_path / "own", tmp_path / "to", "volta")
    same_weights(read_weights(to / "pytorch_model_best.bin"), read_weights(tmp_path / "own" / "pytorch_model_best.bin"))
    values = json.loads((to / "config.json").read_text())
    assert not values.keys() & {"v_num_classes", "v_num_attributes", "image_bias_range", "route"}
    assert values["bert_model"] == config.bert_model
    assert load_config(values, ["image_bias_range=0.1"]) == config


# --- transformers' classes --------------------------------------------------------------------------------------------


def test_transformers_pre_trained_lxmert(batch, tmp_path):  # noqa: F811
    model = folder_of(tmp_path / "own", configuration("lxmert"))
    theirs = loaded("LxmertForPreTraining", exported(tmp_path / "own", tmp_path / "to", "lxmert"))
    out, ours = theirs(**of_lxmert(batch)), model(**batch)
    same(ours.prediction_scores_t, out.prediction_logits, batch["attention_mask"] == 1)
    same(ours.seq_relationship_score, out.cross_relationship_score.flip(1))
    seen = theirs.obj_predict_head(theirs.lxmert(**of_lxmert(batch)).vision_output)
    regions = batch["image_attention_mask"] == 1
    for target, name in (("3", "obj"), ("4", "attr"), ("5", "feat")):
        same(ours.prediction_scores_v[target], seen[name], regions)


def test_transformers_answers_by_lxmert(batch, tmp_path):  # noqa: F811
    model = folder_of(tmp_path / "own", configuration("lxmert"), VQA)
    theirs = loaded("LxmertForQuestionAnswering", exported(tmp_path / "own", tmp_path / "to", "lxmert"))
    same(model("TASK1", **batch).scores, theirs(**of_lxmert(batch)).question_answering_score)


def test_transformers_lxmert_with_heads_and_answers_comes_back_as_it_was(batch, tmp_path):  # noqa: F811
    before = shaken(transformers.LxmertForPreTraining(transformers.LxmertConfig(**LXMERT)))
    labels = list("abcdefghi")
    write_model(import_weights(saved(before, tmp_path), task="TASK1", labels=labels), tmp_path / "own")
    after = loaded("LxmertForPreTraining", exported(tmp_path / "own", tmp_path / "to", "lxmert"))
    same_weights(before.state_dict(), after.state_dict())
    own = {**before.config.to_dict(), "architectures": ["LxmertForPreTraining"]}
    found = after.config.to_dict()
    assert {key: found[key] for key in own if key not in ("dtype", "_name_or_path")} == {
        key: value for key, value in own.items() if key not in ("dtype", "_name_or_path")
    }


def test_transformers_pre_trained_visual_bert(batch, tmp_path):  # noqa: F811
    model = folder_of(tmp_path / "own", configuration("visualbert"))
    told = export_weights(tmp_path / "own", "visualbert")
    assert told.left_out and all(name.startswith("cls.imagePredictions.") for name in told.left_out)
    theirs = loaded("VisualBertForPreTraining", exported(tmp_path / "own", tmp_path / "to", "visualbert"))
    out = theirs(**of_visual_bert(batch))
    ours = model(**{**batch, "image_loc": torch.rand(*batch["image_loc"].shape[:2], 5)})
    same(
        ours.prediction_scores_t, out.prediction_logits[:, : batch["input_ids"].shape[1]], batch["attention_mask"] == 1
    )
    same(ours.seq_relationship_score, out.seq_relationship_logits)


def test_transformers_answers_by_visual_bert(batch, tmp_path):  # noqa: F811
    config = configuration("visualbert", "fusion_method=visualbert_vqa", "clf_hidden_size=null")
    model = folder_of(tmp_path / "own", config, VQA)
    to = exported(tmp_path / "own", tmp_path / "to", "visualbert")
    pooler = [
        f"visual_bert.pooler.dense.{end}" for end in ("weight", "bias")
    ]  # which its question answering never reads
    theirs = loaded("VisualBertForQuestionAnswering", to, missing=pooler)
    assert theirs.config.id2label == {0: "a", 1: "b", 2: "c"}
    given = {**batch, "image_loc": torch.rand(*batch["image_loc"].shape[:2], 5)}
    same(model("TASK1", **given).scores, theirs(**of_visual_bert(batch)).logits)
    back = import_weights(to, task="TASK1", labels=list("abc"))
    same_weights(read_weights(tmp_path / "own" / "pytorch_model_best.bin"), back.state)


def test_transformers_judges_two_images_by_visual_bert(batch, tmp_path):  # noqa: F811
    config = configuration("visualbert", "fusion_method=visualbert_nlvr2", "clf_hidden_size=null")
    model = folder_of(tmp_path / "own", config, PAIRS, ["false", "true"])
    to = exported(tmp_path / "own", tmp_path / "to", "visualbert")
    theirs = loaded("VisualBertForVisualReasoning", to)
    assert theirs.config.id2label == {0: "false", 1: "true"}
    types = (torch.arange(batch["image_feat"].shape[1]) > 1).long().expand(batch["image_feat"].shape[:2])
    given = {**batch, "image_loc": torch.rand(*batch["image_loc"].shape[:2], 5), "image_token_type_ids": types}
    same(model("TASK12", **given).scores, theirs(**of_visual_bert(batch), visual_token_type_ids=types).logits)
    back = import_weights(to, task="TASK12", labels=["false", "true"])
    same_weights(read_weights(tmp_path / "own" / "pytorch_model_best.bin"), back.state)


@pytest.mark.parametrize("layout", ["uniter", "lxmert", "switchbert"])
def test_the_text_side_as_a_bert(layout, batch, tmp_path):  # noqa: F811
    model = folder_of(tmp_path / "own", configuration(layout))
    told = export_weights(tmp_path / "own", "bert")
    assert any("image" in name or "v_embeddings" in name for name in told.left_out)
    theirs = loaded("BertForMaskedLM", exported(tmp_path / "own", tmp_path / "to", "bert"))
    if layout != "lxmert" and model.config.switch is None:  # where no region is real, text attends to text alone
        alone = torch.zeros_like(batch["image_attention_mask"])
        given = {**batch, "image_loc": torch.rand(*batch["image_loc"].shape[:2], model.config.num_locs)}
        ours = model(**given | {"image_attention_mask": alone})
        names = ("input_ids", "attention_mask", "token_type_ids")
        same(ours.prediction_scores_t, theirs(**{n: batch[n] for n in names}).logits, batch["attention_mask"] == 1)
    start = BertForVLPreTraining(model.config)
    from volta_switch.weights.bert import load_bert

    taken = load_bert(start, model.config, read_weights(tmp_path / "to" / "model.safetensors"))
    assert not taken.left_out and not taken.fresh
    own, found = model.state_dict(), start.state_dict()
    assert taken.names and all(torch.equal(own[name], found[name]) for name in taken.names)


# --- Refusals ---------------------------------------------------------------------------------------------------------

REFUSED = [
    ("switchbert", "uniter", [], None, "switch: a Switch-BERT, whose switchers have no place"),
    ("uniter", "lxmert", [], None, "image_embeddings is 'uniter', and 'lxmert' in this layout"),
    ("lxmert", "lxmert", ["fusion_act=relu"], None, "fusion_act is 'relu', there 'tanh'"),
    ("lxmert", "lxmert", ["fusion_method=mul"], None, "fusion_method is 'mul', there 'text'"),
    ("lxmert", "lxmert", ["add_global_imgfeat=first"], None, "add_global_imgfeat is 'first', there None"),
    ("lxmert", "lxmert", ["v_hidden_act=relu"], None, "v_hidden_act is 'relu', there 'gelu'"),
    ("lxmert", "lxmert", ["layer_norm_eps=1e-5"], None, "layer_norm_eps is 1e-05, there 1e-12"),
    ("lxmert", "lxmert", ["pooler_size=8"], None, "pooler_size is 8, there 24"),
    ("lxmert", "lxmert", ['visual_target_weights={"0": 1.0}'], None, "decoder_dict.0.weight, cls.imagePredictions"),
    ("lxmert", "lxmert", ['visual_target_weights={"3": 1.0, "5": 2.0}'], None, "all equal in this layout"),
    ("lxmert", "lxmert", ["image_head_ln=false"], None, "image_head_ln is False, there True"),
    ("lxmert", "lxmert", ["do_lower_case=false"], None, "do_lower_case is False, there True"),
    ("lxmert", "lxmert", ["clf_hidden_size=30"], VQA, "clf_hidden_size is 30, and always 48 in this layout"),
    ("lxmert", "lxmert", [], {"TASK10": {"type": "V-logit"}}, "clfs_dict.TASK10.weight, clfs_dict.TASK10.bias has no"),
    ("lxmert", "lxmert", ["shared_sublayers=[]"], None, "shared_sublayers are []"),
    ("uniter", "uniter", ["num_locs=5"], None, "num_locs is 5, and always 7 in this layout"),
    ("uniter", "uniter", ["hidden_act=relu"], None, "hidden_act is 'relu', and always 'gelu' in this layout"),
    ("uniter", "uniter", ["fusion_method=none"], None, "fusion_method is 'none', there 'text'"),
    ("vilbert", "vilbert", ["num_locs=4"], None, "num_locs is 4, and always 5 in this layout"),
    ("vilbert", "vilbert", ["fusion_method=text"], None, "fusion_method is 'text', and 'mul' or 'sum' in this layout"),
    ("vilbert", "vilbert", ["fusion_act=tanh"], None, "fusion_act is 'tanh', there 'relu'"),
    ("vilbert", "vilbert", [], VQA, "clfs_dict.TASK1.logit_fc.0.weight, "),
    ("visualbert", "visualbert", [], VQA, "clfs_dict.TASK1.logit_fc.0.weight, "),
    ("visualbert", "volta", ["fusion_method=visualbert_vqa", "clf_hidden_size=null"], VQA, "which VOLTA does not have"),
    ("visualbert", "volta", ["fusion_method=visualbert_nlvr2"], None, "which VOLTA does not have"),
    ("visualbert", "visualbert", ["fusion_method=visualbert_nlvr2"], PAIRS, "fusion_method is 'visualbert_nlvr2', "),
    ("visualbert", "visualbert", ["clf_hidden_size=null"], PAIRS, "clfs_dict.TASK12.weight, "),
    ("visualbert", "visualbert", ["fusion_method=visualbert_nlvr2", "clf_hidden_size=null"], VQA, "visualbert_nlvr2"),
    ("uniter", "volta", [], None, "v_num_classes is 12, and always 1601 in this layout"),
    ("uniter", "volta", ["clf_hidden_size=null"], VQA, "VOLTA's classifiers have two layers"),
    ("uniter", "bert", ['bert_layer2attn_sublayer={"1": 0}'], None, "name no layers 0, 1, ... of a BERT"),
    ("uniter", "bert", ['bert_layer2attn_sublayer={"0": 0, "1": 0}', 'bert_layer2ff_sublayer={"0": 1, "1": 3}'], None,
     "one sublayer stands for several layers"),
    ("vilbert", "bert", ['bert_layer2attn_sublayer={"0": 12}', 'bert_layer2ff_sublayer={"0": 13}'], None,
     "in attention sublayer 12 text does not attend to text"),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "to", "more", "tasks", "told"), REFUSED)
def test_what_has_no_place_is_refused_by_its_name_and_nothing_is_written(
    layout, to, more, tasks, told, tmp_path, capsys
):
    folder_of(tmp_path / "own", configuration(layout, *more), tasks)
    with pytest.raises(SystemExit) as ended:
        main(["weights", "export", str(tmp_path / "own"), str(tmp_path / "to"), "--format", to])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and len(said.splitlines()) == 1 and not (tmp_path / "to").exists()
    assert told in said and f"cannot be written as --format {to}: " in said and "own/pytorch_model_best.bin" in said


def test_heads_of_answers_that_are_not_one_layer_on_two_images_are_told_apart(tmp_path):
    # NLVR2's head has the names of a classifier of answers, and reads two pooled vectors.
    folder_of(tmp_path / "own", configuration("lxmert"), {"TASK12": {"type": "VL-binary-classifier"}})
    with pytest.raises(UserError, match=r"clfs_dict\.TASK12\.logit_fc\.0\.weight, .* has no place in this layout"):
        export_weights(tmp_path / "own", "lxmert")


def test_weights_that_layouts_share_and_a_model_has_apart_are_refused(tmp_path):
    folder_of(tmp_path / "own", configuration("uniter"))
    path = tmp_path / "own" / "pytorch_model_best.bin"
    state = dict(read_weights(path))
    name = "bert.encoder.layer.0.attention_self.v_query.weight"
    state[name] = state[name] + 1
    write_weights(path, state)
    with pytest.raises(UserError, match="are one weight in this layout, and hold different values"):
        export_weights(tmp_path / "own", "uniter")


def test_what_is_no_model_of_this_project_is_refused(tmp_path):
    theirs = transformers.VisualBertForPreTraining(transformers.VisualBertConfig(**VISUAL_BERT))
    saved(theirs, tmp_path)
    with pytest.raises(UserError, match="no folder of a model of this project; import it first"):
        export_weights(tmp_path, "lxmert")
    with pytest.raises(UserError, match="say with --config_file what it is"):
        export_weights(tmp_path / "model.safetensors", "lxmert")
    with pytest.raises(UserError, match="no weights of a run"):
        export_weights(tmp_path / "model.safetensors", "lxmert", "lxmert")
    with pytest.raises(UserError, match=f"--format other: expected one of {', '.join(FORMATS)}"):
        export_weights(tmp_path, "other")


@pytest.mark.parametrize("layout", ["volta", "bert", "uniter"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"bert.encoder.layer.1.output.dense.bias": None}, "bert.encoder.layer.1.output.dense.bias missing"),
        ({"bert.more.weight": torch.zeros(2)}, "bert.more.weight unexpected"),
        ({"bert.embeddings.LayerNorm.bias": torch.zeros(5)}, "has shape [5], the model expects [24]"),
        ({"bert.embeddings.LayerNorm.bias": torch.full((24,), torch.nan)}, "holds numbers that are not finite"),
    ],
)
def test_weights_of_another_model_than_the_configurations_are_refused(layout, change, told, tmp_path):
    folder_of(tmp_path / "own", configuration("uniter"))
    path = tmp_path / "own" / "pytorch_model_best.bin"
    state = {**read_weights(path), **change}
    write_weights(path, {name: tensor for name, tensor in state.items() if tensor is not None})
    with pytest.raises(UserError) as caught:
        export_weights(tmp_path / "own", layout)
    assert told in str(caught.value)


def test_a_folder_that_is_there_is_left_alone(tmp_path, capsys):
    folder_of(tmp_path / "own", configuration("uniter"))
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["weights", "export", str(tmp_path / "own"), str(tmp_path / "to"), "--format", "bert"])
    assert "is there already; give another folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["mine.txt"]


def test_a_file_with_a_configuration_and_what_the_command_says(tmp_path, capsys):
    folder_of(tmp_path / "own", configuration("uniter", "hidden_dropout_prob=0.2"))
    (tmp_path / "own" / "pytorch_model_best.bin").rename(tmp_path / "alone.bin")
    (tmp_path / "own" / "config.json").rename(tmp_path / "of it.json")
    source, config = str(tmp_path / "alone.bin"), str(tmp_path / "of it.json")
    main(["weights", "export", source, str(tmp_path / "to"), "--format", "uniter", "--config_file", config])
    said = " ".join(capsys.readouterr().out.split())
    assert f"weights of {source} layout uniter written pytorch_model.bin" in said
    assert "without img_embeddings.mask_embedding, feat_regress, cls.seq_relationship, which no model here has" in said
    assert "of training v_hidden_dropout_prob is 0.1, there 0.2" in said and f"written to {tmp_path / 'to'}" in said
    model = BertForVLPreTraining(load_config(config))
    load_volta(model, import_weights(tmp_path / "to").state)
    assert (
        relative_error(model.bert.embeddings.LayerNorm.weight, read_weights(source)["bert.embeddings.LayerNorm.weight"])
        == 0
    )
