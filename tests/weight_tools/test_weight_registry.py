"""The registry of published weights: each fact with its page; lists, fetched folders, and scores that are compared."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import socket
import subprocess
import sys

import pytest
import yaml

from synthetic_world import json_of, write_config
from volta_switch import BertForVLPreTraining, UserError, load_config
from volta_switch.cli import main
from volta_switch.tasks.vqa_files import load_labels
from volta_switch.train import evaluation, finetuning
from volta_switch.weight_tools.layouts import LAYOUTS
from volta_switch.weight_tools.registered.entries import SHIPPED, Published, Spread, find_entry, load_registry
from volta_switch.weight_tools.registered.verifying import comparison_text, interval, verdict
from volta_switch.weights import to_volta, write_weights
from weight_tools.range_server import serving
from weight_tools.tiny_hub import hub_of_one_model, tiny_lxmert

PAGE = "https://example.org/page"
HOSTS = ("https://github.com/", "https://huggingface.co/")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache folder, a new one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "volta-switch" / "weights"


@pytest.fixture
def server():
    with serving() as made:
        yield made


@pytest.fixture(scope="module")
def files(world, tmp_path_factory):
    """A configuration's file, a file of weights fine-tuned on TASK10, a pre-trained one, and one of another model."""
    folder = tmp_path_factory.mktemp("weights")
    config = world.config("ctrl_uniter")
    write_config(folder / "tiny.json", config)
    write_weights(folder / "tuned.bin", to_volta(world.task_model(world.task("refer", config))))
    write_weights(folder / "pretrained.bin", to_volta(BertForVLPreTraining(config)))
    write_weights(folder / "other.bin", to_volta(BertForVLPreTraining(world.config("ctrl_vilbert"))))
    return folder


@pytest.fixture
def registry(tmp_path, server, files):
    """registry(content, **changes) -> a registry's file, of one entry whose weights the server has."""

    def write(content="tuned.bin", weights=None, **changes):
        server.files["/weights"] = (files / content).read_bytes()
        known = {"addresses": [f"{server.url}/weights"], "source": PAGE, **(weights or {})}
        entry = {
            **{"about": "a tiny one", "layout": "volta", "config": str(files / "tiny.json"), "config_source": PAGE},
            **{"weights": known, "license": {"name": "none at all", "source": PAGE}, "task": "TASK10", "scores": []},
            **changes,
        }
        path = tmp_path / "registry.yml"
        path.write_text(yaml.safe_dump({"tiny": {key: value for key, value in entry.items() if value is not ...}}))
        return path

    return write


def run(*arguments):
    """``volta-switch weights`` in this process."""
    main(["weights", *map(str, arguments)])


@pytest.fixture
def refused(capsys):
    """refused(*arguments) -> the one line that the command ends with."""

    def ask(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            run(*arguments)
        out, err = capsys.readouterr()
        assert caught.value.code == 2 and not out and err.count("\n") == 1 and err.startswith("error: "), (out, err)
        return err.strip()

    return ask


# --- The shipped registry -------------------------------------------------------------------------------------------


def test_every_fact_of_the_shipped_registry_has_its_page():
    entries = yaml.safe_load(SHIPPED.read_text())
    assert len(entries) > 20
    for name, entry in entries.items():
        parts = [entry["weights"], *entry["scores"], *([entry["license"]] if entry["license"] else [])]
        parts += [entry["answers"]] if "answers" in entry else []
        assert all(part["source"].startswith(HOSTS) for part in parts), name
        assert not entry["config"] or entry["config_source"].startswith(HOSTS), name


def test_the_shipped_registry_is_read_and_names_what_is_there():
    entries = load_registry()
    assert {"volta-ctrl-uniter", "lxmert-vqa-uncased", "visualbert-vqa", "bert-base-uncased"} <= set(entries)
    for entry in entries.values():
        assert entry.layout in (None, "volta", "bert", *LAYOUTS)
        if entry.config:
            load_config(entry.config)
        assert (entry.layout is None) <= bool(entry.by_hand)
        assert {score.metric for score in entry.scores} <= {"vqa_score", "accuracy", "ir_r1", "tr_r1"}
    controlled = [entry for name, entry in entries.items() if name.startswith("volta-ctrl-") and entry.config]
    assert len(controlled) == 5 and all(len(entry.scores) == 5 for entry in controlled)


def test_the_registry_is_among_the_packages_files():
    import tomllib

    from setuptools import Distribution

    root = SHIPPED.parents[3]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    data = project["tool"]["setuptools"]["package-data"]
    build = Distribution({"packages": list(data), "package_data": data, "package_dir": {"": str(root)}})
    command = build.get_command_obj("build_py")
    command.ensure_finalized()
    command.manifest_files = {}
    assert str(SHIPPED) in command.find_data_files("volta_switch.weight_tools.registered", str(SHIPPED.parent))


def test_list_prints_everything(capsys):
    run("list")
    said = capsys.readouterr().out
    for name, entry in load_registry().items():
        (line,) = [line for line in said.splitlines() if line.startswith(f"{name} ")]
        assert entry.about in line and entry.weights.size in line and entry.weights.key in line
        assert (entry.license or "not stated") in line and line.endswith(" no")
        assert (entry.config or entry.layout or "none") in line and ("by hand" in line) == bool(entry.by_hand)


def test_an_unknown_name_is_refused_with_the_nearest(refused):
    assert "volta-ctrl-unitr: no weights of that name" in refused("fetch", "volta-ctrl-unitr")
    assert "did you mean volta-ctrl-uniter?" in refused("verify", "volta-ctrl-unitr", "--task", "1")
    with pytest.raises(UserError, match="volta-switch weights list prints all names"):
        find_entry(load_registry(), "§")


def test_what_only_a_person_can_fetch_says_so(refused):
    assert "download a file there with a browser" in refused("fetch", "volta-ctrl-seeds")
    assert "no multilingual model" in refused("fetch", "volta-muniter")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"weights": {"sha265": "0"}}, "weights: unknown key sha265, did you mean sha256?"),
        ({"weights": {"sha256": "0"}}, "weights: sha256: expected 64 digits 0-9a-f, or null, found '0'"),
        ({"weights": {"source": "memory"}}, "weights: source: expected an address"),
        ({"weights": {"addresses": ["file:///etc/passwd"]}}, "weights: addresses: expected an address"),
        ({"weights": {"hub": "org/name"}}, "weights: expected addresses, or hub and file"),
        ({"license": {"name": "MIT"}}, "license: lacks source"),
        ({"scores": [{"task": "VQA", "metric": "vqa_score", "value": 1, "runs": "one"}]}, "scores[0]: lacks source"),
        ({"config_source": ...}, "config and config_source: needed"),
        ({"about": ...}, "the entry: lacks about"),
    ],
)
def test_a_registry_without_a_page_or_with_what_nobody_knows_is_refused(registry, refused, changes, told):
    path = registry(**changes)
    assert f"{path}: tiny: {told}" in refused("list", "--registry", path)


# --- Fetching -------------------------------------------------------------------------------------------------------


def test_fetched_weights_are_a_model_that_needs_nothing_else(registry, files, world, server, tmp_path, capsys, cache):
    path = registry()
    run("fetch", "tiny", "--registry", path, "--to", tmp_path / "model")
    said = capsys.readouterr().out
    assert f"tiny is here: {tmp_path / 'model'}\n" in said
    assert f"next: volta-switch evaluate --from_pretrained {tmp_path}/model --task TASK10\n" in said
    assert {each.name for each in (tmp_path / "model").iterdir()} == {
        *("config.json", "pytorch_model_best.bin", "vocab.txt", "tokenizer.json", "preprocessor.json"),
        *("training.json", "README.md", "volta_switch.sums"),
    }
    record = json.loads((tmp_path / "model/training.json").read_text())
    assert record["imported"]["file"] == f"{server.url}/weights"
    assert record["imported"]["heads"] == ["clfs_dict.TASK10"]
    assert "Weights of VOLTA" in (tmp_path / "model/README.md").read_text()
    assert (tmp_path / "model/pytorch_model_best.bin").read_bytes() == (files / "tuned.bin").read_bytes()
    shutil.move(tmp_path / "model", tmp_path / "moved")
    assert load_config(tmp_path / "moved").bert_model == str(tmp_path / "moved")
    data = ["--tasks_config_file", str(world.tasks_file), "--task", "10", "--output_dir", str(tmp_path / "out")]
    found = evaluation.main([*data, "--from_pretrained", str(tmp_path / "moved")])
    given = ["--from_pretrained", str(files / "tuned.bin"), "--config_file", str(files / "tiny.json")]
    assert found.metrics == evaluation.main([*data, *given]).metrics


def test_a_fetched_model_is_not_fetched_again_and_list_shows_it(registry, server, capsys, cache):
    path = registry()
    run("fetch", "tiny", "--registry", path)
    server.stop()
    run("fetch", "tiny", "--registry", path)
    run("list", "--registry", path)
    said = capsys.readouterr().out
    assert f"tiny was here already: {cache / 'tiny'}" in said
    assert said.rstrip().endswith(f"{server.url}/weights  {cache / 'tiny'}") and len(server.asked) == 1


def test_training_starts_from_fetched_weights(registry, world, tmp_path, capsys):
    path = registry("pretrained.bin", task=None)
    run("fetch", "tiny", "--registry", path, "--to", tmp_path / "model")
    assert "next: volta-switch finetune --task TASK1 --from_pretrained" in capsys.readouterr().out
    data = ["--tasks_config_file", str(world.tasks_file), "--task", "TASK10", "--output_dir", str(tmp_path)]
    quick = ["--num_epoch", "1", "--max-steps", "1", "--logdir", str(tmp_path / "logs")]
    assert finetuning.main([*data, *quick, "--from_pretrained", str(tmp_path / "model")]).name == "refcoco+_model"


def test_a_file_that_changed_since_the_first_fetch_is_refused(registry, refused, server, files, tmp_path, cache):
    path = registry()
    run("fetch", "tiny", "--registry", path)
    first = hashlib.sha256((files / "tuned.bin").read_bytes()).hexdigest()
    assert json_of(cache / "fetched.json")["checksums"][f"{server.url}/weights"]["sha256"] == first
    registry("pretrained.bin", task=None)
    said = refused("fetch", "tiny", "--registry", path, "--to", tmp_path / "again")
    assert "another file: it has " in said and f"the record of its first fetch ({cache / 'fetched.json'}) says" in said
    assert not (tmp_path / "again").exists() and not (tmp_path / ".again.fetching").exists()
    registry()
    run("fetch", "tiny", "--registry", path, "--to", tmp_path / "again")


def test_a_model_that_was_changed_here_is_refused(registry, refused, cache):
    path = registry()
    run("fetch", "tiny", "--registry", path)
    with (cache / "tiny" / "pytorch_model_best.bin").open("r+b") as file:
        file.write(b"X")
    assert "not what was written" in refused("fetch", "tiny", "--registry", path)


@pytest.mark.parametrize(
    ("known", "told"),
    [({"sha256": "0" * 64}, f"and the registry says {'0' * 64}"), ({"bytes": 5}, "and the registry says 5")],
)
def test_weights_that_are_not_what_the_registry_says_are_refused(registry, refused, known, told, tmp_path, cache):
    said = refused("fetch", "tiny", "--registry", registry(weights=known), "--to", tmp_path / "model")
    assert told in said
    assert not (tmp_path / "model").exists() and not (tmp_path / ".model.fetching").exists()


def test_weights_of_another_model_are_refused_and_not_remembered(registry, refused, server, files, tmp_path, cache):
    path = registry("other.bin", task=None)
    said = refused("fetch", "tiny", "--registry", path)
    assert f"{server.url}/weights: refused: what was fetched " in said and "so that it is no " in said
    assert "no head of TASK10" in refused("fetch", "tiny", "--registry", registry("pretrained.bin"))
    server.files["/weights"] = b"no weights at all"
    refused("fetch", "tiny", "--registry", path)
    assert not (cache / "fetched.json").exists() and not (cache / "tiny").exists()
    run("fetch", "tiny", "--registry", registry())
    assert (cache / "tiny" / "config.json").exists()


def test_a_folder_that_is_something_else_is_not_touched(registry, refused, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    said = refused("fetch", "tiny", "--registry", registry(), "--to", tmp_path / "mine")
    assert "is there already, and was not fetched as tiny" in said
    assert [each.name for each in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_a_folder_of_another_entry_or_of_other_answers_is_not_taken_for_this_one(of_the_hub, refused, world, tmp_path):
    entries = yaml.safe_load(of_the_hub.read_text())
    of_the_hub.write_text(yaml.safe_dump(entries | {"other": entries["lxmert"]}))
    fetch = ("fetch", "lxmert", "--registry", of_the_hub, "--to", tmp_path / "m")
    run(*fetch, "--answers-of", world.path / "datasets/vqa/annotations")
    assert "was not fetched as other" in refused("fetch", "other", *fetch[2:])
    assert "was not fetched as lxmert" in refused(*fetch)


def test_without_a_network_it_is_one_line(registry, refused, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/weights"
    path = registry(weights={"addresses": [closed, closed]})
    said = refused("fetch", "tiny", "--registry", path, "--to", tmp_path / "model")
    assert said.count("cannot be reached (Connection refused)") == 2
    assert not (tmp_path / "model").exists()


def test_a_killed_fetch_goes_on(registry, server, files, tmp_path):
    path, total = registry(), (files / "tuned.bin").stat().st_size
    server.stop_after, server.hold = total // 2, True
    command = [sys.executable, "-m", "volta_switch", "weights", "fetch", "tiny", "--registry", str(path)]
    process = subprocess.Popen([*command, "--to", str(tmp_path / "model"), "--timeout", "60"])
    assert server.held.wait(60)
    part = tmp_path / ".model.fetching" / "pytorch_model_best.bin.unfinished"
    while not part.exists() or part.stat().st_size < total // 2:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "model").exists()
    run("fetch", "tiny", "--registry", path, "--to", tmp_path / "model")
    assert server.asked == [("/weights", ""), ("/weights", f"bytes={total // 2}-")] and server.sent["/weights"] == total
    assert not (tmp_path / ".model.fetching").exists()


def test_a_fetch_that_was_killed_before_the_model_was_written_fetches_nothing_again(registry, server, files, tmp_path):
    path, work = registry(), tmp_path / ".model.fetching"
    (work / "model").mkdir(parents=True)
    (work / "model" / "vocab.txt").write_text("half of one")
    shutil.copyfile(files / "tuned.bin", work / "pytorch_model_best.bin")
    run("fetch", "tiny", "--registry", path, "--to", tmp_path / "model")
    assert (
        not server.asked and not work.exists() and load_config(tmp_path / "model").bert_model == str(tmp_path / "model")
    )
    assert (tmp_path / "model" / "vocab.txt").read_text() != "half of one"


def test_weights_in_an_archive_are_taken_out_of_it(registry, server, files, tmp_path, refused):
    import zipfile

    def archive(*names):
        with zipfile.ZipFile(tmp_path / "archive.zip", "w") as zipped:
            for name in names:
                zipped.write(files / "tuned.bin", name)
        server.files["/weights"] = (tmp_path / "archive.zip").read_bytes()

    path = registry(weights={"member": "seed1/model.bin"})
    archive("seed1/model.bin", "../../evil.bin")
    assert "leads out of its folder" in refused("fetch", "tiny", "--registry", path, "--to", tmp_path / "model")
    assert not (tmp_path / "model").exists() and not list(tmp_path.rglob("evil.bin"))
    archive("seed0/model.bin", "seed1/model.bin")
    run("fetch", "tiny", "--registry", path, "--to", tmp_path / "model")
    assert (tmp_path / "model/pytorch_model_best.bin").read_bytes() == (files / "tuned.bin").read_bytes()
    assert not (tmp_path / "model/archive").exists()


# --- The hub's ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lxmert(world, tmp_path_factory):
    return tiny_lxmert(world, tmp_path_factory.mktemp("lxmert"))


@pytest.fixture
def of_the_hub(lxmert, registry, monkeypatch, tmp_path, server):
    """A registry whose entry is an LXMERT of the hub with a head of answers, as the hub's library has cached it."""
    hub_of_one_model("tiny/lxmert", lxmert, tmp_path / "hub", monkeypatch)
    path = registry(task=None)
    (entry,) = yaml.safe_load(path.read_text()).values()
    server.files["/answers"] = (lxmert / "labels.json").read_bytes()
    score = {"task": "VQA", "metric": "vqa_score", "value": 50.0, "source": PAGE, "runs": "one run"}
    entry |= {"layout": "lxmert", "config": None, "scores": [score]}
    entry["weights"] = {"hub": "tiny/lxmert", "file": "model.safetensors", "source": PAGE}
    entry["answers"] = {"task": "TASK1", "addresses": [f"{server.url}/answers"], "source": PAGE}
    path.write_text(yaml.safe_dump({"lxmert": entry}))
    return path


def test_another_layout_is_imported(of_the_hub, lxmert, tmp_path, capsys, cache):
    run("fetch", "lxmert", "--registry", of_the_hub, "--to", tmp_path / "model")
    said = capsys.readouterr().out
    assert "LXMERT (Hugging Face's layout)" in said and "lxmert is here" in said
    assert load_config(tmp_path / "model").fusion_act == "tanh"
    assert (tmp_path / "model/vocab.txt").read_bytes() == (lxmert / "vocab.txt").read_bytes()
    assert "hf://tiny/lxmert/model.safetensors" in json_of(cache / "fetched.json")["checksums"]


def test_a_head_of_answers_is_brought_into_the_order_of_the_data_and_verified(of_the_hub, world, tmp_path, capsys):
    data = ["--tasks_config_file", world.tasks_file, "--task", "TASK1", "--split", "val", "--output_dir", tmp_path]
    run("verify", "lxmert", "--registry", of_the_hub, *data)
    said = capsys.readouterr().out
    labels_folder = world.path / "datasets/vqa/annotations"
    labels = load_labels(labels_folder)
    run("fetch", "lxmert", "--registry", of_the_hub, "--to", tmp_path / "m", "--answers-of", labels_folder)
    found = evaluation.main([*map(str, data), "--from_pretrained", str(tmp_path / "m"), "--save_name", "again"])
    run("fetch", "lxmert", "--registry", of_the_hub, "--to", tmp_path / "m", "--answers-of", labels_folder)
    assert f"{found.metrics['vqa_score']:.2f}" in said and "neither: no spread over seeds is published" in said
    assert yaml.safe_load((tmp_path / "m/task.yml").read_text())["TASK1"]["num_labels"] == len(labels)


def test_a_hubs_file_that_is_not_what_is_known_is_refused(of_the_hub, refused, tmp_path):
    entries = yaml.safe_load(of_the_hub.read_text())
    entries["lxmert"]["weights"]["sha256"] = "0" * 64
    of_the_hub.write_text(yaml.safe_dump(entries))
    said = refused("fetch", "lxmert", "--registry", of_the_hub, "--to", tmp_path / "model")
    assert "hf://tiny/lxmert/model.safetensors: refused: " in said and "remove it from the hub's cache" in said


def test_a_bert_stays_in_the_hubs_cache_or_is_copied(of_the_hub, lxmert, tmp_path, capsys):
    entries = yaml.safe_load(of_the_hub.read_text())
    entries["lxmert"] |= {"layout": "bert", "answers": None}
    of_the_hub.write_text(yaml.safe_dump(entries))
    run("fetch", "lxmert", "--registry", of_the_hub)
    assert "next: volta-switch finetune --task TASK1 --from_pretrained tiny/lxmert" in capsys.readouterr().out
    run("fetch", "lxmert", "--registry", of_the_hub, "--to", tmp_path / "bert")
    assert (tmp_path / "bert/model.safetensors").read_bytes() == (lxmert / "model.safetensors").read_bytes()
    assert (tmp_path / "bert/vocab.txt").is_file()
    run("fetch", "lxmert", "--registry", of_the_hub, "--to", tmp_path / "bert")
    assert "was here already" in capsys.readouterr().out


def test_a_hub_that_cannot_be_asked_is_one_line(of_the_hub, refused, tmp_path):
    entries = yaml.safe_load(of_the_hub.read_text())
    entries["lxmert"]["weights"]["hub"] = "nobody/none"
    of_the_hub.write_text(yaml.safe_dump(entries))
    assert "nobody/none: neither" in refused("fetch", "lxmert", "--registry", of_the_hub, "--to", tmp_path / "model")


# --- Verifying ------------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(world, files, tmp_path):
    """The accuracy of the tuned weights on the world's validation split."""
    data = ["--tasks_config_file", str(world.tasks_file), "--task", "10", "--output_dir", str(tmp_path / "before")]
    given = ["--from_pretrained", str(files / "tuned.bin"), "--config_file", str(files / "tiny.json")]
    return evaluation.main([*data, *given]).metrics["accuracy"]


@pytest.fixture
def verify(world, tmp_path, capsys):
    def ask(path, *flags):
        capsys.readouterr()
        data = ["--tasks_config_file", world.tasks_file, "--output_dir", tmp_path / "out", "--overwrite"]
        run("verify", "tiny", "--registry", path, *data, *flags)
        return " ".join(capsys.readouterr().out.split())

    return ask


def score(value, **more):
    return {"task": "refcoco+", "metric": "accuracy", "value": value, "source": PAGE, "runs": "ten seeds", **more}


def test_a_score_is_set_beside_the_published_one(registry, verify, measured, cache):
    above = measured + 5.0
    scores = [
        score(measured + 1, spread={"low": measured - 1, "high": measured + 2}, column="inside"),
        score(above, spread={"low": above - 0.5, "high": above + 0.5}, column="outside of it"),
        score(measured, column="one run"),
        score(measured, split="testA", same_as=["testA"], spread={"low": 0, "high": 100}, column="elsewhere"),
    ]
    said = verify(registry(scores=scores), "--task", "10", "--precision", "fp32", "--volta_compat")
    first = f"inside accuracy {measured:.2f} {measured + 1:.2f} -1.00 {measured - 1:.2f} to {measured + 2:.2f}"
    assert f"{first} not stated within" in said
    assert f"{above - 0.5:.2f} to {above + 0.5:.2f} not stated outside" in said
    assert "one run accuracy" in said and "not stated not stated neither: no spread over seeds is published" in said
    assert "testA not compared: published on another split (testA)" in said
    assert "settings volta_compat on, precision float32, boxes detected" in said
    assert f"source {PAGE} (ten seeds)" in said
    assert "within: between the lowest and the highest score that the page gives" in said
    assert f"weights {cache / 'tiny'}" in said and "note:" not in said


def test_weights_that_are_here_are_verified_without_fetching(registry, verify, measured, files, server, world):
    path = registry(scores=[score(measured)], task=None)
    said = verify(path, "--task", "refcoco+", "--from", files / "tuned.bin")
    assert f"{measured:.2f} {measured:.2f} +0.00" in said and f"weights {files / 'tuned.bin'}" in said
    assert "volta_compat off" in said and "--volta-compat repeats them" in said and not server.asked


def test_another_configuration_than_the_registered_one_is_told(registry, verify, files, world, tmp_path):
    other = write_config(tmp_path / "other.json", world.config("ctrl_uniter", fusion_act="tanh"))
    flags = ("--task", "10", "--from", files / "tuned.bin", "--config_file", other)
    said = verify(registry(scores=[score(50.0)]), *flags)
    assert "note: another configuration than" in said and "fusion_act (relu there, tanh now)" in said


def test_what_cannot_be_compared_is_refused_before_anything_is_fetched(registry, refused, server, world, files):
    data = ("--tasks_config_file", world.tasks_file)
    path = registry(scores=[score(50.0)], task=None)
    assert "--task: name the task" in refused("verify", "tiny", "--registry", path, *data)
    said = refused("verify", "tiny", "--registry", path, *data, "--task", "TASK1")
    assert "no published score on VQA is registered (refcoco+)" in said
    said = refused("verify", "tiny", "--registry", path, *data, "--task", "TASK10")
    assert "has no head of TASK10; its published scores are of models fine-tuned from it" in said
    assert "weights verify tiny --task TASK10 --from RUN" in said
    assert not server.asked


def test_retrieval_is_verified_over_all_pairs(registry, verify, files, world, tmp_path, monkeypatch):
    config = world.config("ctrl_uniter")
    weights = to_volta(world.task_model(world.task("retrieval", config)))
    write_weights(tmp_path / "retrieval.bin", weights)
    both = [score(10.0, task="RetrievalFlickr30k", metric=metric, column=metric) for metric in ("ir_r1", "tr_r1")]
    said = verify(registry(scores=both, task=None), "--task", "8", "--from", tmp_path / "retrieval.bin")
    assert "ir_r1 ir_r1" in said and "tr_r1 tr_r1" in said and said.count("neither: no spread") == 2


def test_a_split_without_answers_says_so():
    entry = load_registry()["volta-ctrl-uniter"]
    of = {"split": "test", "task": "TASK1 (VQA)", "volta_compat": False, "precision": "fp32", "boxes": "detected"}
    with pytest.raises(UserError, match="no vqa_score was measured, for its answers are not here"):
        comparison_text(entry, entry.scores[:1], {"vqa_score": float("nan")}, of, "weights")


def test_seeds_give_the_interval_of_one_more_seed():
    # t of 9 degrees of freedom that 2.5 % exceed, from a table: 2.262
    low, high = interval(Spread(mean=70.0, deviation=0.5, seeds=10))
    half = 2.262 * 0.5 * (1 + 1 / 10) ** 0.5
    assert (low, high) == pytest.approx((70.0 - half, 70.0 + half), abs=1e-3)
    published = Published(
        "VQA", "vqa_score", 70.0, PAGE, "ten seeds", spread=Spread(mean=70.0, deviation=0.5, seeds=10)
    )
    assert verdict(published, low, "val") == verdict(published, high, "val") == "within"
    assert verdict(published, low - 0.01, "val") == verdict(published, high + 0.01, "val") == "outside"
