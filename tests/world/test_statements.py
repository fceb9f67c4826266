"""NLVR2's statements are read word by word and checked against the scenes; then the files that hold them."""

import json
import re
from collections import Counter, defaultdict

import pytest
import yaml
from small_truth import ALIKE, found, matches

from volta_switch.data.feature_files import open_features
from volta_switch.world import write_world
from volta_switch.world.balance import statement_priors
from volta_switch.world.content import draw_world
from volta_switch.world.phrases import Phrase
from volta_switch.world.spec import WorldSpec
from volta_switch.world.statements import FORMS, RIGHT, Statement

NLVR2 = "datasets/nlvr2"
FEATURES = f"{NLVR2}/resnet101_faster_rcnn_genome_imgfeats/volta/nlvr2_feat.lmdb"
SPLITS = {"train": "train", "dev": "val", "test": "test"}


def true_label(sentence, left, right):
    """Whether the sentence is true of the two scenes; fails where it presupposes what is not there."""
    if parts := re.fullmatch("there is (.*) left and (.*) right", sentence):
        return bool(found(left, parts[1]) and found(right, parts[2]))
    if parts := re.fullmatch("both images are of (.*)", sentence):
        return bool(found(left, parts[1]) and found(right, parts[1]))
    if parts := re.fullmatch("there are many (.*) (left compared to right|right compared to left)", sentence):
        numbers = len(found(left, parts[1])), len(found(right, parts[1]))
        return numbers[0] > numbers[1] if parts[2].startswith("left") else numbers[1] > numbers[0]
    parts = re.fullmatch("left (.*) is (.* like) right (.*)", sentence)
    (one,), (other,) = found(left, parts[1]), found(right, parts[3])
    attribute = ALIKE[parts[2]]
    return left.objects[one][attribute] == right.objects[other][attribute]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("worlds") / "world"
    write_world(out, images=42, eval_images=20, render=False, data_sets=["nlvr2"])
    return out


def lines(out, name):
    return [json.loads(line) for line in (out / NLVR2 / "annotations" / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_statement_is_true_of_one_pair_of_its_set_and_false_of_the_other(drawn, split):
    assert drawn.nlvr2[split]
    for contrast in drawn.nlvr2[split]:
        for statement, true in contrast.statements:
            labels = [true_label(statement.words(), *pair) for pair in contrast.pairs]
            assert labels == [true == 0, true == 1], statement.words()
            assert labels == [statement.is_true(pair) for pair in contrast.pairs]


def test_every_pair_has_as_many_true_as_false_statements_and_none_twice(drawn):
    for split, contrasts in drawn.nlvr2.items():
        for contrast in contrasts:
            count = 6 if split == "train" else 4
            assert Counter(true for _, true in contrast.statements) == {0: count // 2, 1: count // 2}
            assert len({statement.words() for statement, _ in contrast.statements}) == count


def test_statements_of_all_forms_are_made(drawn):
    shares = Counter(statement.form for contrast in drawn.nlvr2["train"] for statement, _ in contrast.statements)
    assert set(shares) == set(FORMS) and min(shares.values()) > 0.15 * shares.total()


def test_text_or_images_alone_are_worth_nothing_and_one_image_is_not_enough(drawn):
    priors = statement_priors(drawn.nlvr2["train"], drawn.nlvr2["test"])
    assert priors["majority"] == priors["by_statement"] == priors["by_pair"] == 0.5
    assert priors["statements"] == 4 * 2 * 25 and 0.5 < priors["by_one_image"] < 0.8


def test_either_image_is_as_often_the_one_that_makes_a_statement_false(drawn):
    blamed = Counter()
    for contrast in drawn.nlvr2["train"]:
        for statement, true in contrast.statements:
            if statement.form in ("each", "both"):
                seen = [statement.evidence(scene, side) for side, scene in enumerate(contrast.pairs[1 - true])]
                blamed[tuple(seen)] += 1
    assert set(blamed) == {(0, 1), (1, 0)}
    assert 0.35 < blamed[0, 1] / blamed.total() < 0.65


def test_a_likeness_of_objects_that_are_not_there_is_neither_true_nor_false(drawn):
    left, right = drawn.nlvr2["test"][0].pairs[0]
    absent = next(
        Phrase((0, colour, 0, shape)) for colour in range(6) for shape in range(5)
        if not any(matches(left, index, (0, colour, 0, shape)) for index in range(len(left.objects)))
    )  # fmt: skip
    present = Phrase(right.objects[0])
    assert Statement("alike", (absent, present), attribute=1).is_true((left, right)) is None


def test_more_is_not_as_many(drawn):
    scene = drawn.nlvr2["test"][0].pairs[0][0]
    phrase = Phrase((None, None, None, scene.objects[0][3]))
    assert Statement("more", (phrase, phrase)).is_true((scene, scene)) is False
    assert Statement("more", (phrase, phrase), most=RIGHT).is_true((scene, scene)) is False


def test_the_same_seed_gives_the_same_statements_and_another_seed_others():
    specs = [WorldSpec(seed=seed, images=20, eval_images=10, data_sets=("nlvr2",)) for seed in (4, 4, 5)]
    first, again, other = (draw_world(spec).nlvr2 for spec in specs)
    assert first == again and first != other


def test_files_hold_the_labels_of_the_scenes(written):
    world = draw_world(WorldSpec(images=42, eval_images=20, data_sets=("nlvr2",)))
    for name, split in SPLITS.items():
        entries = lines(written, name)
        assert len(entries) == 2 * sum(len(contrast.statements) for contrast in world.nlvr2[split])
        assert len({entry["identifier"] for entry in entries}) == len(entries)
        for entry in entries:
            assert re.fullmatch(rf"{name}-\d+-[01]-\d", entry["identifier"])
            number, pair = (int(part) for part in entry["identifier"].split("-")[1:3])
            label = true_label(entry["sentence"], *world.nlvr2[split][number].pairs[pair])
            assert entry["label"] == str(label)


@pytest.mark.parametrize("name", SPLITS)
def test_each_sentence_is_used_as_often_true_as_false_and_so_is_each_pair(written, name):
    by_sentence, by_pair = defaultdict(Counter), defaultdict(Counter)
    for entry in lines(written, name):
        by_sentence[entry["sentence"]][entry["label"]] += 1
        by_pair[entry["identifier"].rsplit("-", 1)[0]][entry["label"]] += 1
    assert len(by_pair) == {"train": 20, "dev": 10, "test": 10}[name]
    for labels in (*by_sentence.values(), *by_pair.values()):
        assert labels["True"] == labels["False"] > 0


def test_both_images_of_every_identifier_have_regions(written):
    world = draw_world(WorldSpec(images=42, eval_images=20, data_sets=("nlvr2",)))
    store = open_features(written / FEATURES, feature_size=64)
    used = set()
    for name, split in SPLITS.items():
        for entry in lines(written, name):
            _, number, pair, _ = entry["identifier"].split("-")
            for side, scene in enumerate(world.nlvr2[split][int(number)].pairs[int(pair)]):
                key = f"{name}-{number}-{pair}-img{side}"
                used.add(key)
                seen = sorted(store[key].boxes.tolist())
                assert len(seen) == len(scene.objects)
                for (x1, *_), (true_x1, *_) in zip(seen, sorted(scene.boxes), strict=True):
                    assert abs(x1 - true_x1) < 20
    assert used == set(store.keys()) and len(used) == 40 + 20 + 20


def test_the_task_file_names_nlvr2_as_volta_does_and_its_cache_folder_exists(written):
    task = yaml.safe_load((written / "tasks.yml").read_text())["TASK12"]
    expected = {
        "name": "NLVR2", "type": "VL-binary-classifier", "process": "nlvr", "num_labels": 2, "task_id": 12,
        "train_split": "train", "val_split": "dev", "dataroot": f"{NLVR2}/annotations", "features_h5path1": FEATURES,
    }  # fmt: skip
    assert {key: task[key] for key in expected} == expected
    assert list((written / NLVR2 / "annotations/cache").iterdir()) == []


def test_no_word_of_a_statement_is_unknown_and_none_is_cut(written):
    vocabulary = set((written / "bert-world/vocab.txt").read_text().split())
    limit = yaml.safe_load((written / "tasks.yml").read_text())["TASK12"]["max_seq_length"]
    for entry in lines(written, "train"):
        said = entry["sentence"].split()
        plurals = [word for word in said if word not in vocabulary]
        assert all(word.endswith("s") and word[:-1] in vocabulary for word in plurals), entry["sentence"]
        assert len(said) + len(plurals) + 2 <= limit
