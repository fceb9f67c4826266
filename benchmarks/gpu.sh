#!/usr/bin/env bash
# Everything that is measured on one CUDA GPU, on a machine that may have little more than PyTorch: correctness, then steps
# of UNITER and Switch-BERT, eager, profiled and compiled, in bfloat16 with 256 and 1,024 samples; with VOLTA_HOME also
# beside VOLTA. 300 seconds in all by default; every part has its own limit and writes a file of its own as it goes.
#
#     [PYTHON=python3] [VOLTA_HOME=...] bash benchmarks/gpu.sh [--seconds 300] [--out FOLDER] [--parts check eager-256 ...]
#
# The parts that fail are named at the end, and the status is then 1; 2 without a CUDA device. See gpu_parts.py.
exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/gpu_parts.py" "$@"
