#!/usr/bin/env bash
# Fine-tuning on retrieval in Flickr30k from a pre-trained model.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/flickr30k/train.sh [more flags]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../run.sh"

fine_tune flickr30k RetrievalFlickr30k "$@"
