#!/usr/bin/env bash
# Zero-shot retrieval on Flickr30k with the pre-trained matching head.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/concap/test.sh [more flags]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
MODEL=${MODEL:-switchbert}
NAME=$(basename "${MODEL%.json}")
OUT=${OUT:-checkpoints}
TASKS=${TASKS:-config_tasks/ctrl_test_tasks.yml}
WEIGHTS=${WEIGHTS:-$OUT/concap/$NAME/pytorch_model_best.bin}

"${PYTHON:-python}" eval_retrieval.py --config_file "$MODEL" --from_pretrained "$WEIGHTS" --zero_shot \
  --tasks_config_file "$TASKS" --task 8 --split test --output_dir "results/concap" "$@"
