#!/usr/bin/env bash
# Fine-tuning on RefCOCO from a pre-trained model.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/refcoco/train.sh [more flags]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../run.sh"

fine_tune refcoco refcoco "$@"
