#!/usr/bin/env bash
# Test of a model fine-tuned on NLVR2 (test-P).
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/nlvr2/test.sh [more flags]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../run.sh"

evaluate eval_task.py nlvr2 NLVR2 "$@"
