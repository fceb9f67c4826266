"""The phrases of the synthetic world name the objects that its captions were drawn for, and one region shows each."""

import json

from ablation.conftest import ENTITIES
from volta_switch.data.entities import load_entities
from volta_switch.data.regions import pairwise_iou
from volta_switch.world import WorldSpec
from volta_switch.world.content import draw_world
from volta_switch.world.entities import entity_id
from volta_switch.world.phrases import Phrase as WorldPhrase


def test_the_worlds_phrases_name_the_objects_that_captions_were_drawn_for(entities_world):
    spec = WorldSpec(images=20, eval_images=10, data_sets=("retrieval", "entities"), render=False)
    world = draw_world(spec)
    expected = []
    for entry in world.entities["test"]:
        for caption in entry.captions:
            for clause, objects in zip(caption.clauses, caption.mentioned, strict=True):
                for phrase, index in zip(clause.chain(), objects, strict=True):
                    assert all(said in (None, own) for said, own in zip(
                        phrase.values, entry.scene.objects[index], strict=True
                    ))  # fmt: skip
                    text, box = WorldPhrase(phrase.values).words(), entry.scene.boxes[index]
                    expected.append((str(entry.scene.image_id), str(entity_id(entry.scene, index)), text, (box,)))
    phrases = load_entities(entities_world.path / ENTITIES, "test")
    assert [(each.image_id, each.phrase.entity, each.text, each.boxes) for each in phrases] == expected
    assert len(expected) > 100
    captions = entities_world.path / "datasets/flickr30k/annotations/test_ann.jsonl"
    sentences = {line["id"]: line["sentences"] for line in map(json.loads, captions.read_text().splitlines())}
    assert all(" ".join(each.words) == sentences[each.image_id][each.sentence] for each in phrases)


def test_each_named_object_is_shown_by_one_region(split_samples):
    samples = split_samples()
    for sample in (one for batch in samples.batches(64) for one in batch):
        overlaps = pairwise_iou(sample.regions.boxes, samples.phrases[sample.place].boxes)[:, 0]
        assert sample.shown.sum() == 1 and sample.target == overlaps.argmax() and overlaps[sample.target] > 0.5
