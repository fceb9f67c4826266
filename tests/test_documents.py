"""The README and the pages of docs/ and benchmarks/: links lead somewhere, code runs, and so does every command."""

from __future__ import annotations

import re

import pytest

from desk import Desk
from page_commands import SLOW, parse, reason_not_to_run, words_of
from pages import KINDS, ROOT, Command, Page, pages

PAGES = pages()
COMMANDS = [command for page in PAGES for command in page.commands()]
# In each language that runs: a block continues those before it on its page.
CODE = [page for page in PAGES if any(block.kind == "python" for block in page.blocks)]
NEEDS_VOLTA = "volta_switch.plugin.register()"


def once(commands: list[Command]) -> list[Command]:
    """Each of the commands once, though pages repeat it."""
    return list({(command.environment, command.words): command for command in commands}.values())


def named(commands: list[Command]) -> list[object]:
    """The commands as parameters, with their words as names."""
    return [pytest.param(command, id=" ".join(command.words)[:90]) for command in commands]


def runnable() -> list[object]:
    """The commands that run on a desk; the slow ones by make test-long."""
    found = named(once([command for command in COMMANDS if not reason_not_to_run(command)]))
    slow = [any(re.match(pattern, " ".join(param.values[0].words)) for pattern in SLOW) for param in found]
    return [
        pytest.param(*param.values, id=param.id, marks=pytest.mark.long) if is_slow else param
        for param, is_slow in zip(found, slow, strict=True)
    ]


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120 and "docs/report-routes.png" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_say_what_they_hold(page):
    assert {block.kind for block in page.blocks} <= set(KINDS)
    indented = re.findall(r"(?m)^\n {4}\S.*$", re.sub(r"(?ms)^(- .*?)(?=^\S|\Z)", "", page.prose))
    assert indented == []  # commands stand in fenced blocks, which are read here


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in page.links():
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.path.parent / path).resolve() if path else page.path
        assert found.exists() and found.is_relative_to(ROOT), f"{page.name}: {target}"
        assert not anchor or anchor in Page(found).anchors(), f"{page.name}: {target}"


def test_every_page_is_reached_from_the_readme():
    reached, waiting = set(), [Page(ROOT / "README.md")]
    while waiting:
        page = waiting.pop()
        if page.path in reached:
            continue
        reached.add(page.path)
        targets = [
            (page.path.parent / target.partition("#")[0]).resolve() for target in page.links() if "//" not in target
        ]
        waiting += [Page(target) for target in targets if target.suffix == ".md"]
    assert {page.path for page in PAGES} - reached <= {ROOT / "CHANGELOG.md"}


def test_a_command_of_no_kind_is_found():
    with pytest.raises(LookupError, match="of no kind"):
        reason_not_to_run(Command("page.md", 1, True, (), ("rm", "-r", "runs")))


@pytest.mark.parametrize(
    "words",
    [
        "python train_concap.py --confg switchbert.json --world",
        "torchrun --nproc_per_node 8 train_task.py --task 10 --resum",
        "bash examples/refcoco+/train.sh --wrld",
        "volta-switch data check --smple 10 a.lmdb",
        "volta-switch study run studies/demo.yaml --job 2",
        "python benchmarks/scaling.py --arithmetics",
        "make tests",
        "pytest tests/test_nothing.py",
        "pip install volta-switch[h6]",
    ],
)
def test_a_misspelt_command_is_found(words, tmp_path, capsys):
    with pytest.raises((SystemExit, AssertionError)):
        parse(Command("page.md", 1, True, (), tuple(words.split())), tmp_path)


@pytest.mark.parametrize("command", named(once(COMMANDS)))
def test_every_command_is_parsed_by_its_program(command, tmp_path, capsys):
    reason_not_to_run(command)
    parse(command, tmp_path)


@pytest.fixture(scope="module")
def desk(world, tmp_path_factory):
    """Where commands run as they are shown."""
    return Desk.set_up(tmp_path_factory.mktemp("desk"), world)


@pytest.mark.parametrize("command", runnable())
def test_every_command_that_needs_no_real_data_runs(command, desk, tmp_path):
    desk.run(words_of(command, tmp_path))


@pytest.mark.parametrize("page", CODE, ids=lambda page: page.name)
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in page.blocks:
        if block.kind == "python":
            if NEEDS_VOLTA in block.text:  # tests/plugin/test_registration.py registers in a checkout
                block = type(block)(block.kind, block.text.replace(NEEDS_VOLTA, NEEDS_VOLTA[:-2]), block.line)
            exec(compile("\n" * block.line + block.text, page.name, "exec"), names)
