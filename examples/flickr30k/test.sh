#!/usr/bin/env bash
# Test of a model fine-tuned on retrieval in Flickr30k, over all pairs.
# Usage: [MODEL=ctrl_uniter_base] [OUT=checkpoints] bash examples/flickr30k/test.sh [more flags]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../run.sh"

evaluate eval_retrieval.py flickr30k RetrievalFlickr30k "$@"
