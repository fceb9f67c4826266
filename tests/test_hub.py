"""A BERT's files from a folder, the hub's cache and a hub: a server of the test's, asked by a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from volta_switch import UserError
from volta_switch.hub import NotCached, find_bert, find_vocabulary, is_weight_file

ASK = """
import os, socket, time
if os.environ.get("SLOW_NAMES"):  # a resolver whose servers do not answer
    socket.getaddrinfo = lambda *given, **options: time.sleep(600)
from volta_switch.errors import UserError
from volta_switch.hub import find_bert, find_vocabulary
found = []
for kind, source in json.loads(sys.argv[1]):
    try:
        found.append(str({"vocabulary": find_vocabulary, "bert": find_bert}[kind](source)))
    except UserError as error:
        found.append(f"error: {error}")
print(json.dumps(found))
"""


@pytest.fixture
def ask(hub):
    """ask(("vocabulary", name), ("bert", name), ...) -> paths and errors, of a process that knows this hub alone."""
    return lambda *wanted, **options: json.loads(hub.python(ASK, json.dumps(wanted), **options))


def test_a_file_is_fetched_once_and_then_taken_from_the_cache(hub, ask):
    hub.create("some/bert", {"vocab.txt": b"[PAD]\n"})
    first = ask(("vocabulary", "some/bert"))
    assert Path(first[0]).read_bytes() == b"[PAD]\n"
    asked = dict(hub.asked)
    assert ask(("vocabulary", "some/bert")) == first and dict(hub.asked) == asked
    hub.fault = "silent"
    assert ask(("vocabulary", "some/bert")) == first and dict(hub.asked) == asked
    assert ask(("vocabulary", "some/bert"), offline=True) == first


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_either_weight_file_will_do(hub, ask, name):
    hub.create("bert", {name: b"weights"})
    assert ask(("bert", "bert"))[0].endswith(name)


@pytest.mark.parametrize(("kind", "file"), [("vocabulary", "vocab.txt"), ("bert", "model.safetensors")])
@pytest.mark.parametrize("fault", [500, 503, 429, "silent"])
def test_a_hub_that_fails_is_asked_once(hub, ask, kind, file, fault):
    hub.fault = fault
    (found,) = ask((kind, "bert"))
    assert found.startswith("error: bert: neither a folder with ") and "that the hub could deliver (" in found
    assert "FOLDER" in found and "what the hub delivered is kept" in found and "\n" not in found
    assert hub.asked == {f"HEAD {file}": 1}


def test_a_hub_without_the_files_is_asked_once_for_each(hub, ask):
    hub.create("nobody/none", {})
    vocabulary, bert = ask(("vocabulary", "nobody/none"), ("bert", "nobody/none"))
    assert "EntryNotFound" in vocabulary and "EntryNotFound" in bert
    assert hub.asked == {"HEAD vocab.txt": 1, "HEAD model.safetensors": 1, "HEAD pytorch_model.bin": 1}


def test_no_hub_at_all_is_one_line(hub, ask):
    hub.stop()
    for found in ask(("vocabulary", "bert"), ("bert", "bert")):
        assert found.startswith("error: bert: neither") and "onnect" in found


def test_a_name_that_is_looked_up_for_ever_is_not_waited_for(ask):
    (found,) = ask(("vocabulary", "bert"), HF_ENDPOINT="http://hub.invalid", SLOW_NAMES="1")
    assert "http://hub.invalid did not answer within 2 seconds" in found


def test_offline_nobody_is_asked(hub, ask):
    found = ask(("vocabulary", "bert"), ("bert", "bert"), offline=True)
    assert all("OfflineModeIsEnabled" in line for line in found) and not hub.asked


@pytest.mark.parametrize("source", ["./none", "~/none", "/none", "a/b/c", "none.bin", "none/vocab.txt", ""])
def test_what_can_be_no_hub_name_is_not_asked_for(hub, ask, source):
    for found in ask(("vocabulary", source), ("bert", source)):
        assert found.startswith("error: ") and "the hub could deliver" not in found
    assert not hub.asked


def test_an_address_gives_either_file(hub, ask):
    hub.create("some/bert", {"vocab.txt": b"[PAD]\n", "pytorch_model.bin": b"weights"})
    hub.create("no/vocabulary", {"pytorch_model.bin": b"weights"})
    vocabulary, bert = ask(("vocabulary", "hf://some/bert"), ("bert", "hf://some/bert"))
    assert Path(vocabulary).read_bytes() == b"[PAD]\n" and Path(bert).read_bytes() == b"weights"
    (found,) = ask(("vocabulary", "hf://no/vocabulary"))
    assert found == "error: hf://no/vocabulary: has no vocab.txt; give a vocabulary with --set bert_model=FOLDER"


def test_files_and_folders_are_taken_as_they_are(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    assert find_vocabulary(tmp_path) == find_vocabulary(tmp_path / "vocab.txt") == tmp_path / "vocab.txt"
    with pytest.raises(UserError, match=r"holds neither model\.safetensors nor pytorch_model\.bin"):
        find_bert(tmp_path)
    (tmp_path / "pytorch_model.bin").write_text("")
    assert find_bert(tmp_path) == tmp_path / "pytorch_model.bin"
    (tmp_path / "model.safetensors").write_text("")
    assert find_bert(tmp_path) == tmp_path / "model.safetensors" == find_bert(tmp_path / "model.safetensors")


@pytest.mark.parametrize("find", [find_vocabulary, find_bert])
def test_where_nothing_may_be_fetched_the_hub_is_named_and_not_asked(find):
    with pytest.raises(NotCached, match="no-such-bert is neither a folder here nor in the hub's cache") as error:
        find("no-such-bert", fetch=False)
    assert error.value.name == "no-such-bert" and "FOLDER" in str(error.value)


def test_files_of_weights_are_told_from_folders_and_names(tmp_path):
    (tmp_path / "weights").write_text("")
    assert all(map(is_weight_file, ("none.bin", "none.pt", "none.safetensors", tmp_path / "weights")))
    assert not any(map(is_weight_file, ("bert-base-uncased", "some/bert", tmp_path)))
