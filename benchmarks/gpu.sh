#!/usr/bin/env bash
# Everything that is measured on one CUDA GPU, in at most 9 minutes:
#
#     [VOLTA_HOME=...] bash benchmarks/gpu.sh [python]
#
# Each part has a time limit of its own; the parts that fail are named at the end, and the status is then 1.
# Without a CUDA device it says so, status 2.
set -euo pipefail
python=${1:-python3}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export OMP_NUM_THREADS=1
export PYTHONPATH="$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH}"
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "error: no CUDA device: PyTorch sees none; run this on a machine with one" >&2
    exit 2
fi

failed=()
part() { # part SECONDS TITLE COMMAND...: one part, bounded; its failure does not stop the others
    local limit=$1 title=$2
    shift 2
    printf '\n## %s\n\n    %s\n\n' "$title" "$*"
    timeout --kill-after=5 "$limit" "$python" "$@" || failed+=("$title")
}
bench() { # bench SECONDS TITLE SCRIPT FLAGS...: a benchmark on the GPU in bfloat16
    local limit=$1 title=$2 script=$3
    shift 3
    part "$limit" "$title" "$here/$script.py" --device cuda --dtype bfloat16 "$@"
}

date --utc
if command -v nvidia-smi > /dev/null; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || true
fi
"$python" -c 'import platform, torch
print("Python", platform.python_version(), "torch", torch.__version__, "CUDA", torch.version.cuda)'
volta=none
[[ -z ${VOLTA_HOME:-} ]] || volta=volta

# 9 minutes are 540 s; the limits add up to 535. What the first part compiles, the others find in Inductor's cache.
both=(--model ctrl_uniter_base switchbert --compile)
bench 190 "A step, compiled, 256 samples" train_step "${both[@]}" --batch 256 --steps 20
bench 110 "A step, compiled, 1,024 samples" train_step "${both[@]}" --batch 1024 --steps 10
bench 70 "A step beside VOLTA's in float32, 256 samples" train_step --compile --batch 256 --steps 5 --rounds 3 \
    --against "$volta" --volta-dtype float32
bench 20 "The core of switched attention, 38 + 37" attention --batch 256 --steps 20
bench 20 "The core of switched attention, 128 + 576" attention --batch 64 --text 128 --regions 576 --steps 10
bench 40 "Retrieval" retrieval --batch 1024 --captions 256 --images 64 --rounds 4 --steps 4 --against "$volta"
bench 85 "Waiting for data" data_wait --compile --batch 256 --steps 20 --workers "$(($(nproc) > 2 ? $(nproc) - 2 : 1))"

if ((${#failed[@]})); then
    printf '\nfailed: %s\n' "${failed[@]}" >&2
    exit 1
fi
