#!/usr/bin/env bash
# Test of a model fine-tuned on RefCOCOg.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/refcocog/test.sh [more flags]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../run.sh"

evaluate eval_task.py refcocog refcocog "$@"
