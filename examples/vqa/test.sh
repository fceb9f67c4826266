#!/usr/bin/env bash
# Test of a model fine-tuned on VQAv2; test_result.json is what the evaluation server takes.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/vqa/test.sh [more flags]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../run.sh"

evaluate eval_task.py vqa VQA "$@"
