"""What a phrase, caption or question says, evaluated object by object from attributes and boxes alone.

Written apart from the package on purpose: no bit masks, no tables made by it.
"""

from itertools import product

WIDTH, HEIGHT, MARGIN = 480, 360, 0.04
VALUES = (
    ("small", "large"),
    ("red", "green", "blue", "yellow", "white", "black"),
    ("metal", "wooden", "glass"),
    ("cube", "ball", "cone", "ring", "star"),
)
KINDS = ("size", "colour", "material", "shape")
ALIKE = {"sized like": 0, "coloured like": 1, "made like": 2, "shaped like": 3}


def centre(scene, index):
    x1, y1, x2, y2 = scene.boxes[index]
    return (x1 + x2) / 2, (y1 + y2) / 2


def matches(scene, index, values):
    return all(value is None or value == own for value, own in zip(values, scene.objects[index], strict=True))


def stands(scene, index, relation, anchor, candidates, sure):
    """Whether object `index` stands in the relation to `anchor`; not sure: whether nothing rules it out."""
    if index == anchor:
        return False
    if relation in ALIKE:
        return scene.objects[index][ALIKE[relation]] == scene.objects[anchor][ALIKE[relation]]
    x, y = centre(scene, index)
    other_x, other_y = centre(scene, anchor)
    if relation == "closest to":
        mine = ((x - other_x) ** 2 + (y - other_y) ** 2) ** 0.5
        rivals = [i for i in candidates if i not in (index, anchor)]
        distances = [
            ((centre(scene, i)[0] - other_x) ** 2 + (centre(scene, i)[1] - other_y) ** 2) ** 0.5 for i in rivals
        ]
        return all(distance >= 1.25 * mine if sure else mine < 1.25 * distance for distance in distances)
    ahead = {
        "left of": (other_x - x) / WIDTH,
        "right of": (x - other_x) / WIDTH,
        "above": (other_y - y) / HEIGHT,
        "below": (y - other_y) / HEIGHT,
    }[relation]
    return ahead > (MARGIN if sure else -MARGIN)


def denoted(scene, phrase, sure=True):
    """The indices of the objects that the phrase denotes."""
    candidates = [i for i in range(len(scene.objects)) if matches(scene, i, phrase.values)]
    if phrase.anchor is None:
        return candidates
    anchors = denoted(scene, phrase.anchor, sure)
    pairs = product(candidates, anchors)
    return sorted({i for i, j in pairs if stands(scene, i, phrase.relation, j, candidates, sure)})


def true_answer(scene, question):
    """The answer by counting and looking; fails where a phrase that must denote one object does not."""
    found = denoted(scene, question.phrase)
    assert found == denoted(scene, question.phrase, sure=False)
    if question.phrase.anchor is not None:
        assert len(denoted(scene, question.phrase.anchor, sure=False)) == 1
    if question.kind == "count":
        return str(len(found))
    if question.kind == "exists":
        return "yes" if found else "no"
    (target,) = found
    if question.kind in KINDS:
        attribute = KINDS.index(question.kind)
        return VALUES[attribute][scene.objects[target][attribute]]
    (other,) = denoted(scene, question.other)
    if question.kind == "compare":
        mine, its = scene.objects[target][0], scene.objects[other][0]
        return "equal" if mine == its else "larger" if mine > its else "smaller"
    (x, y), (other_x, other_y) = centre(scene, target), centre(scene, other)
    if abs(x - other_x) > abs(y - other_y):
        return "left" if x < other_x else "right"
    return "above" if y < other_y else "below"


def found(scene, text):
    """The objects that a noun phrase without relations denotes, singular or plural, by its words."""
    said = [word.removesuffix("s") if word not in ("glass",) else word for word in text.split()]
    values = [next((names.index(word) for word in said if word in names), None) for names in VALUES]
    assert sum(value is not None for value in values) + ("thing" in said) == len(said), text
    return [index for index in range(len(scene.objects)) if matches(scene, index, values)]
