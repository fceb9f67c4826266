"""Few combinations in which all pairs of values meet."""

from combinations import all_pairs, pairs_of, pairwise

SETTINGS = {"colour": ("red", "green", "blue"), "size": (1, 2), "shape": ("ball", "cube"), "dull": (False, True)}


def test_any_two_allowed_values_meet_in_fewer_combinations_than_there_are():
    def allowed(each):
        return not (each["colour"] == "red" and each["size"] == 2)

    chosen = pairwise(SETTINGS, allowed)
    assert all(map(allowed, chosen)) and len(chosen) < 10  # of 20
    assert set().union(*map(pairs_of, chosen)) == all_pairs(SETTINGS, allowed)
    assert ("colour", "red", "size", 2) not in all_pairs(SETTINGS, allowed)


def test_all_pairs_of_two_values_are_four():
    assert len(all_pairs({"a": (1, 2), "b": (1, 2)}, lambda each: True)) == 4
