#!/usr/bin/env bash
# Fine-tuning on NLVR2 from a pre-trained model.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/nlvr2/train.sh [more flags]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../run.sh"

fine_tune nlvr2 NLVR2 "$@"
