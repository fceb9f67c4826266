"""Without vision in their context, the text states are BERT's (Hugging Face transformers, random weights), to 1e-5."""

import pytest
import torch

from golden_files import load_golden, relative_error
from model.small_models import PAIRS_OF_MODE, embedded, single_stream, switch_config
from volta_switch import BertForVLPreTraining, load_config
from volta_switch.hub import find_bert
from volta_switch.weights import load_bert, read_weights

transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5
LAYERS = 3


def bert_config():
    return transformers.BertConfig(
        vocab_size=97, hidden_size=24, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=40,
        max_position_embeddings=40, type_vocab_size=2, attn_implementation="eager",
    )  # fmt: skip


def random_bert(kind):
    """A transformers model with every parameter off its initial value."""
    torch.manual_seed(0)
    bert = getattr(transformers, kind)(bert_config()).eval()
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return bert


def text_only_config():
    """A static encoder in which text attends to text and vision to vision."""
    assert PAIRS_OF_MODE["SS"] == ("tt", "vv")
    return load_config(single_stream(load_golden("ctrl_uniter").config, ["SS"] * LAYERS))


def initialised(source, config=None):
    config = config or text_only_config()
    torch.manual_seed(1)
    model = BertForVLPreTraining(config).eval()
    return model, load_bert(model, config, read_weights(find_bert(source))).names


@pytest.fixture(scope="module")
def batch():
    inputs = load_golden("ctrl_uniter").inputs
    types = (torch.arange(9) > 3).long().repeat(4, 1)
    return {**inputs, "token_type_ids": types}


def text_of(batch):
    return {key: batch[key] for key in ("input_ids", "token_type_ids", "attention_mask")}


def test_the_batch_has_padding_and_both_token_types(batch):
    assert batch["attention_mask"].min() == 0 and batch["token_type_ids"].unique().tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "BertForPreTraining"])
def test_text_states_of_every_layer_are_berts(kind, batch, tmp_path):
    bert = random_bert(kind)
    bert.save_pretrained(tmp_path)
    model, _ = initialised(tmp_path)
    real = batch["attention_mask"] == 1
    with torch.no_grad():
        expected = bert(**text_of(batch), output_hidden_states=True).hidden_states
        states, layout = embedded(model, batch)
        found = model.bert.encoder(states, layout, keep_all=True).history[::2]
        out = model(**batch)
    assert len(found) == len(expected) == LAYERS + 1
    for layer, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        assert relative_error(layout.split(mine)[0], theirs[real]) < TOLERANCE, (
            layer
        )  # packed: the real tokens in order
    assert relative_error(out.sequence_t[real], expected[-1][real]) < TOLERANCE
    assert (expected[-1] - expected[0]).abs().max() > 1  # and the layers do something


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForPreTraining"])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_word_scores_are_berts(kind, suffix, batch, tmp_path):
    bert = random_bert(kind)
    if suffix == ".bin":
        torch.save(bert.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        bert.save_pretrained(tmp_path)
    model, names = initialised(tmp_path)
    assert {"cls.predictions.bias", "cls.predictions.transform.dense.weight"} <= set(names)
    real = batch["attention_mask"] == 1
    with torch.no_grad():
        out = bert(**text_of(batch))
        expected = out.logits if kind == "BertForMaskedLM" else out.prediction_logits
        assert relative_error(model(**batch).prediction_scores_t[real], expected[real]) < TOLERANCE


def test_word_loss_and_its_gradient_are_berts(batch, tmp_path):
    bert = random_bert("BertForMaskedLM")
    bert.save_pretrained(tmp_path)
    model, _ = initialised(tmp_path)
    labels = load_golden("ctrl_uniter").part("input")["masked_lm_labels"]
    assert (labels != -1).sum() > 1
    expected = bert(**text_of(batch), labels=torch.where(labels == -1, -100, labels)).loss
    found = model(**batch, masked_lm_labels=labels).loss_mlm
    assert relative_error(found, expected.detach()) < TOLERANCE
    expected.backward()
    found.backward()
    theirs = dict(bert.named_parameters())
    for layer in range(LAYERS):
        query, ff = (
            theirs[f"bert.encoder.layer.{layer}.attention.self.query.weight"],
            theirs[f"bert.encoder.layer.{layer}.intermediate.dense.weight"],
        )
        attention, forward = model.bert.encoder.layer[2 * layer], model.bert.encoder.layer[2 * layer + 1]
        assert relative_error(attention.attention_self.query.weight.grad, query.grad) < TOLERANCE
        assert relative_error(forward.intermediate.dense.weight.grad, ff.grad) < TOLERANCE
    words = theirs["bert.embeddings.word_embeddings.weight"].grad
    assert relative_error(model.bert.embeddings.word_embeddings.weight.grad, words) < TOLERANCE


def test_switch_bert_with_self_self_forced_is_bert_too(batch, tmp_path):
    bert = random_bert("BertForMaskedLM")
    bert.save_pretrained(tmp_path)
    model, names = initialised(tmp_path, switch_config("ctrl_uniter"))
    assert not any("switch" in name for name in names)
    real = batch["attention_mask"] == 1
    with torch.no_grad():
        expected = bert(**text_of(batch)).logits
        found = model(**batch, modes=["SS"] * LAYERS, inputs=[0] * LAYERS).prediction_scores_t
    assert relative_error(found[real], expected[real]) < TOLERANCE
