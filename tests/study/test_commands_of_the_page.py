"""Commands on ``report.html`` run as they stand: copied from the page into a shell, in whatever folder it is."""

import html
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from page_commands import parsed
from pages import ROOT
from synthetic_world import json_of
from volta_switch.study.report.page import write_report
from volta_switch.study.run_plan import plan_of
from volta_switch.study.table import make_tables


def blocks_of(path):
    """Returns the page's blocks of commands."""
    found = re.findall(r"<pre><code>(.*?)</code></pre>", path.read_text(encoding="utf-8"), re.DOTALL)
    return [html.unescape(block).strip() for block in found]


@pytest.fixture
def page(finished, tmp_path):
    """The page of a copy of the finished study, in a folder whose name a shell would divide."""
    study, folder = finished
    shutil.copytree(folder, tmp_path / "a folder" / "out")
    plan = plan_of(study, tmp_path / "a folder" / "out")
    return write_report(plan, make_tables(plan))


def test_every_command_of_the_page_is_read_by_its_program(page):
    blocks = blocks_of(page)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert len(blocks) == 6 and all(block.startswith("cd ") for block in blocks)
    commands = [words for words in lines if words[0] != "cd"]
    assert {words[1] for words in commands} == {"study", "pretrain", "finetune", "evaluate", "routes"}
    for words in commands:
        assert parsed(words) is not None


@pytest.mark.long
def test_the_blocks_of_the_page_run_in_a_shell(page, tmp_path):
    shim, elsewhere = tmp_path / "bin" / "volta-switch", tmp_path / "elsewhere"
    shim.parent.mkdir()
    elsewhere.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m volta_switch "$@"\n')
    shim.chmod(0o755)
    given = {**os.environ, "PATH": f"{shim.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    score = page.parent / "switchbert" / "seed0" / "refcoco+_switchbert" / "test_metrics.json"
    before = json_of(score)["accuracy"]
    for block in blocks_of(page):
        done = subprocess.run(["bash", "-e", "-c", block], cwd=elsewhere, env=given, capture_output=True, text=True)
        assert done.returncode == 0, (block, done.stdout[-500:], done.stderr[-2000:])
    assert json_of(score)["accuracy"] == before and not list(elsewhere.iterdir())
