"""What a command does where its standard output or error is closed, full, or read by nobody."""

import os
import signal
import subprocess
import sys

import pytest

from shells import BUFFERED, ROOT, in_shell

FLOPS = [sys.executable, "-m", "volta_switch", "flops", "demo/switchbert"]
SAYS = "print('result'); print('remark', file=sys.stderr); sys.stdout.flush(); print('more', file=sys.stderr)"
COMMAND = [
    *(sys.executable, "-c"),
    f"import sys; from volta_switch.command import run_command; run_command(lambda argv: exec({SAYS!r}), [])",
]


FULL = "error: standard output: cannot be written (No space left on device); make room, or send it to another file"


@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        ("", 0, ["remark", "more"]),
        (">&-", 0, ["remark", "more"]),
        ("2>&-", 0, []),
        (">&- 2>&-", 0, []),
        ("<&- >&- 2>&-", 0, []),
        ("2>/dev/full", 0, []),
        (">/dev/full", 2, ["remark", FULL]),
        (">/dev/full 2>&1", 2, []),
    ],
)
def test_remarks_may_be_lost_and_results_may_not(streams, code, said):
    done = in_shell(COMMAND, streams)
    assert (done.returncode, done.stderr.splitlines()) == (code, said)


@pytest.mark.parametrize("command", [COMMAND, FLOPS], ids=["small", "flops"])
def test_a_reader_that_has_gone_ends_a_command_quietly(command):
    """As ``| head -0`` does; 141 is what a shell reports of a process that was ended by SIGPIPE."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, env=BUFFERED
    )
    os.close(writing)
    assert done.returncode == 128 + signal.SIGPIPE
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_what_is_opened_later_does_not_take_the_place_of_a_closed_stream(tmp_path):
    """Libraries write to descriptor 2 whatever it is: without care that would be the next file that is opened."""
    work = f"f = open({str(tmp_path / 'data')!r}, 'w'); import os; os.write(2, b'noise'); f.write('data'); f.close()"
    run = f"from volta_switch.command import run_command; run_command(lambda argv: exec({work!r}), [])"
    assert in_shell([sys.executable, "-c", run], ">&- 2>&-").returncode == 0
    assert (tmp_path / "data").read_text() == "data"
