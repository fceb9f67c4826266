"""Imports that would be silently wrong are refused: settings of other models, contradictions, holes, odd tensors."""

import json
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from volta_switch import BertForVLPreTraining, UserError, load_config
from volta_switch.cli import main
from volta_switch.weight_tools import imported_folders, importing
from volta_switch.weight_tools.imported_folders import write_model
from volta_switch.weight_tools.importing import import_weights
from volta_switch.weights import load_volta, read_weights
from weight_tools.test_layouts_of_peers import golden, part

transformers = pytest.importorskip("transformers")

WIDE = {"vocab_size": 41, "hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 40}
WIDE |= {"max_position_embeddings": 20, "l_layers": 1, "r_layers": 1, "x_layers": 1, "visual_feat_dim": 8}
WIDE |= {"num_object_labels": 5, "num_attr_labels": 4, "num_qa_labels": 3}


@pytest.fixture(scope="module")
def lxmert():
    """State and settings of a model whose heads are not of 64 neurons: a guess would be wrong."""
    torch.manual_seed(0)
    model = transformers.LxmertForPreTraining(transformers.LxmertConfig(**WIDE))
    return model.state_dict(), model.config.to_dict()


@pytest.fixture
def written(lxmert, tmp_path):
    """A function that writes changed weights and settings, and returns the file."""

    def write(state=None, settings=None, raw=None):
        torch.save(lxmert[0] if state is None else state, tmp_path / "their.bin")
        beside = tmp_path / "config.json"
        if raw is not None:
            beside.write_bytes(raw)
        elif settings is not False:
            beside.write_text(json.dumps({**lxmert[1], **(settings or {})}))
        return tmp_path / "their.bin"

    return write


def refused(path, **given):
    with pytest.raises(UserError) as caught:
        import_weights(path, **given)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    return str(caught.value)


# --- What stands beside the weights -----------------------------------------------------------------------------------


def test_the_number_of_heads_is_the_settings_and_a_guess_only_without_them(written):
    assert import_weights(written()).config.num_attention_heads == 4
    os.unlink(written().with_name("config.json"))
    assert import_weights(written(settings=False)).config.num_attention_heads == 2  # of 64 neurons


@pytest.mark.parametrize("heads", ["4", 4.0, 0, -4, None, True, [4], 3, 256, 10**30])
def test_a_number_of_heads_that_is_none_is_refused(heads, written):
    assert "num_attention_heads = " in refused(written(settings={"num_attention_heads": heads}))


@pytest.mark.parametrize(
    "raw", [b"{", b"[]", b"", b"\xff\xfe{", b"[" * 100_000, b'{"num_attention_heads": ' + b"9" * 5000 + b"}", b'"text"']
)
def test_a_damaged_settings_file_is_refused_by_its_name(raw, written):
    assert "config.json" in refused(written(raw=raw))


def test_a_settings_file_that_would_never_end_is_refused(written):
    path = written(settings=False)
    os.mkfifo(path.with_name("config.json"))
    assert "config.json" in refused(path)
    os.unlink(path.with_name("config.json"))
    os.symlink("nowhere", path.with_name("config.json"))
    assert "config.json" in refused(path)


@pytest.mark.parametrize(
    "other",
    [
        {"hidden_size": 1024}, {"vocab_size": 9}, {"intermediate_size": 512}, {"l_layers": 9}, {"x_layers": 5},
        {"max_position_embeddings": 512}, {"type_vocab_size": 3}, {"visual_feat_dim": 2048}, {"visual_pos_dim": 5},
        {"model_type": "bert"},
    ],
)  # fmt: skip
def test_another_models_settings_are_refused(other, written):
    message = refused(written(settings=other))
    assert next(iter(other)) in message and "it is another model's" in message


VILBERT = {
    "t_biattention_id": [0, 1], "v_biattention_id": [0, 0], "with_coattention": False, "model": "roberta",
    "visual_target": 1, "fusion_method": "concat", "dynamic_attention": True, "fast_mode": True, "bi_hidden_size": 96,
    "v_hidden_size": 48, "v_intermediate_size": 5, "num_hidden_layers": 12, "bi_num_attention_heads": 0,
    "v_num_attention_heads": "2", "in_batch_pairs": True,
}  # fmt: skip


@pytest.mark.parametrize("key", VILBERT)
def test_a_vilbert_that_computes_otherwise_is_refused(key, tmp_path):
    tensors, settings = golden("vilbert")
    torch.save(part(tensors, "state"), tmp_path / "own.pt")
    (tmp_path / "config.json").write_text(json.dumps({**settings, key: VILBERT[key]}))
    assert key in refused(tmp_path / "own.pt")


def test_how_a_vilbert_fuses_is_taken_from_its_settings(tmp_path):
    tensors, settings = golden("vilbert")
    torch.save(part(tensors, "state"), tmp_path / "own.pt")
    for method in ("sum", "mul"):
        (tmp_path / "config.json").write_text(json.dumps({**settings, "fusion_method": method, "v_hidden_act": "relu"}))
        config = import_weights(tmp_path / "own.pt").config
        assert (config.fusion_method, config.v_hidden_act, config.hidden_act) == (method, "relu", "gelu")


def test_without_settings_a_vilberts_crossing_heads_are_asked_for(tmp_path):
    tensors, _ = golden("vilbert")
    torch.save(part(tensors, "state"), tmp_path / "own.pt")
    message = refused(tmp_path / "own.pt", overrides=["num_attention_heads=4", "v_num_attention_heads=2"])
    assert "bi_num_attention_heads is not known" in message


def test_settings_that_a_program_does_not_read_are_not_read_here(written, tmp_path):
    assert import_weights(written(settings={"layer_norm_eps": 0.01})).config.layer_norm_eps == 1e-12
    tensors, settings = golden("uniter")
    torch.save(part(tensors, "state"), tmp_path / "own.pt")
    (tmp_path / "config.json").write_text(json.dumps({**settings, "layer_norm_eps": 0.01}))
    assert import_weights(tmp_path / "own.pt").config.layer_norm_eps == 1e-12
    (tmp_path / "config.json").write_text(json.dumps({**settings, "hidden_act": "relu"}))
    assert "hidden_act" in refused(tmp_path / "own.pt")  # its region classifier has GELU all the same


@pytest.mark.parametrize("lost", ["obj", "attr", "feat"])
def test_an_lxmert_may_lack_a_target_of_its_regions_where_its_settings_say_so(lost, lxmert, written):
    state = {name: tensor for name, tensor in lxmert[0].items() if f"decoder_dict.{lost}." not in name}
    assert f"decoder_dict.{lost}.weight" in refused(written(state))
    imported = import_weights(written(state, {f"visual_{lost}_loss": False}))
    assert len(imported.config.visual_target_weights) == 2 and not imported.initial


# --- The weights themselves -------------------------------------------------------------------------------------------


def changed(state, name, tensor):
    return {**state, name: tensor}


def test_what_would_not_load_again_is_not_written(lxmert, written, tmp_path):
    own = "cls.predictions.decoder.weight"
    assert "one shared weight in this model" in refused(written(changed(lxmert[0], own, lxmert[0][own] + 0.5)))
    write_model(import_weights(written()), tmp_path / "to")
    model = BertForVLPreTraining(load_config(tmp_path / "to", ["bert_model=x"]))
    load_volta(model, read_weights(tmp_path / "to" / "model.safetensors"))
    assert "is a model's folder of this project and needs no import" in refused(tmp_path / "to")


ODD = {
    "a sparse one": lambda tensor: tensor.to_sparse(),
    "one without values": lambda tensor: tensor.to("meta"),
    "a number": lambda tensor: tensor.flatten()[0].clone(),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "not finite": lambda tensor: tensor * float("nan"),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "name",
    [
        "cls.seq_relationship.weight", "obj_predict_head.decoder_dict.obj.weight", "answer_head.logit_fc.3.weight",
        "lxmert.embeddings.word_embeddings.weight", "cls.predictions.bias",
    ],
)  # fmt: skip
def test_odd_tensors_are_refused_wherever_they_stand(odd, name, lxmert, written):
    path = written(changed(lxmert[0], name, ODD[odd](lxmert[0][name])))
    answers = {"task": "TASK1", "labels": ["a", "b", "c"]} if name.startswith("answer") else {}
    assert name.removeprefix("lxmert.") in refused(path, **answers)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_widths_of_numbers_are_as_large_a_model(dtype, lxmert, written):
    expected = import_weights(written())
    found = import_weights(written({name: tensor.to(dtype) for name, tensor in lxmert[0].items()}))
    assert found.parameters == expected.parameters and all(t.dtype == torch.float32 for t in found.state.values())


def test_two_heads_of_one_name_are_refused(lxmert, written):
    state = {name.replace("lxmert.", "bert.bert."): tensor for name, tensor in lxmert[0].items()}
    twice = {name.replace("cls.", "bert.cls.", 1) if name.startswith("cls.") else name: t for name, t in state.items()}
    twice["cls.seq_relationship.weight"] = torch.ones(2, 128)
    assert "are two names of one weight" in refused(written(twice))


@pytest.mark.parametrize("sets", ['visual_target_weights={"0": 1.0}', "image_head_ln=false", "fusion_method=none"])
def test_a_weight_without_a_place_in_the_model_that_is_asked_for_is_named(sets, written):
    assert "has no place in a model of these settings; change --set" in refused(written(), overrides=[sets])


def converted(lxmert):
    """VOLTA's conversion, at its only depth."""
    torch.manual_seed(0)
    layers = {"l_layers": 9, "r_layers": 5, "x_layers": 5}
    model = transformers.LxmertForPreTraining(transformers.LxmertConfig(**{**WIDE, **layers}))
    return model


@pytest.fixture(scope="module")
def conversion(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    converted(None).save_pretrained(folder)
    state = dict(import_weights(folder, task="TASK1", labels=["a", "b", "c"]).state)
    head = "clfs_dict.TASK1.logit_fc"
    return {name.replace(head, "cls.qaPredictions.logit_fc"): tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "lost",
    [
        "cls.bi_seq_relationship.weight", "cls.predictions.transform.dense.weight", "cls.predictions.bias",
        "cls.imagePredictions.decoder_dict.3.bias", "bert.encoder.layer.18.attention_self.v_query.weight",
        "bert.t_pooler.dense.bias",
    ],
)  # fmt: skip
def test_a_hole_in_voltas_conversion_is_refused(lost, conversion, written):
    state = {name: tensor for name, tensor in conversion.items() if name != lost}
    assert lost.removeprefix("bert.") in refused(written(state, settings=False), overrides=["num_attention_heads=4"])


@pytest.mark.parametrize(
    "more", ["bert.embeddings.position_ids", "bert.v_pooler.dense.weight", "cls.foo.weight", "other.weight"]
)
def test_a_name_too_many_in_voltas_conversion_is_refused(more, conversion, written):
    path = written(changed(conversion, more, torch.zeros(2)), settings=False)
    assert more.removeprefix("bert.") in refused(path, overrides=["num_attention_heads=4"])


def test_two_values_of_a_shared_weight_are_refused(conversion, written):
    name = "bert.encoder.layer.18.attention_self.v_query.weight"
    path = written(changed(conversion, name, torch.zeros_like(conversion[name])), settings=False)
    assert "one shared weight" in refused(path, overrides=["num_attention_heads=4"])


def test_a_task_is_not_taken_where_no_head_can_become_its(tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": 31, "hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 8}
    config = transformers.VisualBertConfig(**sizes, num_hidden_layers=1, visual_embedding_dim=8)
    transformers.VisualBertForPreTraining(config).save_pretrained(tmp_path)
    assert "has no head of answers that could become TASK1's" in refused(tmp_path, task="TASK1", labels=["a", "b"])


@pytest.mark.parametrize("name", ["cls.secret.weight", "answer_head.logit_fc.7.weight", "answer_head.other.weight"])
def test_a_name_beside_what_is_left_out_is_not_left_out_with_it(name, lxmert, written):
    assert name in refused(written(changed(lxmert[0], name, torch.zeros(2, 2))))


# --- The folder -------------------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_nothing_and_may_be_repeated(written, tmp_path, monkeypatch):
    model = import_weights(written())
    monkeypatch.setattr(
        imported_folders, "write_weights", lambda *given, **more: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSError, match="full"):
        write_model(model, tmp_path / "out" / "to")
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.undo()
    write_model(model, tmp_path / "out" / "to")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["to"]


def test_a_full_disk_and_an_interrupt_leave_nothing(written, tmp_path):
    command = [sys.executable, "-m", "volta_switch", "weights", "import", str(written()), "to"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # noqa: E731
    signal_ignored = lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_IGN), limit())  # noqa: E731
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=signal_ignored)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"their.bin", "config.json"}
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


@pytest.mark.parametrize(("module", "where"), [(importing, "read_weights"), (imported_folders, "write_weights")])
def test_an_interrupt_says_that_nothing_was_written_and_nothing_of_resuming(
    module, where, written, tmp_path, monkeypatch, capsys
):
    path = written()
    monkeypatch.setattr(module, where, lambda *given, **more: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit) as ended:
        main(["weights", "import", str(path), str(tmp_path / "to")])
    assert ended.value.code == 130 and capsys.readouterr().err == "interrupted; nothing was written\n"
    assert {path.name for path in tmp_path.iterdir()} == {"their.bin", "config.json"}


# --- Checkpoints in several files -------------------------------------------------------------------------------------


@pytest.fixture
def parts(lxmert, tmp_path):
    """A folder as transformers writes it, with the weights in several files, and the same import from one file."""
    torch.manual_seed(0)
    model = transformers.LxmertForPreTraining(transformers.LxmertConfig(**WIDE))
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "parts", max_shard_size="200KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 3
    return tmp_path / "parts", import_weights(tmp_path / "whole")


def in_pytorchs_files(folder):
    """The same parts as PyTorch files, with their list."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    names = {name: name.replace("safetensors", "bin") for name in set(index["weight_map"].values())}
    for name, other in names.items():
        torch.save(load_file(folder / name), folder / other)
        (folder / name).unlink()
    index["weight_map"] = {weight: names[name] for weight, name in index["weight_map"].items()}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors.index.json").unlink()


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_all_parts_of_a_checkpoint_are_read(form, parts):
    folder, expected = parts
    if form == "bin":
        in_pytorchs_files(folder)
    found = import_weights(folder)
    assert found.state.keys() == expected.state.keys() and found.left_out == expected.left_out
    assert all(torch.equal(found.state[name], expected.state[name]) for name in found.state)
    assert import_weights(next(folder.glob("*.index.json"))).state.keys() == found.state.keys()


def test_a_part_that_is_missing_or_holds_something_else_is_refused_by_its_name(parts):
    folder, _ = parts
    first, *_ = sorted(folder.glob("model-*.safetensors"))
    content = load_file(first)
    first.unlink()
    assert f"{first}: missing; " in refused(folder)
    lost, *_ = content
    save_file({name: tensor for name, tensor in content.items() if name != lost}, first)
    assert f"{first}: {lost} missing, which model.safetensors.index.json says to be in it" in refused(folder)
    save_file({**content, "more.weight": torch.zeros(2)}, first)
    assert f"{first}: holds more.weight, of which model.safetensors.index.json says nothing" in refused(folder)
    first.write_bytes(first.read_bytes()[:100])
    assert f"{first}: could not be read as weights" in refused(folder)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "could not be read as JSON"),
        ("[]", "expected weight_map"),
        ("{}", "expected weight_map"),
        ('{"weight_map": {}}', "expected weight_map"),
        ('{"weight_map": {"a.weight": 3}}', "expected weight_map"),
        ('{"weight_map": {"a.weight": "../their.bin"}}', "is no name of a file beside it"),
        ('{"weight_map": {"a.weight": "/etc/passwd"}}', "is no name of a file beside it"),
        ('{"weight_map": {"a.weight": ""}}', "is no name of a file beside it"),
        ('{"weight_map": {"a.weight": "model.safetensors.index.json"}}', "is no name of a file beside it"),
        ('{"weight_map": {"a.weight": "not there.bin"}}', "not there.bin: missing"),
    ],
)
def test_a_list_of_parts_that_is_none_is_refused(content, told, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    assert told in refused(tmp_path)
