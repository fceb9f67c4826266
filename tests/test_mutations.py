"""Whatever is changed in a file, a command gives the right result, or one line and exit code 2.

Files that this project writes carry checksums: no change of them gives another result. Of files of others and of those
that people write, a change that leaves a valid file may give another result, and is counted apart.

``MUTATIONS=2000 pytest -s --include long tests/test_mutations.py`` draws more than the suite does, and prints the
counts.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from mutations import Place, mutate
from synthetic_world import ENTRY_POINTS, SIZES, TASKS, SyntheticWorld
from volta_switch import BertForVLTasks, cli
from volta_switch.checksums import SUMS
from volta_switch.command import run_command
from volta_switch.data_tools.repack import repack, shard
from volta_switch.files import remove
from volta_switch.weights import to_volta, write_weights

COUNT = int(os.environ.get("MUTATIONS", "0"))  # of the long form
PARTS = 4  # of the long form, for as many processes
SEED = 17
MODEL = "ctrl_uniter"
RIGHT, REFUSED, ANOTHER = "right", "refused", "another result"


@dataclass
class Target:
    """Files that may be mutated, and the command that reads them."""

    place: Place
    files: Callable[[Path], bool]  # of the place's, those that are mutated
    command: Callable[[], Any]  # runs it, and returns its result
    ours: bool = True  # the files have checksums
    weight: int = 1  # how often it is drawn
    right: Any = None

    def outcome(self) -> str:
        """What the command does with the files as they are now.

        Raises:
            AssertionError: it ended in another way than it may.
        """
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                result = self.command()
        except SystemExit as ended:
            lines = said.getvalue().rstrip("\n").splitlines()
            last = next((line for line in reversed(lines) if not line.startswith("  ")), "")
            assert ended.code == 2, f"exit code {ended.code}: {said.getvalue()[-2000:]}"
            assert last.startswith("error: ") and "Traceback" not in said.getvalue(), said.getvalue()[-2000:]
            return REFUSED
        except Exception:
            raise AssertionError(traceback.format_exc(limit=-6)) from None
        if self.right is None:
            self.right = result
        return RIGHT if result == self.right else ANOTHER


def run(entry: Callable[[Any], Any], argv: list[Any]) -> None:
    """A command as it is typed, in this process."""
    run_command(entry, [str(argument) for argument in argv])


def json_in(folder: Path, *names: str) -> Any:
    """What results hold, but for what says where they are from."""
    found = {path.name: json.loads(path.read_text()) for name in names for path in sorted(folder.rglob(name))}
    assert found
    for value in found.values():
        if isinstance(value, dict):
            for key in ("of", "weights", "start"):
                value.pop(key, None)
    return found


@dataclass
class Made:
    """What the targets read, made once."""

    folder: Path
    world: SyntheticWorld

    def weights(self, task: str) -> Path:
        """Random weights with a task's head."""
        path = self.folder / "weights" / f"{task}.bin"
        if not path.exists():
            made = self.world.task(task, self.world.config(MODEL))
            model = BertForVLTasks(made.config, {made.spec.key: made.spec.head()})
            write_weights(path, to_volta(model))
        return path

    def evaluation(
        self, world: SyntheticWorld, task: str, *flags: Any, weights: Path | None = None
    ) -> Callable[[], Any]:
        """A task's evaluation, into a folder of its own that is there for nobody else."""
        out = self.folder / "out" / task
        entry = "eval_retrieval" if task == "retrieval" else "eval_task"
        split = "val" if task == "vqa" else "test"
        argv = [*world.flags(entry, out, MODEL, task), "--split", split, "--batch_size", 64, "--overwrite"]
        argv += ["--from_pretrained", weights or self.weights(task), *flags]

        def command() -> Any:
            remove(out)
            run(ENTRY_POINTS[entry], argv)
            return json_in(out, "*_metrics.json", "*_result.json")

        return command


@pytest.fixture(scope="module")
def made(world, tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("mutations")
    shutil.copytree(world.path, folder / "world")
    return Made(folder, SyntheticWorld(folder / "world"))


@pytest.fixture(scope="module")
def targets(made) -> dict[str, Target]:
    """Each kind of file, by its name."""
    return {**data_targets(made), **run_targets(made), **settings_targets(made)}


def data_targets(made: Made) -> dict[str, Target]:
    """Data: a world with its checksums, the same as data of others, stores and shards."""
    (made.folder / "others").mkdir()
    for task in TASKS:
        made.weights(task)
    foreign = SyntheticWorld(made.folder / "others" / "world")
    shutil.copytree(made.world.path, foreign.path, ignore=shutil.ignore_patterns(SUMS))
    found = {}
    own_place, foreign_place = Place(made.world.path), Place(foreign.path)
    for task, part in (("refer", "refcoco+_unc"), ("vqa", "vqa"), ("retrieval", "flickr30k")):
        for world, place, ours in ((made.world, own_place, True), (foreign, foreign_place, False)):

            def read(path: Path, part: str = part, ours: bool = ours) -> bool:
                own = f"/{part}/" in str(path) or path.name in ("vocab.txt", "trainval_feat.lmdb")
                return own or (ours and path.name in ("world.json", SUMS))

            name = f"{'world' if ours else 'data of others'}: {task}"
            weight = 1 if task == "retrieval" else 3
            found[name] = Target(place, read, made.evaluation(world, task), ours, weight)
    features = made.world.path / "datasets/refcoco+_unc/resnet101_faster_rcnn_genome_imgfeats/volta"
    store = made.folder / "store"
    repack([features / "refcoco+_unc_dets36_feat.lmdb"], store / "refer")
    reads = made.evaluation(made.world, "refer", "--val_features_lmdbpath", store / "refer")
    found["compact store"] = Target(Place(store), lambda path: True, reads, weight=3)
    pairs = made.folder / "pairs"
    volta = made.world.captions / "resnet101_faster_rcnn_genome_imgfeats" / "volta"
    for split, name in (("train", "training_feat_all.lmdb"), ("valid", "validation_feat_all.lmdb")):
        shard([volta / name], pairs, split, shard_size=20_000)  # type: ignore[arg-type]
    found["shards"] = Target(Place(pairs), lambda path: True, pretraining(made, pairs), weight=1)
    return found


def pretraining(made: Made, features: Path) -> Callable[[], Any]:
    out = made.folder / "out" / "pairs"
    argv = [*made.world.flags("train_concap", out, MODEL), "--features_path", features, "--overwrite"]
    argv += ["--train_batch_size", 10, "--num_train_epochs", 1]

    def command() -> Any:
        remove(out)
        run(ENTRY_POINTS["train_concap"], argv)
        return json_in(out, "metrics.json")

    return command


def run_targets(made: Made) -> dict[str, Target]:
    """Runs: weights with and without a checksum, what a run goes on from, a study's folder, parts of scores."""
    found = {}
    out = made.folder / "runs"
    train = [*made.world.flags("train_task", out, MODEL, "refer"), "--num_epoch", 1, "--batch_size", 40]
    run(ENTRY_POINTS["train_task"], train)
    folder = out / f"refcoco+_{MODEL}"
    best = folder / "pytorch_model_best.bin"
    place = Place(out)
    evaluate = made.evaluation(made.world, "refer", "--config_file", folder / "config.json", weights=best)
    found["run's weights and configuration"] = Target(
        place, lambda path: path.name in (best.name, "config.json", SUMS), evaluate, weight=3
    )

    def resume() -> Any:
        run(ENTRY_POINTS["train_task"], [*train, "--resume"])
        return {"weights": best.read_bytes(), **json_in(folder, "metrics.json")}

    found["run's checkpoint and log"] = Target(
        place, lambda path: "step-" in str(path) or path.name in ("log.jsonl", "metrics.json", SUMS), resume, weight=3
    )
    foreign = made.folder / "others" / "weights"
    foreign.mkdir()
    shutil.copy(made.weights("refer"), foreign / "refer.bin")
    reads = made.evaluation(made.world, "refer", weights=foreign / "refer.bin")
    found["weights of others"] = Target(Place(foreign), lambda path: True, reads, ours=False, weight=3)
    found["study's folder"] = study_target(made)
    found["parts of scores"] = scores_target(made)
    return found


def study_target(made: Made) -> Target:
    """A finished study of one small Switch-BERT, read by ``study table``."""
    root = made.folder / "study"
    root.mkdir()
    spec = json.loads((made.world.path / "world.json").read_text())["spec"]
    fields = {**made.world.overrides, **SIZES, "switch.hidden_size": 8}
    plan = {
        "name": "small",
        "world": {name: spec[name] for name in ("seed", "images", "eval_images", "render")},
        "models": ["demo/switchbert"],
        "set": [f"{key}={value}" for key, value in fields.items() if key not in ("bert_model", "vocab_size")],
        "tasks": {"TASK10": {"train": {"num_epoch": 1, "batch_size": 40}, "test": {"split": "test"}}},
        "routes": {"arms": ["switchbert"]},
    }
    (root / "plan.yaml").write_text(yaml.safe_dump(plan))
    out = root / "out"
    with one_process():
        run(cli._run, ["study", "run", root / "plan.yaml", "--out", out, "--jobs", 1])
    remove(out / "world" / "datasets" / "vqa")  # of data sets that nobody here reads
    place = Place(out)

    def table() -> Any:
        run(cli._run, ["study", "table", root / "plan.yaml", "--out", out])
        found = {path.name: path.read_text() for path in (out / "table.md", out / "table.json", out / "report.html")}
        return {name: re.sub(r"\d\d:\d\d UTC", "", text) for name, text in found.items()}  # when the table was made

    def read(path: Path) -> bool:
        return path.suffix in (".json", ".jsonl", ".p", SUMS[-5:]) and "step-" not in str(path)

    return Target(place, read, table, weight=4)


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """Runs a study's cells in this process."""
    from study.conftest import InThisProcess

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("volta_switch.study.run.ProcessPoolExecutor", InThisProcess)
        yield


def scores_target(made: Made) -> Target:
    """Retrieval's finished parts: one shard of two is done, and the whole command goes on."""
    root = made.folder / "scores"
    argv = [*made.world.flags("eval_retrieval", root, MODEL, "retrieval"), "--split", "test", "--batch_size", 64]
    argv += ["--from_pretrained", made.weights("retrieval")]
    run(ENTRY_POINTS["eval_retrieval"], [*argv, "--shard", "1/2"])
    place = Place(root)

    def command() -> Any:
        run(ENTRY_POINTS["eval_retrieval"], argv)
        return json_in(root, "test_metrics.json", "test_result.json", "test_ranks.json")

    return Target(place, lambda path: path.suffix in (".npy", ".json"), command)


def settings_targets(made: Made) -> dict[str, Target]:
    """What people write: a configuration, a task file, a study."""
    root = made.folder / "settings"
    (root / "world").mkdir(parents=True)
    config = root / "mine.json"
    config.write_text(json.dumps(made.world.config(MODEL).to_dict(), indent=2))
    tasks = root / "tasks.yml"
    shutil.copy(made.world.tasks_file, tasks)
    study = root / "study.yaml"
    shutil.copy(made.folder / "study" / "plan.yaml", study)
    place = Place(root)
    argv = ["study", "run", study, "--out", root / "nothing", "--dry-run"]

    def planned() -> Any:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            run(cli._run, argv)
        return said.getvalue()

    configured = made.evaluation(made.world, "refer", "--config_file", config)
    tasked = made.evaluation(made.world, "refer", "--tasks_config_file", tasks, "--data_root", made.world.path)
    return {
        "configuration": Target(place, lambda path: path == config, configured, ours=False, weight=4),
        "task file": Target(place, lambda path: path == tasks, tasked, ours=False, weight=4),
        "study": Target(place, lambda path: path == study, planned, ours=False, weight=4),
    }


def campaign(targets: dict[str, Target], count: int, seed: int, start: int = 0) -> Counter[tuple[str, str]]:
    """Mutates so many files, each alone; how often each kind had which outcome.

    Asserts that the outcome is the right result, or one line and exit code 2; for files of others, another result.
    """
    outcomes: Counter[tuple[str, str]] = Counter()
    failures = []
    names = [name for name, target in targets.items() for _ in range(target.weight)]
    for target in targets.values():
        assert target.outcome() == RIGHT  # the first one says what is right
        target.place.restore()
        assert count < 100 or target.outcome() == RIGHT  # it says so again
        target.place.restore()
    for number in range(start, start + count):
        rng = Random(f"{seed} {number}")
        name = names[number % len(names)]
        target = targets[name]
        files = [path for path in target.place.files() if target.files(path)]
        how = ""
        while not how:
            path = rng.choice(files)
            how = mutate(rng, path, [other for other in files if other != path])
        what = f"{name}: number {number} of seed {seed}, {how} of {path.relative_to(target.place.root)}"
        try:
            outcome = target.outcome()
            assert outcome != ANOTHER or not target.ours, "exit code 0 with another result"
        except AssertionError as error:
            outcome = "failed"
            failures.append(f"{what}: {error}")
        outcomes[name, outcome] += 1
        target.place.restore()
    assert not failures, f"{len(failures)} of {count} ({dict(outcomes)}):\n" + "\n\n".join(failures)
    return outcomes


def test_a_mutated_file_gives_the_right_result_or_one_line(targets):
    outcomes = campaign(targets, 38, SEED)
    assert outcomes.total() == 38


@pytest.mark.parametrize("instead", ["nothing", "a folder"])
def test_a_studys_annotations_that_are_gone_are_not_taken_for_items_that_cannot_be_told(targets, instead):
    target = targets["study's folder"]
    annotations = [path for path in target.place.files() if target.files(path) and path.suffix == ".p"]
    assert target.outcome() == RIGHT
    outcomes = {}
    for path in annotations:
        path.rename(path.with_suffix(".away"))
        if instead == "a folder":
            path.mkdir()
        outcomes[path.relative_to(target.place.root)] = target.outcome()
        target.place.restore()
    assert {path: outcome for path, outcome in outcomes.items() if "refcoco+_unc" in path.parts} == {
        path: REFUSED for path in outcomes if "refcoco+_unc" in path.parts
    }
    assert set(outcomes.values()) == {RIGHT, REFUSED}  # of data sets that the table does not read nothing is refused


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_many_mutated_files_give_the_right_result_or_one_line(targets, part):
    outcomes = campaign(targets, COUNT // PARTS or 50, SEED, start=10_000 * (part + 1))
    for name in targets:
        print(f"{name}:", *(f"{outcome}: {outcomes[name, outcome]}" for outcome in (RIGHT, REFUSED, ANOTHER)), sep="; ")
    print(
        f"part {part + 1} of {PARTS}:",
        {outcome: sum(outcomes[name, outcome] for name in targets) for outcome in (RIGHT, REFUSED, ANOTHER)},
    )


@pytest.mark.long
def test_the_campaign_notices_a_program_that_compares_nothing(targets, monkeypatch):
    """Its assertions can fail."""
    monkeypatch.setattr("volta_switch.checksums._listed", lambda path: None)
    own = {name: target for name, target in targets.items() if name.startswith(("world", "study's"))}
    with pytest.raises(AssertionError, match="exit code 0 with another result"):
        campaign(own, 90, SEED)
