"""Cards of imported weights say whose they are."""

import pytest
import torch

from cards.hub_cards import verified
from synthetic_world import json_of
from volta_switch.files import measured
from volta_switch.weight_tools.imported_folders import write_model
from volta_switch.weight_tools.importing import import_weights


@pytest.fixture
def imported(tmp_path):
    """A VisualBERT's file, and the folder of its import."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(2)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 40}
    config = transformers.VisualBertConfig(**sizes, vocab_size=31, num_hidden_layers=2, visual_embedding_dim=8)
    source = tmp_path / "secretplace"
    transformers.VisualBertForPreTraining(config).save_pretrained(source)
    model = import_weights(source, overrides=["bert_model=secretplace"])
    write_model(model, tmp_path / "to")
    return source / "model.safetensors", tmp_path / "to"


def test_imported_weights_say_whose_they_are(imported):
    source, folder = imported
    record, card = json_of(folder / "training.json"), verified(folder)
    taken = record["imported"]
    assert record["kind"] == "import" and taken["project"].startswith("VisualBERT")
    assert (taken["file"], taken["sha256"]) == (source.name, measured(source)["sha256"])
    assert record["weights"]["sha256"] == measured(folder / "model.safetensors")["sha256"]
    assert taken["layout"] == "visualbert" and record["model"]["architecture"] == "visualbert"
    assert any(name.startswith("cls.imagePredictions") for name in taken["initial"])
    assert "initial values, not the file's | cls.imagePredictions" in card.text
    assert "another detector for each task" in card.text and "@misc{li2019visualbert" in card.text
    assert "Not known to this project." in card.text
    assert not [name for name in ("training.json", "README.md") if "secretplace" in (folder / name).read_text()]
