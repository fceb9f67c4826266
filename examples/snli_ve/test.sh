#!/usr/bin/env bash
# Test of a model fine-tuned on SNLI-VE.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/snli_ve/test.sh [more flags]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../run.sh"

evaluate eval_task.py snli_ve VisualEntailment "$@"
