#!/usr/bin/env bash
# Fine-tuning on RetrievalFlickr30k from a pre-trained model.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/flickr30k/train.sh [more flags]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
MODEL=${MODEL:-switchbert}
NAME=$(basename "${MODEL%.json}")
OUT=${OUT:-checkpoints}
TASKS=${TASKS:-config_tasks/ctrl_trainval_tasks.yml}
WEIGHTS=${WEIGHTS-$OUT/concap/$NAME/pytorch_model_best.bin}

"${PYTHON:-python}" train_task.py --config_file "$MODEL" --from_pretrained "$WEIGHTS" \
  --tasks_config_file "$TASKS" --task 8 \
  --adam_epsilon 1e-6 --adam_betas 0.9 0.999 --weight_decay 0.0001 --warmup_proportion 0.1 --clip_grad_norm 1.0 \
  --output_dir "$OUT/flickr30k" --logdir "logs/flickr30k" --resume "$@"
