"""Settings in JSON and YAML are read whole, or refused in one line: nothing said twice, nothing without bound."""

from itertools import pairwise

import pytest

from volta_switch import UserError
from volta_switch.files import MOST_VALUES, parse_json, parse_yaml, read_yaml
from volta_switch.plugin.checkout import find_files
from volta_switch.study.plan import load_study

NINE = ", ".join(9 * ["*{}"])
BOMB = "a: &a [1]\n" + "".join(f"{new}: &{new} [{NINE.format(*9 * old)}]\n" for old, new in pairwise("abcdefgh"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("a: {b: 1, c: {b: 2}}", {"a": {"b": 1, "c": {"b": 2}}}),
        ("[{a: 1}, {a: 2}]", [{"a": 1}, {"a": 2}]),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}),
        ("a: &x [1]\nb: [*x, *x]", {"a": [1], "b": [[1], [1]]}), ("1: a\n2: b", {1: "a", 2: "b"}),
        (f"a: [{', '.join(map(str, range(1000)))}]", {"a": list(range(1000))}),
    ],
)  # fmt: skip
def test_yaml_is_read(text, value):
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 1", "a stands there twice, in lines 1 and 3"), ("x: [{y: 1, y: 2}]", "y stands there twice"),
        ("1: a\n'1': b", "1 stands there twice"), ("a: {true: 1, True: 2}", "True stands there twice"),
        ("a: &x {b: 1}\nc: {<<: *x, d: 1, d: 2}", "d stands there twice"),
        ("a: &x {b: 1}\nc: {<<: *x, <<: *x}", "<< stands there twice"),
        (BOMB, f"more than {MOST_VALUES} values"),
        ("a: &a {b: *a}", "an alias stands inside"), ("a: &a\n  - b\n  - *a", "an alias stands inside"),
        ("a: 2024-13-45", "month must be in 1..12"), ("a: 2023-02-29", "day is out of range"),
        ("a: 2024-01-01 25:00:00", "hour must be in"), ("a: -" + 5000 * "9", "5000 digits"),
        ("a: 0x" + 50 * "f" + "\nb: " + 6000 * "1", "6000 digits"), (500 * "[" + 500 * "]", "nested too deeply"),
        (500 * "{a: " + 500 * "}", "nested too deeply"), (500 * "- ", "nested too deeply"),
        ("{[1]: 2}", "unhashable key"), ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: !!timestamp x", ""), ("a: !!int ''", ""), ("a: !!binary ä", ""), ("a: [", "line 1"),
        ("a\0", "not allowed"),
        ("--- 1\n--- 2", "another document"),
    ],
)  # fmt: skip
def test_yaml_that_cannot_be_settings_is_one_line(tmp_path, text, said):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        parse_yaml(text)
    assert said in str(caught.value) and len(str(caught.value)) < 200
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    for read in (lambda: read_yaml(path, "file"), lambda: load_study(path)):
        with pytest.raises(UserError, match=r"mine\.yaml: not a YAML file of settings \(") as refused:
            read()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "a stands there twice"), ('[{"x": {"y": 1, "y": 2}}]', "y stands there twice"),
        ('{"\\u0061": 1, "a": 2}', "a stands there twice"), (5000 * "9", "5000 digits"),
        (10**5 * "[" + 10**5 * "]", "nested too deeply"), (10**5 * '{"a":' + "1" + 10**5 * "}", "nested too deeply"),
        ("{", "Expecting property name"), ("", "Expecting value"),
    ],
)  # fmt: skip
def test_json_that_cannot_be_settings_is_one_line(text, said):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        parse_json(text)
    assert said in str(caught.value) and len(str(caught.value)) < 200
    assert parse_json('{"a": [{"b": 1}, {"b": 2}]}') == {"a": [{"b": 1}, {"b": 2}]}


def test_a_task_file_for_a_script_of_voltas_is_read_so_too(tmp_path):
    path = tmp_path / "tasks.yml"
    path.write_text("TASK1: {}\nTASK1: {}\n")
    with pytest.raises(UserError, match="TASK1 stands there twice, in lines 1 and 2"):
        find_files(tmp_path, ["--tasks_config_file", str(path), "--task", "1"])
