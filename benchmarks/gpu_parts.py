"""All that is measured on one CUDA GPU, in parts with a time limit each; ``gpu.sh`` starts this.

    [VOLTA_HOME=...] python benchmarks/gpu_parts.py [--seconds 300] [--out FOLDER] [--parts check eager-256 ...]

Every part is a process of its own, whose output goes to a file of its own as it comes: what was measured is there when
a part, or all of this, is killed. Limits are shares of ``--seconds``. A part that reaches its limit is ended, so that
it takes nothing from the others. The status is 1 where a part failed or was ended, and those are named at the end; 2
where there is no GPU.

This file imports nothing but the standard library: what is missing for one part stops that part alone.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MODELS = ("ctrl_uniter_base", "switchbert")  # in this order: what is known best comes first
BATCHES = (256, 1024)
GRACE = 3.0  # seconds between asking a part to end and ending it, within its limit
MEASURED = 0.8  # of its limit a benchmark begins rounds; the rest is for the last one and the table
WAITS = "tests/gpu/test_waits.py::test_a_step_never_waits_for_the_device"
TELLING = ("tests/gpu/test_cuda_equals_cpu.py", *(f"{WAITS}[{model}-bf16]" for model in ("ctrl_uniter", "switchbert")))


@dataclass(frozen=True)
class Part:
    """A part by its name, which is its file's, its share of the time and what Python is to run."""

    name: str
    share: float
    command: tuple[str, ...]
    until: bool = False  # whether it takes --until


def main(argv: Sequence[str]) -> int:
    """Run the parts; the status."""
    began = time.monotonic()
    args = flags().parse_args(argv)
    environment = environment_of(args)
    machine = [sys.executable, str(ROOT / "tests" / "gpu" / "check_machine.py")]
    checked = subprocess.run(machine, env=environment, capture_output=True, text=True, check=False)
    if checked.returncode:
        print(checked.stderr.strip().splitlines()[-1], file=sys.stderr)
        return 2
    out = Path(args.out) if args.out else HERE / "gpu-results" / f"{datetime.datetime.now():%Y-%m-%d-%H%M%S}"
    parts = planned(args, out)
    out.mkdir(parents=True, exist_ok=True)
    print(f"{checked.stdout.strip()}\n{out}: {', '.join(part.name for part in parts)}", flush=True)
    return run(parts, max(args.seconds - (time.monotonic() - began), 1.0), out, environment)


def flags() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    seconds = os.environ.get("SECONDS_IN_ALL", "300")
    parser.add_argument("--seconds", type=float, default=seconds, help="of all parts; default: SECONDS_IN_ALL, or 300")
    parser.add_argument("--out", default="", help="a folder for the files; default: benchmarks/gpu-results/<date>")
    parser.add_argument("--parts", nargs="+", default=[], help="these alone, with all the time; default: every part")
    parser.add_argument("--models", nargs=2, default=MODELS, metavar=("UNITER", "SWITCHBERT"), help="configurations")
    parser.add_argument("--batches", nargs=2, type=int, default=BATCHES, metavar=("SMALL", "LARGE"))
    parser.add_argument("--layers", type=int, default=0, help="fewer layers than configured, for a rehearsal")
    parser.add_argument("--rounds", type=int, default=10, help="at most, in the part's time")
    parser.add_argument("--steps", type=int, default=10, help="timed together; half as many of large batches")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--device", default="cuda", help="cpu: a rehearsal")
    return parser


def environment_of(args: argparse.Namespace) -> dict[str, str]:
    """What the parts' processes are given beside the command line."""
    own = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    rehearsed = {} if args.device.startswith("cuda") else {"REHEARSE_ON": args.device}
    return {**os.environ, **own, **rehearsed, "PYTHONPATH": path}


def planned(args: argparse.Namespace, out: Path) -> list[Part]:
    """The parts that are asked for, in their order."""
    small, large = args.batches
    threads = str(min(os.cpu_count() or 1, 8))
    common = ("--device", args.device, "--dtype", args.dtype, "--layers", str(args.layers), "--threads", threads)

    def step(batch: int, steps: int, *more: str) -> tuple[str, ...]:
        sizes = ("--batch", str(batch), "--steps", str(steps), "--rounds", str(args.rounds))
        return (str(HERE / "train_step.py"), "--model", *args.models, *sizes, *common, *more)

    few, steps = max(args.steps // 2, 1), args.steps
    tests = ("-m", "pytest", "-v", "-p", "no:cacheprovider", "--tb=short", "--confcutdir=tests/gpu", *TELLING)
    profile = (str(HERE / "profile_step.py"), "--model", *args.models, "--batch", str(small), *common)
    every = [
        Part("check", 40, tests),
        Part(f"eager-{small}", 40, step(small, steps), until=True),
        Part(f"eager-{large}", 50, step(large, few), until=True),
        Part("profile", 40, (*profile, "--trace", str(out / "trace.json.gz"))),
        Part(f"compiled-{small}", 75, step(small, steps, "--compile"), until=True),
        Part(f"compiled-{large}", 55, step(large, few, "--compile"), until=True),
    ]
    if os.environ.get("VOLTA_HOME"):
        beside = ("--against", "volta", "--volta-dtype", "float32")
        every.append(Part("beside-volta", 60, step(small, few, *beside), until=True))
    unknown = set(args.parts) - {part.name for part in every}
    if unknown:
        flags().error(f"--parts {min(unknown)}: there are {', '.join(part.name for part in every)}")
    return [part for part in every if not args.parts or part.name in args.parts]


def run(parts: Sequence[Part], seconds: float, out: Path, environment: dict[str, str]) -> int:
    """Run parts one after the other, each within its share of the time; 1 where one failed."""
    in_all = sum(part.share for part in parts)
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        for part in parts:
            # What one part compiles the next ones find; after one that failed they begin anew, since the compiler
            # leaves half a file where it is ended, and trusts it later.
            compiled = {"TORCHINDUCTOR_CACHE_DIR": str(Path(scratch) / str(len(failed)))}
            reason = run_part(part, seconds * part.share / in_all, out, environment | compiled)
            if reason:
                failed.append(f"{part.name} ({reason})")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def run_part(part: Part, limit: float, out: Path, environment: dict[str, str]) -> str:
    """Run one part to its end or its limit, into its file; what went wrong, or nothing."""
    path = out / f"{part.name}.txt"
    until = ("--until", f"{time.time() + MEASURED * limit:.0f}") if part.until else ()
    command = [sys.executable, *part.command, *until]
    started = time.monotonic()
    with path.open("w", encoding="utf-8") as file:
        print(f"# {part.name}, at most {limit:.0f} s\n\n    {' '.join(command)}\n", file=file, flush=True)
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, process_group=0
        )
        try:
            reason = _end_of(process, limit)
        finally:
            _end(process, signal.SIGKILL)  # also what it has started
    taken = f"{time.monotonic() - started:.0f} s"
    with path.open("a", encoding="utf-8") as file:
        print(f"\n{reason or 'done'}, after {taken}", file=file)
    text = path.read_text(encoding="utf-8", errors="replace")
    print(f"\n{text.strip()}", flush=True)
    return reason


def _end_of(process: subprocess.Popen[bytes], limit: float) -> str:
    try:
        status = process.wait(timeout=max(limit - GRACE, limit / 2))
    except subprocess.TimeoutExpired:
        _end(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=min(GRACE, limit / 2))
        return f"ended at its limit of {limit:.0f} s"
    return f"status {status}" if status else ""


def _end(process: subprocess.Popen[bytes], by: signal.Signals) -> None:
    """Send a signal to a process and all that it has started."""
    try:
        os.killpg(process.pid, by)
    except ProcessLookupError:
        return
    if by == signal.SIGKILL:
        process.wait()


def _stopped(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stopped)  # so that the part under way is ended, too
    sys.exit(main(sys.argv[1:]))
