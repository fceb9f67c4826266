#!/usr/bin/env bash
# Test of a model fine-tuned on retrieval in COCO, over all pairs of the 5k test; --split test1k for VOLTA's 1k.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/coco/test.sh [more flags]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../run.sh"

evaluate eval_retrieval.py coco RetrievalCOCO "$@"
