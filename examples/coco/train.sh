#!/usr/bin/env bash
# Fine-tuning on retrieval in COCO from a pre-trained model.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/coco/train.sh [more flags]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../run.sh"

fine_tune coco RetrievalCOCO "$@"
