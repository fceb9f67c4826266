"""A card as the hub's library reads it."""

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id


def verified(folder):
    """A folder's card as the hub's library reads it, checked against what the hub says it verifies of metadata."""
    card = ModelCard.load(folder / "README.md")
    data = card.data.to_dict()
    assert data["library_name"] == "volta-switch" and "vision-and-language" in data["tags"]
    assert all(isinstance(tag, str) and tag for tag in data["tags"]) and "license" not in data
    for name in (*data.get("datasets", ()), *([data["base_model"]] if "base_model" in data else ())):
        validate_repo_id(name)
    assert ModelCardData(**card.data.to_dict()).to_dict() == data  # results are taken apart and put together again
    assert str(card) == (folder / "README.md").read_text()
    for entry in data.get("model-index", ()):
        for result in entry["results"]:
            assert {"type", "name"} <= result["dataset"].keys() and result["task"]["type"]
            assert all(isinstance(metric["value"], float) and metric["type"] for metric in result["metrics"])
    return card
