#!/usr/bin/env bash
# Test of a model fine-tuned on GQA, on its test-dev.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/gqa/test.sh [more flags]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../run.sh"

evaluate eval_task.py gqa GQA "$@"
