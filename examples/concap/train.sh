#!/usr/bin/env bash
# Pre-training on Conceptual Captions, from BERT-base.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/concap/train.sh [more flags]
# DATA says where the captions lie, BERT which weights to start from ('' for none).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../run.sh"

DATA=${DATA:-datasets/conceptual_captions}
real=(
  --from_pretrained "${BERT-bert-base-uncased}" --train_batch_size 256
  --annotations_path "$DATA/annotations" --features_path "$DATA/resnet101_faster_rcnn_genome_imgfeats/volta"
  --output_dir "$OUT/concap" --logdir "logs/concap" --resume
)
if on_world "$@"; then real=(); fi
train train_concap.py --config_file "$MODEL" \
  --learning_rate 1e-4 --num_train_epochs 10 --max_seq_length 38 --objective 1 \
  --adam_epsilon 1e-6 --adam_betas 0.9 0.999 --weight_decay 0.01 --warmup_proportion 0.1 --clip_grad_norm 5.0 \
  ${real[@]+"${real[@]}"} "$@"
