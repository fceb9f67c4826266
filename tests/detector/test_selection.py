"""Both selections on cases worked out by hand."""

from __future__ import annotations

import pytest
import torch

from volta_switch.detector.selection import Selection, attribute_probabilities, caffe_rows, maxnms_rows

# Five boxes of 10 x 10: 0 and 1 overlap by 80 of 120 (0.667), 2 and 3 by 50 of 150 (0.333), 4 is alone.
BOXES = torch.tensor(
    [[0.0, 0, 10, 10], [2, 0, 12, 10], [40, 0, 50, 10], [45, 0, 55, 10], [80, 0, 90, 10]],
)


def test_maxnms_drops_less_until_the_number_is_left():
    sure = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.95])
    # At 0.5 box 1 goes: 4, 0, 2, 3 are left. At 0.6 as well. At 0.7 all five stay.
    assert maxnms_rows(BOXES, sure, 3).tolist() == [4, 0, 2]
    assert maxnms_rows(BOXES, sure, 4).tolist() == [4, 0, 2, 3]
    assert maxnms_rows(BOXES, sure, 5).tolist() == [4, 0, 1, 2, 3]


def test_maxnms_gives_fewer_where_all_thresholds_do():
    same = BOXES[:1].expand(4, 4)
    assert maxnms_rows(same, torch.tensor([0.1, 0.4, 0.4, 0.2]), 3).tolist() == [1]
    assert maxnms_rows(BOXES[:0], torch.empty(0), 3).tolist() == []


def test_caffe_takes_the_highest_class_in_which_a_box_is_left():
    # Sides are 11 long here: 0 and 1 overlap by 99 of 143 (0.69), 2 and 3 by 66 of 176 (0.375), both above 0.3.
    confidences = torch.tensor([[0.5, 0.1], [0.4, 0.3], [0.3, 0.1], [0.6, 0.0], [0.25, 0.2]])
    # First class: 3, 0, 4 stay; 1 goes with 0, 2 with 3. Second class: 1, 4, 2 stay; 0 goes with 1, 3 with 2.
    # Highest that are left: 0.5, 0.3, 0.1, 0.6, 0.25: four reach 0.2.
    assert caffe_rows(BOXES, confidences, 4, 4).tolist() == [0, 1, 3, 4]
    assert caffe_rows(BOXES, confidences, 1, 100).tolist() == [0, 1, 3, 4]  # between the bounds: in their order
    assert caffe_rows(BOXES, confidences, 2, 3).tolist() == [3, 0, 1]  # too many: the surest
    assert caffe_rows(BOXES, confidences, 5, 5).tolist() == [3, 0, 1, 4, 2]  # too few: others, too
    assert caffe_rows(BOXES, confidences, 9, 9).tolist() == [3, 0, 1, 4, 2]  # there are no more


def test_both_ends_of_a_side_count_in_caffe():
    """Sides of 10 overlap by 0.25 here, and by 0.303 where they are counted as 11."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [6, 0, 16, 10]])
    rows = caffe_rows(boxes, torch.tensor([[0.9], [0.5]]), 1, 2)
    assert (5 * 11) / (17 * 11) < 0.3 < 55 / 187 + 0.01
    assert rows.tolist() == [0, 1]
    closer = torch.tensor([[0.0, 0, 10, 10], [5.3, 0, 15.3, 10]])  # 4.7 of 15.3: 0.307; with ends 5.7 of 16.3: 0.35
    apart = torch.tensor([[0.0, 0, 10, 10], [5.6, 0, 15.6, 10]])  # 4.4 of 15.6: 0.282; with ends 5.4 of 16.6: 0.325
    for pair in (closer, apart):
        assert caffe_rows(pair, torch.tensor([[0.9], [0.5]]), 1, 2).tolist() == [0]


def test_equal_confidences_keep_the_proposals_order():
    confidences = torch.full((5, 1), 0.1)
    assert caffe_rows(BOXES, confidences, 2, 2).tolist() == [0, 2]
    assert maxnms_rows(BOXES, confidences[:, 0], 2).tolist() == [0, 2]


def test_attributes_are_with_none_of_them_in_caffe_and_without_later():
    logits = torch.tensor([[0.0, 0.0, 0.0]])  # two attributes, then none of them
    assert attribute_probabilities(logits, "caffe")[0].tolist() == pytest.approx([1 / 3] * 3)
    assert attribute_probabilities(logits, "maxnms").tolist() == [[0, 0.5, 0.5]]
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    assert attribute_probabilities(logits, "caffe")[0].argmax() == 0  # none is the likeliest, and stands first


@pytest.mark.parametrize(
    ("kind", "numbers", "said"),
    [
        ("maxnms", "36", None),
        ("caffe", "36", None),
        ("caffe", "10-100", None),
        ("maxnms", "10-100", "maxnms keeps one number"),
        ("caffe", "100-10", "two rising"),
        ("caffe", "0", "expected a number"),
        ("caffe", "ten", "expected a number"),
        ("vinvl", "36", "expected one of caffe, maxnms"),
    ],
)
def test_selections_by_name(kind, numbers, said):
    if said is None:
        assert Selection.named(kind, numbers).numbers == numbers
    else:
        with pytest.raises(ValueError, match=said):
            Selection.named(kind, numbers)
