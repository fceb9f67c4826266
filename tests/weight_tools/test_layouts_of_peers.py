"""UNITER's, ViLBERT's and 12-in-1's own files: what imported models compute is what their own code computed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from golden_files import relative_error
from volta_switch import BertForVLPreTraining, UserError
from volta_switch.weight_tools.importing import import_weights
from volta_switch.weights import load_volta
from weight_tools.peers import GOLDEN, HOME, NAMES, computed

TOLERANCE = 1e-6
REPOSITORY = {"uniter": "UNITER", "vilbert": "vilbert-multi-task", "12in1": "vilbert-multi-task"}
LEFT_OUT = {
    "uniter": {"img_embeddings.mask_embedding", "feat_regress"},
    "vilbert": {"encoder.c_layer"},
    "12in1": {
        "encoder.c_layer", "embeddings.task_embeddings", "vil_prediction", "vil_prediction_gqa", "vil_logit",
        "vil_binary_prediction", "vil_tri_prediction", "vision_logit", "linguisic_logit",
    },
}  # fmt: skip


def golden(name):
    return load_file(GOLDEN / f"own_{name}.safetensors"), json.loads((GOLDEN / f"own_{name}.json").read_text())


def part(tensors, prefix):
    return {name.removeprefix(f"{prefix}/"): each for name, each in tensors.items() if name.startswith(f"{prefix}/")}


def written(state, settings, folder):
    torch.save(state, folder / "own.pt")
    (folder / "config.json").write_text(json.dumps(settings))
    return folder / "own.pt"


def compare(tensors, settings, folder):
    """Imports the weights, computes the outputs of the same inputs, and compares them; returns the import."""
    imported = import_weights(written(part(tensors, "state"), settings, folder))
    model = BertForVLPreTraining(imported.config).eval()
    load_volta(model, imported.state)
    given, expected = part(tensors, "input"), part(tensors, "output")
    with torch.no_grad():
        ours = model(**given)
    text, vision = given["attention_mask"] == 1, given["image_attention_mask"] == 1
    pairs = {
        "words": (ours.prediction_scores_t[text], expected["words"][text]),
        "regions": (ours.prediction_scores_v["0"][vision], expected["regions"][vision]),
        "sequence_t": (ours.sequence_t[text], expected["sequence_t"][text]),
        "sequence_v": (ours.sequence_v[vision], expected["sequence_v"][vision]),
        "pooled": (ours.pooled_t, expected["pooled"]),
        "match": (ours.seq_relationship_score, expected["match"]),
    }
    if "uniter" in imported.layout.name:
        pairs["match"] = (ours.seq_relationship_score, expected["match"].flip(1))  # theirs: 1 aligned
    else:
        pairs["pooled_v"] = (ours.pooled_v, expected["pooled_v"])
    for name, (found, wanted) in pairs.items():
        assert relative_error(found, wanted) < TOLERANCE, name
    return imported


@pytest.mark.parametrize("name", NAMES)
def test_an_imported_model_computes_what_its_own_code_computed(name, tmp_path):
    imported = compare(*golden(name), tmp_path)
    assert not imported.initial
    starts = LEFT_OUT[name]
    assert all(each.startswith(tuple(starts)) for each in imported.left_out)
    assert all(any(each.startswith(f"{start}.") for each in imported.left_out) for start in starts)


@pytest.mark.parametrize("name", NAMES)
def test_their_code_still_computes_the_numbers_that_are_kept(name, tmp_path):
    if not HOME:
        pytest.skip("PEERS_HOME is not set: a folder with checkouts of UNITER and vilbert-multi-task")
    if not (repository := Path(HOME, REPOSITORY[name])).is_dir():
        pytest.skip(f"{repository} is not there")
    tensors, settings = computed(name)
    compare(tensors, settings, tmp_path)
    kept, kept_settings = golden(name)
    assert tensors.keys() == kept.keys() and settings == kept_settings
    for key, tensor in tensors.items():
        torch.testing.assert_close(tensor, kept[key], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_a_file_counts(name, tmp_path):
    tensors, settings = golden(name)
    state = part(tensors, "state")
    heads = ("cls.", "region_classifier.", "itm_output.")
    imported = import_weights(written(state, settings, tmp_path))
    prefix = "uniter." if name == "uniter" else "bert."
    for lost in list(state)[::5]:  # each import reads all; every name has the same way through it
        kept = lost.removeprefix(prefix) not in imported.left_out and lost not in imported.left_out
        if not kept or lost.startswith(("cls.predictions.decoder", "itm_output.")):
            continue
        less = {other: tensor for other, tensor in state.items() if other != lost}
        with pytest.raises(UserError) as caught:
            import_weights(written(less, settings, tmp_path))
        told = lost if lost.startswith(heads) else lost.removeprefix(prefix)
        assert told.split(".layer.")[0] in str(caught.value)
    more = {**state, f"{prefix}encoder.extra.weight": torch.zeros(2)}
    with pytest.raises(UserError, match=r"encoder\.extra\.weight has no place in this layout, and would be lost"):
        import_weights(written(more, settings, tmp_path))


def test_a_head_without_a_part_of_it_is_refused_and_one_that_is_not_there_is_not_missed(tmp_path):
    tensors, settings = golden("uniter")
    state = part(tensors, "state")
    less = {name: tensor for name, tensor in state.items() if name != "region_classifier.net.2.bias"}
    with pytest.raises(UserError, match=r"region_classifier\.net\.2\.bias missing, of the head region_classifier"):
        import_weights(written(less, settings, tmp_path))
    alone = {name: tensor for name, tensor in state.items() if name.startswith("uniter.")}
    imported = import_weights(written(alone, settings, tmp_path))
    assert not imported.heads and not imported.initial and all(name.startswith("bert.") for name in imported.state)


def test_heads_of_attention_are_asked_for_where_nothing_tells_them(tmp_path):
    tensors, _ = golden("uniter")
    path = written(part(tensors, "state"), {}, tmp_path)
    with pytest.raises(UserError, match=r"num_attention_heads is not known, .* give --set num_attention_heads=N"):
        import_weights(path)
    assert import_weights(path, overrides=["num_attention_heads=4"]).config.num_attention_heads == 4
