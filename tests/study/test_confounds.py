"""Arms whose runs recorded different settings make no table; plans that are confounded are in ``test_plan.py``."""

from copy import deepcopy

import pytest

from volta_switch import UserError
from volta_switch.study.confounds import refuse_recorded_confounds
from volta_switch.study.planned_runs import RunRecord

RUN = {
    "entry_point": "train_task",
    "hyperparameters": {"learning_rate": 1e-3, "seed": 0, "adam_betas": [0.9, 0.999]},
    "settings": {"task": "TASK10", "train_split": "train"},
    "data": {"dataroot": "d"},
    "precision": "float32",
    "parameters": 10,
}
SAME = {"t": {"lr": 1e-3}, "data": ({"seed": 0}, {})}
PLANNED = {"a": SAME, "b": SAME, "c": SAME}


def refuse(runs, planned):
    """Runs as their files have them."""
    read = {arm: {name: RunRecord.from_dict(run) for name, run in of.items()} for arm, of in runs.items()}
    refuse_recorded_confounds(read, planned)


def test_equal_settings_are_accepted():
    runs = {"a": {"t": deepcopy(RUN)}, "b": {"t": {**deepcopy(RUN), "parameters": 99}}, "c": {"t": RUN}}
    refuse(runs, PLANNED)


@pytest.mark.parametrize(
    ("section", "change", "named"),
    [
        ("hyperparameters", {"learning_rate": 2e-3}, "hyperparameters.learning_rate is 0.001 for a and 0.002 for c"),
        ("hyperparameters", {"adam_betas": [0.9, 0.98]}, "adam_betas is [0.9, 0.999] for a and [0.9, 0.98] for c"),
        ("hyperparameters", {"learning_rate": None}, "hyperparameters.learning_rate is 0.001 for a and None for c"),
        ("hyperparameters", {"extra": 1}, "hyperparameters.extra is None for a and 1 for c"),
        ("settings", {"train_split": "trainval"}, "settings.train_split is train for a and trainval for c"),
        ("data", {"dataroot": "e"}, "data.dataroot is d for a and e for c"),
        ("precision", "bfloat16", "precision is float32 for a and bfloat16 for c"),
        ("entry_point", "train_concap", "entry_point is train_task for a and train_concap for c"),
    ],
)
def test_a_confound_is_named_with_both_values(section, change, named):
    value = {**RUN[section], **change} if isinstance(change, dict) else change
    runs = {"a": {"t": RUN}, "b": {"t": deepcopy(RUN)}, "c": {"t": {**RUN, section: value}}}
    with pytest.raises(UserError) as caught:
        refuse(runs, PLANNED)
    message = str(caught.value)
    assert message.startswith("the table is refused: in t, ") and f"{named}; rows may differ" in message
    assert "\n" not in message


def with_rate(rate):
    return {**deepcopy(RUN), "hyperparameters": {**RUN["hyperparameters"], "learning_rate": rate}}


def test_settings_may_differ_between_arms_that_were_planned_to_differ_and_no_others():
    planned = {**PLANNED, "c": {**SAME, "t": {"lr": 2e-3}}}
    refuse({"a": {"t": RUN}, "b": {"t": RUN}, "c": {"t": with_rate(2e-3)}}, planned)
    with pytest.raises(UserError, match=r"learning_rate is 0.001 for a and 0.002 for b"):
        refuse({"a": {"t": RUN}, "b": {"t": with_rate(2e-3)}, "c": {"t": RUN}}, planned)
    moved = {**deepcopy(RUN), "data": {"dataroot": "e"}}
    refuse({"a": {"t": RUN}, "b": {"t": moved}}, {**PLANNED, "b": {**SAME, "data": ({"seed": 1}, {})}})
    with pytest.raises(UserError, match=r"data.dataroot is d for a and e for b"):
        refuse({"a": {"t": RUN}, "b": {"t": moved}}, planned)


def test_runs_that_the_first_arm_lacks_are_compared_between_the_others():
    with pytest.raises(UserError, match=r"in t, hyperparameters.learning_rate is 0.001 for b and 0.002 for c"):
        refuse({"a": {}, "b": {"t": RUN}, "c": {"t": with_rate(2e-3)}}, PLANNED)


def test_seeds_of_one_arm_must_agree_in_all_but_the_seed():
    def run(seed, **data):
        return {
            **deepcopy(RUN),
            "hyperparameters": {**RUN["hyperparameters"], "seed": seed},
            "data": {"dataroot": "d", **data},
        }

    first, second = (
        run(0, fingerprints={"train: refs": {"sha256": "a"}}),
        run(1, fingerprints={"train: refs": {"sha256": "b"}}),
    )
    with pytest.raises(
        UserError, match=r"data.train: refs.sha256 of a is a in t/seed0 and b in t/seed1; runs of one arm"
    ):
        refuse({"a": {"t/seed0": first, "t/seed1": second}}, PLANNED)
    refuse({"a": {"t/seed0": first, "t/seed1": run(1)}}, PLANNED)  # of a version that did not tell
    refuse({"a": {"t/seed0": run(0), "t/seed1": run(1)}}, PLANNED)
