#!/usr/bin/env bash
# Fine-tuning on GQA from a pre-trained model.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/gqa/train.sh [more flags]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../run.sh"

fine_tune gqa GQA "$@"
