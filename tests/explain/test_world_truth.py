"""What the world is said to know of its texts, against a reading of the texts themselves, object by object."""

from types import SimpleNamespace

import numpy as np
import pytest

from volta_switch import UserError
from volta_switch.data.feature_files import open_features
from volta_switch.data.regions import pairwise_iou
from volta_switch.explain.world_truth import data_set_of, features_of, region_of_each_object, true_texts
from volta_switch.world import WorldSpec
from volta_switch.world.build import world_spec
from volta_switch.world.content import draw_split
from volta_switch.world.phrases import denote
from volta_switch.world.scenes import members
from world.small_truth import ALIKE, VALUES, denoted, matches, stands

RELATIONS = {**{relation.split()[0]: relation for relation in ALIKE}, "left": "left of", "right": "right of"}
RELATIONS |= {"above": "above", "below": "below", "closest": "closest to"}


def parsed(words):
    """A phrase as ``small_truth.denoted`` takes it, read from its words."""
    values = [None, None, None, None]
    for place, word in enumerate(words):
        if word in RELATIONS:
            relation = RELATIONS[word]
            rest = words[place + len(relation.split()) :]
            return SimpleNamespace(values=tuple(values), relation=relation, anchor=parsed(rest))
        if word != "thing":
            kind = next(kind for kind, names in enumerate(VALUES) if word in names)
            values[kind] = VALUES[kind].index(word)
    return SimpleNamespace(values=tuple(values), relation=None, anchor=None)


def is_attribute(words, place):
    after = words[place - 1] if place else ""
    return any(words[place] in names for names in VALUES) and after not in ("sized", "coloured", "made", "shaped")


@pytest.mark.parametrize("name", ["refer", "refcoco", "refcocog"])
def test_an_attribute_decides_where_the_text_without_it_says_something_else(name):
    spec = WorldSpec(images=20, eval_images=60)
    seen, texts = {True: 0, False: 0}, list(true_texts(spec, name))
    assert len(texts) == 240
    for text in texts:
        words = text.text.split()
        assert len(text.words) == len(words)
        assert denoted(text.scene, parsed(words)) == [text.target]
        for place, word in enumerate(text.words):
            assert word.is_attribute == is_attribute(words, place), (text.text, place)
            if word.is_attribute:
                changed = parsed(words[:place] + words[place + 1 :])
                both = [denoted(text.scene, changed, sure) for sure in (True, False)]
                assert word.decides == (both != [[text.target]] * 2), (text.text, word)
                seen[word.decides] += 1
            else:
                assert not word.decides
    assert min(seen.values()) > 50


def test_anchors_are_the_objects_that_relations_name():
    spec, found = WorldSpec(images=20, eval_images=60), {0: 0, 1: 0, 2: 0}
    for text in true_texts(spec, "refer"):
        words = text.text.split()
        anchor, wanted = parsed(words).anchor, []
        while anchor is not None:
            wanted += denoted(text.scene, anchor)
            anchor = anchor.anchor
        assert sorted(text.objects) == sorted(set(wanted)) and text.target not in text.objects[:1]
        phrase = parsed(words)
        if phrase.anchor is None or phrase.anchor.anchor is not None:
            assert not text.anchor_decides
            found[0] += 1
            continue
        denotes = set()
        head = [at for at in range(len(text.scene.objects)) if matches(text.scene, at, phrase.values)]
        for anchor in range(len(text.scene.objects)):
            both = [
                tuple(at for at in head if stands(text.scene, at, phrase.relation, anchor, head, sure))
                for sure in (True, False)
            ]
            if both[0] == both[1] and len(both[0]) == 1:
                denotes.add(both[0])
        assert text.anchor_decides == (len(denotes) > 1), text.text
        if "of" in words or "above" in words or "below" in words:
            assert not text.anchor_decides  # the one that is left of something is the left one
        found[1 + text.anchor_decides] += 1
    assert min(found.values()) > 15


@pytest.mark.parametrize("name", ["vqa", "gqa"])
def test_a_questions_truth_names_all_that_its_phrases_denote(name):
    spec = WorldSpec(images=20, eval_images=60)
    texts = iter(true_texts(spec, name))
    kinds = set()
    for entry in draw_split(spec, name, "test"):
        for question, reply, _ in entry.questions:
            text = next(texts)
            assert text.text == question.words() and text.answer == reply and text.target is None
            assert len(text.words) == len(text.text.split())
            wanted = set(members(denote(entry.scene, question.phrase)[0]))
            if question.other:
                wanted |= set(denoted(entry.scene, parsed(question.other.words().split())))
            anchor = question.phrase.anchor
            while anchor is not None:
                wanted |= set(denoted(entry.scene, anchor))
                anchor = anchor.anchor
            assert set(text.objects) == wanted
            said = [word for word, true in zip(text.text.split(), text.words, strict=True) if true.is_attribute]
            values = [VALUES[kind][value] for kind, value in enumerate(question.phrase.values) if value is not None]
            assert [word.removesuffix("s") if word != "glass" else word for word in said][: len(values)] == [
                value.removesuffix("s") if value != "glass" else value for value in values
            ]
            kinds.add(question.kind)
    assert len(kinds) >= 6 and next(texts, None) is None


def test_regions_are_found_by_their_boxes(world):
    spec = world_spec(world.path)
    for name in ("refer", "vqa", "gqa"):
        store = open_features(features_of(world.path, name))
        for text in true_texts(spec, name):
            regions = store[text.image]
            found = region_of_each_object(text.scene, regions)
            assert len(found) == len(text.scene.objects) and min(found) >= 0 and len(set(found)) == len(found)
            boxes = np.array(text.scene.boxes, np.float32)
            assert all(pairwise_iou(boxes[[at]], regions.boxes[[region]]) > 0.5 for at, region in enumerate(found))


def test_tasks_whose_truth_is_not_told_are_refused():
    assert data_set_of("TASK10") == "refer" and data_set_of("TASK15") == "gqa"
    with pytest.raises(UserError, match="TASK8: the truth of its texts is not known"):
        data_set_of("TASK8")
