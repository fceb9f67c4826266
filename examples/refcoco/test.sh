#!/usr/bin/env bash
# Test of a model fine-tuned on RefCOCO: testA, testB and both together.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/refcoco/test.sh [more flags]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../run.sh"

evaluate eval_task.py refcoco refcoco "$@"
