"""Facts about features: what two of them differ in, in words; where they are kept."""

from __future__ import annotations

import json

import pytest

from volta_switch.data.detector_facts import common_facts, described, difference, facts_file, facts_of, keep_facts
from volta_switch.errors import UserError

FACTS = {
    "detector": "some detector",
    "weights": "0123456789abcdef",
    "selection": "maxnms",
    "number": "36",
    "input": {"short_side": 600, "long_side": 1000, "resizing": "pillow"},
    "width": 2048,
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"detector": "another name of it"}, ""),
        (
            {"detector": "other", "weights": "ffff0000ffff"},
            "the detector is other (weights ffff0000), not some detector (weights 01234567)",
        ),
        ({"selection": "caffe"}, "regions are chosen by caffe, not maxnms"),
        ({"number": "10-100"}, "the number of regions is 10-100, not 36"),
        ({"width": 64}, "features are 64 wide, not 2048"),
        (
            {"input": {"short_side": 800}},
            "pictures are resized as short_side 800, not as short_side 600, long_side 1000, resizing pillow",
        ),
        ({"selection": "maxnms, given boxes", "number": "as given"}, ""),
        ({"selection": "caffe, given boxes", "number": "as given"}, "regions are chosen by caffe, not maxnms"),
    ],
)
def test_differences_in_words(change, said):
    assert difference(FACTS, {**FACTS, **change}) == said
    assert bool(difference({**FACTS, **change}, FACTS)) == bool(said)


def test_several_differences_stand_in_one_line():
    assert difference(FACTS, {**FACTS, "selection": "caffe", "number": "100"}).count(";") == 1
    assert described(FACTS) == "some detector (weights 01234567), maxnms, 36 regions"


def test_facts_stand_beside_a_file(tmp_path):
    path = tmp_path / "x.tsv"
    assert facts_of(path) is None and facts_of("https://example.org/shards") is None
    keep_facts(path, FACTS, plan="abc")
    assert facts_of(path) == FACTS and json.loads(facts_file(path).read_text())["plan"] == "abc"
    assert common_facts([path, path]) == FACTS
    assert common_facts([path, tmp_path / "silent.tsv"]) is None
    keep_facts(tmp_path / "y.tsv", {**FACTS, "number": "12"})
    with pytest.raises(UserError, match=r"y\.tsv: not the features of .*x\.tsv: the number of regions is 12, not 36"):
        common_facts([path, tmp_path / "y.tsv"])
    keep_facts(path, None)
    assert facts_of(path) is None and not facts_file(path).exists()
    keep_facts(path, None)


def test_damaged_facts_are_refused(tmp_path):
    facts_file(tmp_path / "x.tsv").write_text('{"detector": 3}')
    with pytest.raises(UserError, match=r"x\.tsv\.detector\.json: detector is no object"):
        facts_of(tmp_path / "x.tsv")
    facts_file(tmp_path / "x.tsv").write_text("{")
    with pytest.raises(UserError, match=r"x\.tsv\.detector\.json: not JSON"):
        facts_of(tmp_path / "x.tsv")
