#!/usr/bin/env bash
# Zero-shot retrieval on Flickr30k with the pre-trained matching head.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/concap/test.sh [more flags]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../run.sh"

WEIGHTS=${WEIGHTS:-$OUT/concap/$NAME/pytorch_model_best.bin}
evaluate eval_retrieval.py concap RetrievalFlickr30k --zero_shot "$@"
