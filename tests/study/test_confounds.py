"""Arms whose runs recorded different settings make no table; plans that are confounded are in ``test_plan.py``."""

from copy import deepcopy

import pytest

from volta_switch import UserError
from volta_switch.study.arms import Table
from volta_switch.study.confounds import refuse_recorded_confounds

RUN = {
    "entry_point": "train_task",
    "hyperparameters": {"learning_rate": 1e-3, "seed": 0, "adam_betas": [0.9, 0.999]},
    "settings": {"task": "TASK10", "train_split": "train"},
    "data": {"dataroot": "d"},
    "precision": "float32",
    "parameters": 10,
}
TABLE = Table("t", ("a", "b", "c"), ("TASK10",))


def test_equal_settings_are_accepted():
    runs = {"a": {"t": deepcopy(RUN)}, "b": {"t": {**deepcopy(RUN), "parameters": 99}}, "c": {"t": RUN}}
    refuse_recorded_confounds(runs, TABLE)


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
        refuse_recorded_confounds(runs, TABLE)
    message = str(caught.value)
    assert message.startswith("the table is refused: in t, ") and f"{named}; rows may differ" in message
    assert "\n" not in message
