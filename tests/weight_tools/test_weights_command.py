"""``volta-switch weights``: what it says of a file, and an import that answers the synthetic world's questions."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from golden_files import relative_error
from synthetic_world import json_of
from volta_switch import BertForVLPreTraining, BertForVLTasks, UserError, load_config
from volta_switch.cli import main
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.tasks import DataOptions, build_task, load_task
from volta_switch.tasks.vqa_files import load_labels
from volta_switch.train import evaluation, finetuning
from volta_switch.weight_tools.commands import inspect_text
from volta_switch.weight_tools.importing import import_weights
from volta_switch.weights import read_weights, to_volta, write_weights
from weights.layouts import hugging_face_state

transformers = pytest.importorskip("transformers")

HEADS = 2
SIZES = {"hidden_size": 16, "num_attention_heads": HEADS, "intermediate_size": 32, "max_position_embeddings": 40}
LAYERS = {"l_layers": 2, "r_layers": 1, "x_layers": 2}


@pytest.fixture(scope="module")
def answers(world):
    """The world's answers, in the order of its data."""
    return load_labels(world.path / "datasets/vqa/annotations")


@pytest.fixture(scope="module")
def theirs(world, answers):
    """A model of transformers for the world's questions, with two answers more, in another order."""
    torch.manual_seed(1)
    config = transformers.LxmertConfig(
        **SIZES,
        **LAYERS,
        vocab_size=world.overrides["vocab_size"],
        visual_feat_dim=world.overrides["v_feature_size"],
        num_qa_labels=len(answers) + 2,
    )
    model = transformers.LxmertForQuestionAnswering(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
        model.answer_head.logit_fc[3].bias.zero_()  # else one answer is every question's
    return model


@pytest.fixture(scope="module")
def given(theirs, world, answers, tmp_path_factory):
    """Its folder, with the world's vocabulary, and the file of its answers."""
    folder = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder)
    (folder / "vocab.txt").write_text((world.path / "bert-world" / "vocab.txt").read_text())
    labels = ["none of them", *reversed(answers), "another"]
    (folder / "labels.json").write_text(json.dumps(labels))
    return folder


def run(*arguments):
    """The command in this process; returns its exit code."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as ended:
        return ended.code or 0
    return 0


MASKS = ("input_ids", "attention_mask", "token_type_ids")  # of a batch's inputs, as transformers calls them, too


def answers_alike(world, folder, out, scores, labels, answers):
    """Asserts that an imported model's answers to the world's questions are those of transformers.

    ``scores``: a batch's inputs -> (B, labels) of theirs; ``answers``: those of the data, in their order.
    """
    data_flags = ["--tasks_config_file", str(world.tasks_file), "--output_dir", str(out)]
    found = evaluation.main([*data_flags, "--from_pretrained", str(folder), "--batch_size", "16"])
    rows, expected = [labels.index(answer) for answer in answers], {}
    for batch in world.task("vqa", load_config(folder)).loader("val", 16, training=False):
        with torch.no_grad():
            given = scores(batch.inputs)[:, rows]
        expected |= {name: answers[int(row.argmax())] for name, row in zip(batch.ids, given, strict=True)}
    answered = {str(result["question_id"]): result["answer"] for result in found.results}
    assert answered == expected and len(set(answered.values())) > 2


def test_an_imported_lxmert_answers_the_worlds_questions_as_transformers_does(given, theirs, world, tmp_path, capsys):
    folder, data = tmp_path / "lxmert", world.path / "datasets/vqa/annotations"
    flags = ("--task", "TASK1", "--labels", given / "labels.json", "--answers-of", data)
    assert run("weights", "import", given, folder, *flags) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "weights of LXMERT (Hugging Face's layout)" in said and "poolers tanh" in said
    assert f"next: volta-switch evaluate --from_pretrained {folder}" in said
    assert {path.name for path in folder.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "preprocessor.json",
        "vocab.txt",
        "tokenizer.json",
    }
    assert json_of(folder / "preprocessor.json")["locations"] == 4

    def scores(inputs):
        return theirs(
            **{name: inputs[name] for name in MASKS},
            visual_feats=inputs["image_feat"],
            visual_pos=inputs["image_loc"],
            visual_attention_mask=inputs["image_attention_mask"],
        ).question_answering_score

    answers_alike(world, folder, tmp_path, scores, json_of(given / "labels.json"), load_labels(data))


def test_an_imported_visual_bert_answers_the_worlds_questions_as_transformers_does(world, answers, tmp_path, capsys):
    torch.manual_seed(4)
    labels = [*reversed(answers), "another"]
    sizes = {"vocab_size": world.overrides["vocab_size"], "visual_embedding_dim": world.overrides["v_feature_size"]}
    config = transformers.VisualBertConfig(**SIZES, **sizes, num_hidden_layers=2, num_labels=len(labels))
    theirs = transformers.VisualBertForQuestionAnswering(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
        theirs.cls.bias.zero_()
    source, folder, data = tmp_path / "theirs", tmp_path / "visualbert", world.path / "datasets/vqa/annotations"
    theirs.save_pretrained(source)
    (source / "vocab.txt").write_text((world.path / "bert-world" / "vocab.txt").read_text())
    (source / "labels.json").write_text(json.dumps(labels))
    flags = ("--task", "TASK1", "--labels", source / "labels.json", "--answers-of", data)
    assert run("weights", "import", source, folder, *flags) == 0
    assert "left out pooler.dense: the answers' head does not read it" in " ".join(capsys.readouterr().out.split())

    def scores(inputs):
        return theirs(
            **{name: inputs[name] for name in MASKS},
            visual_embeds=inputs["image_feat"],
            visual_attention_mask=inputs["image_attention_mask"],
        ).logits

    answers_alike(world, folder, tmp_path, scores, labels, answers)


@pytest.fixture
def judging(world, tmp_path):
    """A model of transformers for the world's statements about two images, and its import."""
    torch.manual_seed(6)
    sizes = {"vocab_size": world.overrides["vocab_size"], "visual_embedding_dim": world.overrides["v_feature_size"]}
    theirs = transformers.VisualBertForVisualReasoning(
        transformers.VisualBertConfig(**SIZES, **sizes, num_hidden_layers=2, num_labels=2)
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    source, folder = tmp_path / "theirs", tmp_path / "visualbert"
    theirs.save_pretrained(source)
    (source / "vocab.txt").write_text((world.path / "bert-world" / "vocab.txt").read_text())
    (source / "labels.json").write_text(json.dumps(["false", "true"]))
    assert run("weights", "import", source, folder, "--task", "TASK12", "--labels", source / "labels.json") == 0
    return theirs, folder


def test_an_imported_visual_bert_judges_the_worlds_pairs_as_transformers_does(judging, world, tmp_path, capsys):
    theirs, folder = judging
    data_flags = ["--tasks_config_file", str(world.tasks_file), "--output_dir", str(tmp_path), "--batch_size", "16"]
    split = ["--split", "dev", "--from_pretrained", str(folder)]
    found = evaluation.main([*data_flags, *split])
    config, spec = load_config(folder), load_task(world.tasks_file, "NLVR2")
    task = build_task(spec, config, Tokenizer(config.bert_model), DataOptions())
    model = BertForVLTasks.from_pretrained(folder)
    dataset, expected, asked = task.dataset("dev", training=False), {}, {}
    for entry in dataset.entries:  # one statement at a time, without padding
        first, second = (dataset._images[image].regions for image in entry.image_ids)
        features = torch.from_numpy(np.concatenate([first.features, second.features])).float()[None]
        types = torch.tensor([[0] * len(first) + [1] * len(second)])
        words = torch.tensor([task.tokenizer.encode(entry.sentence, spec.max_seq_length)])
        with torch.no_grad():
            scores = theirs(input_ids=words, visual_embeds=features, visual_token_type_ids=types).logits[0]
        expected[entry.identifier] = scores
        asked[entry.identifier] = entry.sentence, (first, second)
    answered = {result["identifier"]: result["prediction"] for result in found.results}
    assert answered == {name: int(scores.argmax()) for name, scores in expected.items()}
    assert set(answered.values()) == {0, 1}
    with torch.inference_mode():
        for batch in task.loader("dev", 16, training=False):
            wanted = torch.stack([expected[name] for name in batch.ids])
            assert relative_error(task.scores(model, batch), wanted) < 1e-6
    texts, images = zip(*asked.values(), strict=True)
    said = model.predict(texts, images)
    assert [each.label for each in said] == [("false", "true")[answered[name]] for name in asked]
    assert found.metrics["accuracy"] == pytest.approx(
        100 * np.mean([answered[entry.identifier] == entry.label for entry in dataset.entries])
    )


def test_an_imported_visual_bert_learns_from_pairs_and_is_read_again(judging, world, tmp_path):
    _, folder = judging
    flags = ["--tasks_config_file", str(world.tasks_file), "--output_dir", str(tmp_path / "out"), "--in_memory"]
    flags += ["--logdir", str(tmp_path / "logs"), "--task", "NLVR2", "--num_epoch", "1", "--batch_size", "40"]
    trained = finetuning.main([*flags, "--from_pretrained", str(folder)])
    before, after = (BertForVLTasks.from_pretrained(each) for each in (folder, trained))
    assert after.config.fusion_method == "visualbert_nlvr2" and after.labels("TASK12") == ("false", "true")
    changed = {name for name, weight in after.named_parameters() if not torch.equal(weight, before.get_parameter(name))}
    assert {"clfs_dict.TASK12.weight", "bert.embeddings.token_type_embeddings_visual.weight"} <= changed
    flags = ["--tasks_config_file", str(world.tasks_file), "--output_dir", str(tmp_path / "tested"), "--split", "dev"]
    found = evaluation.main([*flags, "--from_pretrained", str(trained)])
    after.save_pretrained(tmp_path / "saved")
    again = evaluation.main([*flags, "--overwrite", "--from_pretrained", str(tmp_path / "saved")])
    assert found.metrics == again.metrics and found.results == again.results
    attended = tmp_path / "routes.json"
    about = ["--from_pretrained", trained, "--split", "dev", "--tasks_config_file", world.tasks_file]
    assert run("routes", *about, "--attention", "--samples", 20, "--out", attended) == 0
    assert json_of(attended)["intervals"]["attention"]


def test_inspect_of_a_models_folder_says_what_it_is(given, answers, tmp_path, capsys):
    folder = tmp_path / "lxmert"
    assert run("weights", "import", given, folder, "--task", "TASK1", "--labels", given / "labels.json") == 0
    capsys.readouterr()
    assert run("weights", "inspect", folder) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "weights of a run, this project's or VOLTA's sublayers 10" in said and "clfs_dict.TASK1" in said
    assert "architecture lxmert, 6 attention sublayers, 16 and 16 wide fusion text, tanh" in said
    assert f"task TASK1, type: VL-classifier, num_labels: {len(answers) + 2}" in said
    assert f"answers of TASK1 {len(answers) + 2}: none of them, {answers[-1]}" in said and ", ... regions: " in said
    assert "regions: regions 36 boxes of the Visual Genome Faster R-CNN" in said
    assert "regions: locations 4" in said and "regions: global_region none" in said


def test_inspect_says_what_an_import_would_do_and_writes_nothing(given, tmp_path, capsys):
    before = sorted(path.name for path in given.iterdir())
    assert run("weights", "inspect", given) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "left out answer_head.logit_fc.0" in said and "--task TASK1 keeps them" in said
    assert sorted(path.name for path in given.iterdir()) == before


def test_inspect_knows_runs_and_berts(world, tmp_path):
    model = BertForVLPreTraining(world.config("ctrl_uniter"))
    write_weights(tmp_path / "run.bin", to_volta(model))
    said = " ".join(inspect_text(tmp_path / "run.bin").split())
    counts = [int(count.replace(",", "")) for count in re.findall(r"([\d,]+) numbers", said)]
    assert sum(counts) == sum(parameter.numel() for parameter in model.parameters())  # shared ones once
    assert "weights of a run, this project's or VOLTA's" in said and "cls.predictions" in said
    (tmp_path / "run").mkdir()
    write_weights(tmp_path / "run" / "pytorch_model_best.bin", read_weights(tmp_path / "run.bin"))
    assert inspect_text(tmp_path / "run").split() == inspect_text(tmp_path / "run.bin").split()
    torch.save(hugging_face_state(), tmp_path / "pytorch_model.bin")
    bert = " ".join(inspect_text(tmp_path).split())
    assert "weights of a BERT layers 3" in bert
    torch.save({"some.weight": torch.zeros(2)}, tmp_path / "other.bin")
    with pytest.raises(UserError, match="neither a run's weights nor a BERT's, nor of a layout that is known"):
        inspect_text(tmp_path / "other.bin")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--task", "TASK1"), "--task and --labels: give both, or neither"),
        (("--format", "uniter"), "--format uniter: these are weights of LXMERT"),
        (("--set", "fusion_act=sine"), "--set fusion_act=sine: "),
        (("--set", "hidden_size=48"), "--set hidden_size=48: "),
        (("--set", "vocab_size=9"), "does --set contradict the weights?"),
        (("--set", "num_attention_heads=" + "9" * 5000), "num_attention_heads"),
        (("--answers-of", "."), "and --answers-of with them alone"),
        (("--task", "TASK1/../x", "--labels", "short.json"), "expected TASK and a number"),
        (("--task", "a.b", "--labels", "short.json"), "expected TASK and a number"),
        (("--task", "TASK 1", "--labels", "short.json"), "expected TASK and a number"),
        (("--task", "TASK1", "--labels", "not there.json"), "give a JSON list of the head's answers"),
        (("--task", "TASK1", "--labels", "short.json"), "answers, and 1 were given; --labels FILE names them"),
        (("--task", "TASK1", "--labels", "twice.json"), "an answer stands twice in --labels"),
        (("--task", "TASK1", "--labels", "none.json"), "expected a JSON list of answers"),
    ],
)
def test_a_refused_import_is_one_line_and_writes_nothing(flags, told, given, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    count = len(json_of(given / "labels.json"))
    Path("short.json").write_text('["yes"]')
    Path("twice.json").write_text(json.dumps(["yes"] * count))
    Path("none.json").write_text('{"yes": 1}')
    assert run("weights", "import", given, tmp_path / "to", *flags) == 2
    said = capsys.readouterr().err
    assert told in said and len(said.splitlines()) == 1 and not (tmp_path / "to").exists()


def test_an_answer_of_the_data_that_the_head_lacks_is_named(given, world, tmp_path):
    labels = json_of(given / "labels.json")
    lacking = [*labels[:3], "instead", *labels[4:]]
    with pytest.raises(UserError, match=f"its head has no answer {labels[3]}, which the task's data have"):
        import_weights(given, task="TASK1", labels=lacking, wanted=load_labels(world.path / "datasets/vqa/annotations"))


def test_a_folder_that_is_there_is_left_alone(given, tmp_path, capsys):
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "mine.txt").write_text("mine")
    assert run("weights", "import", given, tmp_path / "to") == 2
    assert "is there already; give another folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["mine.txt"]


def test_the_same_file_gives_the_same_weights(tmp_path):
    torch.manual_seed(2)
    sizes = {**SIZES, "vocab_size": 31, "num_hidden_layers": 2, "visual_embedding_dim": 8}
    transformers.VisualBertForPreTraining(transformers.VisualBertConfig(**sizes)).save_pretrained(tmp_path / "from")
    for number in (1, 2):
        torch.manual_seed(number)
        assert run("weights", "import", tmp_path / "from", tmp_path / f"to{number}") == 0
    one, two = (read_weights(tmp_path / f"to{number}" / "model.safetensors") for number in (1, 2))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# --- The files of other projects, as they are met ---------------------------------------------------------------------

CASES = {
    "bert_hf.bin": "these are a BERT's weights", "bert_gamma_beta.bin": "these are a BERT's weights",
    "bert_bare.bin": "these are a BERT's weights", "bert_module.bin": "these are a BERT's weights",
    "bert_position_ids.bin": "these are a BERT's weights",
    "uniter-base.pt": "UNITER or VILLA: region_classifier.net.2", "uniter_bert_prefix.pt": "UNITER or VILLA: region",
    "model_LXRT.pth": "LXMERT (its own layout): ", "Epoch20_LXRT_module.pth": "LXMERT (its own layout): ",
    "hf_lxmert.bin": "LXMERT (Hugging Face's layout): ", "vilbert_pretrained.bin": "ViLBERT or 12-in-1: ",
    "multi_task_model_12in1.bin": "ViLBERT or 12-in-1: ", "vl-bert-base-e2e.model": "weights of VL-BERT",
    "hf_visualbert.bin": "", "ucla_visualbert.th": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """A folder with such files, by the script that ``CHECKPOINT_CASES`` names: it writes them into ``$OUT``."""
    maker = os.environ.get("CHECKPOINT_CASES", "")
    if not maker:
        pytest.skip("CHECKPOINT_CASES is not set: a script that writes other projects' checkpoints into $OUT")
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, maker], env={**os.environ, "OUT": str(folder)}, check=True)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_cases_of_other_projects_are_imported_or_refused_by_their_layout(name, cases):
    sets = ["num_attention_heads=4", "v_num_attention_heads=4"]
    if not CASES[name]:
        assert import_weights(cases / name, overrides=sets).layout.name == "visualbert"
        return
    with pytest.raises(UserError) as caught:
        import_weights(cases / name, overrides=sets)
    assert CASES[name] in str(caught.value)


def test_all_cases_are_named_here(cases):
    assert {path.name for path in cases.iterdir()} == set(CASES)
