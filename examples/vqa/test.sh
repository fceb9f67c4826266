#!/usr/bin/env bash
# Test of a model fine-tuned on VQA.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/vqa/test.sh [more flags]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
MODEL=${MODEL:-switchbert}
NAME=$(basename "${MODEL%.json}")
OUT=${OUT:-checkpoints}
TASKS=${TASKS:-config_tasks/ctrl_test_tasks.yml}
WEIGHTS=${WEIGHTS:-$OUT/vqa/VQA_$NAME/pytorch_model_best.bin}

"${PYTHON:-python}" eval_task.py --config_file "$MODEL" --from_pretrained "$WEIGHTS" \
  --tasks_config_file "$TASKS" --task 1 --split test --output_dir "results/vqa" "$@"
