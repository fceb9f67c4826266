#!/usr/bin/env bash
# Zero-shot retrieval on Flickr30k with the pre-trained matching head.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/concap/test.sh [more flags]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../run.sh"

TESTED=$OUT/concap/$NAME
evaluate eval_retrieval.py concap RetrievalFlickr30k --zero_shot "$@"
