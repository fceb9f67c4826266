#!/usr/bin/env bash
# Fine-tuning on SNLI-VE from a pre-trained model.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/snli_ve/train.sh [more flags]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../run.sh"

fine_tune snli_ve VisualEntailment "$@"
