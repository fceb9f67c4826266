"""``benchmarks/gpu.sh`` rehearsed on a CPU: parts in order, each in its time and its file; what a profile counts."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from test_benchmarks import BENCHMARKS, narrow, rows_of

__all__ = ["narrow"]  # a fixture
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA GPU is here")
SAY = "import os, signal, subprocess, sys, time; print('measured', flush=True); "
STUBBORN = SAY + "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
CHILD = "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid, flush=True); "
HANG = "time.sleep(600)"


def gpu_sh(*flags, **more):
    """The script, begun; PyTorch's compiler, which takes minutes on a CPU, is switched off by its own variable."""
    environment = {**os.environ, "PYTHON": sys.executable, "TORCHDYNAMO_DISABLE": "1", "VOLTA_HOME": "", **more}
    words = ["bash", str(BENCHMARKS / "gpu.sh"), *map(str, flags)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, cwd="/", env=environment, text=True, **pipes)


@pytest.fixture
def gpu_parts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_parts

    return gpu_parts


@needs_no_gpu
def test_without_a_gpu_it_says_so_in_one_line():
    process = gpu_sh(REHEARSE_ON="")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2 and out == ""
    assert err.startswith("error: no CUDA device: ") and err.count("\n") == 1


def test_correctness_comes_first_then_eager_then_the_profile_then_compiled(gpu_parts, tmp_path, monkeypatch):
    monkeypatch.delenv("VOLTA_HOME", raising=False)
    parts = gpu_parts.planned(gpu_parts.flags().parse_args([]), tmp_path)
    names = ["check", "eager-256", "eager-1024", "profile", "compiled-256", "compiled-1024"]
    assert [part.name for part in parts] == names
    for part in parts[1:]:
        assert part.command.index("ctrl_uniter_base") < part.command.index("switchbert")
        assert part.command[part.command.index("--dtype") + 1] == "bfloat16"
        assert ("--compile" in part.command) == part.name.startswith("compiled")


def test_a_rehearsal_runs_its_parts_each_into_its_file(narrow, tmp_path):
    models = narrow("ctrl_uniter_base"), narrow("switchbert")
    flags = ("--layers", 1, "--batches", 2, 3, "--rounds", 1, "--steps", 2, "--dtype", "float32", "--seconds", 1500)
    names = ["check", "eager-3", "profile", "compiled-2"]
    process = gpu_sh("--device", "cpu", "--models", *models, *flags, "--out", tmp_path, "--parts", *reversed(names))
    out, err = process.communicate(timeout=1500)
    assert (process.returncode, err) == (0, ""), out
    assert [line.split(",")[0] for line in out.splitlines() if line.startswith("# ")] == [f"# {name}" for name in names]
    files = {path.name: path for path in tmp_path.iterdir() if path.suffix in (".txt", ".gz")}
    assert sorted(files) == sorted([*(f"{name}.txt" for name in names), "trace.json.gz"])
    for name in ("eager-3", "compiled-2"):
        text = files[f"{name}.txt"].read_text()
        assert list(rows_of(text))[2:] == list(models)
        assert f"torch {torch.__version__}" in text and f"{models[1]}, first batch:" in text
    profile = files["profile.txt"].read_text()
    assert profile.index(f"### {models[0]}") < profile.index("matrix products") < profile.index(f"### {models[1]}")
    assert json.loads(gzip.decompress(files["trace.json.gz"].read_bytes()))["traceEvents"]
    assert " passed" in files["check.txt"].read_text()


def test_a_part_that_hangs_is_ended_at_its_limit_and_one_that_fails_is_named(gpu_parts, tmp_path, capsys):
    parts = [
        gpu_parts.Part("first", 1, ("-c", SAY)),
        gpu_parts.Part("hangs", 1, ("-c", STUBBORN + CHILD + HANG)),
        gpu_parts.Part("fails", 1, ("-c", SAY + "sys.exit(3)")),
        gpu_parts.Part("last", 2, ("-c", SAY)),
    ]
    started = time.monotonic()
    status = gpu_parts.run(parts, 50, tmp_path, dict(os.environ))
    taken = time.monotonic() - started
    assert status == 1
    assert capsys.readouterr().err == "failed: hangs (ended at its limit of 10 s), fails (status 3)\n"
    texts = {path.stem: path.read_text() for path in tmp_path.iterdir()}
    assert all("measured\n" in texts[part.name] for part in parts)  # what a part printed before it was ended stays
    assert "\nended at its limit of 10 s, after 1" in texts["hangs"] and "\ndone, after " in texts["last"]
    assert 10 <= taken < 50
    child = next(line for line in texts["hangs"].splitlines() if line.isdecimal())
    assert not is_running(int(child))


def test_limits_are_shares_of_the_time_and_later_parts_keep_theirs(gpu_parts, tmp_path):
    parts = [gpu_parts.Part("short", 1, ("-c", SAY)), gpu_parts.Part("long", 3, ("-c", SAY))]
    assert gpu_parts.run(parts, 80, tmp_path, dict(os.environ)) == 0
    assert (tmp_path / "short.txt").read_text().startswith("# short, at most 20 s\n")
    assert (tmp_path / "long.txt").read_text().startswith("# long, at most 60 s\n")


def test_what_one_part_compiles_the_next_find_unless_one_failed(gpu_parts, tmp_path):
    tell = SAY + "print('cache', os.environ['TORCHINDUCTOR_CACHE_DIR']); "
    parts = [gpu_parts.Part(name, 1, ("-c", tell)) for name in ("one", "two")]
    parts += [gpu_parts.Part("fails", 1, ("-c", tell + "sys.exit(1)")), gpu_parts.Part("after", 1, ("-c", tell))]
    gpu_parts.run(parts, 100, tmp_path, dict(os.environ))
    texts = [(tmp_path / f"{part.name}.txt").read_text() for part in parts]
    one, two, fails, after = (text.split("\ncache ")[1].split()[0] for text in texts)
    assert one == two == fails != after


def test_ended_from_outside_it_ends_the_part_under_way_and_leaves_its_file(narrow, tmp_path):
    models = narrow("ctrl_uniter_base"), narrow("switchbert")
    flags = ("--models", *models, "--layers", 1, "--batches", 2, 3, "--parts", "eager-2", "--rounds", 100000)
    process = gpu_sh("--device", "cpu", *flags, "--seconds", 600, "--out", tmp_path / "out")
    file = tmp_path / "out" / "eager-2.txt"
    wait_for(lambda: file.is_file() and "round 1" in file.read_text())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "s a step, round 1" in file.read_text()
    wait_for(lambda: not commands_with(models[0]))


def test_a_part_that_there_is_not_is_refused(tmp_path):
    process = gpu_sh("--device", "cpu", "--parts", "warm", "--out", tmp_path / "out")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "--parts warm: there are check, eager-256, eager-1024" in err
    assert not (tmp_path / "out").exists()


def test_five_minutes_are_the_default_and_a_variable_changes_them(gpu_parts, monkeypatch):
    monkeypatch.delenv("SECONDS_IN_ALL", raising=False)
    assert gpu_parts.flags().parse_args([]).seconds == 300
    monkeypatch.setenv("SECONDS_IN_ALL", "120")
    assert gpu_parts.flags().parse_args([]).seconds == 120


def test_with_a_checkout_volta_is_measured_last(gpu_parts, monkeypatch, tmp_path):
    monkeypatch.setenv("VOLTA_HOME", "/checkout")
    parts = gpu_parts.planned(gpu_parts.flags().parse_args([]), tmp_path)
    assert [part.name for part in parts][-1] == "beside-volta" and "volta" in parts[-1].command
    assert len(parts) + 1 <= 8  # files with the trace: as many as come back from a lent machine


# A trace of two steps as PyTorch writes it on a GPU, cut down: kernels on two streams, what launched them, a range.
TRACE = [
    {"ph": "X", "cat": "kernel", "name": "nvjet_hsh_128x256_64x4_TNT", "pid": 0, "tid": 7, "ts": 0, "dur": 40},
    {"ph": "X", "cat": "kernel", "name": "nvjet_hsh_128x256_64x4_TNT", "pid": 0, "tid": 7, "ts": 50, "dur": 40},
    {"ph": "X", "cat": "kernel", "name": "triton_poi_fused_add_0", "pid": 0, "tid": 8, "ts": 60, "dur": 50},
    {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy HtoD (Pinned)", "pid": 0, "tid": 7, "ts": 120, "dur": 10},
    {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 1, "tid": 1, "ts": 0, "dur": 2},
    {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernelExC", "pid": 1, "tid": 1, "ts": 3, "dur": 2},
    {"ph": "X", "cat": "cuda_driver", "name": "cuLaunchKernelEx", "pid": 1, "tid": 1, "ts": 6, "dur": 2},
    {"ph": "X", "cat": "cuda_runtime", "name": "cudaDeviceSynchronize", "pid": 1, "tid": 1, "ts": 9, "dur": 99},
    {"ph": "X", "cat": "gpu_user_annotation", "name": "Optimizer.step", "pid": 0, "tid": 7, "ts": 0, "dur": 99},
    {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 1, "ts": 0, "dur": 9},
    {"ph": "s", "cat": "ac2g", "name": "ac2g", "pid": 1, "tid": 1, "ts": 0},
]  # fmt: skip


@pytest.fixture
def profile_step(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import profile_step

    return profile_step


def test_a_profile_counts_launches_and_adds_up_kernels_by_kind(profile_step):
    found = profile_step.Profile.of(TRACE, "cuda", steps=2)
    assert (found.launches, found.waits, found.busy) == (3, 1, 40 + 60 + 10)
    assert found.by_kind() == {
        "matrix products": (2, 80),
        "compiled (Triton)": (1, 50),
        "copies, casts, zeros": (1, 10),
    }
    text = profile_step.described("model", found, seconds=1e-3, device="cuda")
    assert "a step takes 1.00 ms; kernels are at work in 0.06 ms of it, 6 %" in text and "launches a step: 2" in text
    assert rows_of(text)["matrix products"] == ["1", "0.040", "57.1"]


def test_an_operators_own_time_is_without_that_of_those_inside_it(profile_step):
    lane = [
        (0.0, 10.0, "outer"),
        (1.0, 4.0, "inner"),
        (2.0, 3.0, "innermost"),
        (4.0, 6.0, "inner"),
        (10.0, 11.0, "next"),
    ]
    assert profile_step.own_times(lane) == [("outer", 5), ("inner", 2), ("innermost", 1), ("inner", 2), ("next", 1)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1", "matrix products"),
        (
            "void at::native::(anonymous namespace)::softmax_warp_forward<float, float, float, 7, false, false>",
            "softmax",
        ),
        ("void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda", "copies, casts, zeros"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>", "copies, casts, zeros"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl", "other pointwise"),
        ("void at::native::multi_tensor_apply_kernel<at::native::FusedAdamMathFunctor", "optimiser, gradient norm"),
        ("void at::native::indexSelectLargeIndex<float, long, unsigned int, 2, 2, -2, true>", "gathers and scatters"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float", "sums and other reductions"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float, float>", "LayerNorm"),
        ("a_kernel_of_another_kind", "other"),
    ],
)
def test_kernels_are_told_apart_by_their_names(profile_step, name, kind):
    assert profile_step.kind_of(name) == kind


def is_running(pid):
    """Whether a process lives; one that has ended and was not asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def commands_with(word):
    """The processes with a word in their command line, this one aside."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word in path.read_text().split("\0") and int(path.parent.name) != os.getpid():
                found.append(path)
        except OSError:
            continue
    return found


def wait_for(true, seconds=240):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)
