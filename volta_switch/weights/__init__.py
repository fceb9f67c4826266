"""Weights in and out: VOLTA's checkpoints, safetensors, and the text side from a Hugging Face BERT.

| module | subject |
|---|---|
| ``files`` | weight files, read and written |
| ``loading`` | into a model and out of it under VOLTA's names, whatever names a file uses; whose weights it holds |
| ``bert`` | the text side from a BERT |

This project's modules carry VOLTA's names, and shared weights stand under each of VOLTA's names. Loading accounts for
every name, shape and type: what is missing, left over, misshapen, contradictory or not finite raises.
"""

from volta_switch.weights.bert import StartFromBert, load_bert, volta_name
from volta_switch.weights.files import load_plain, read_tensors, read_weights, write_weights
from volta_switch.weights.loading import (
    check_finite,
    fingerprint,
    is_of_a_run,
    load_volta,
    shared_names,
    state_fingerprint,
    to_volta,
)

__all__ = [
    "StartFromBert",
    "check_finite",
    "fingerprint",
    "is_of_a_run",
    "load_bert",
    "load_plain",
    "load_volta",
    "read_tensors",
    "read_weights",
    "shared_names",
    "state_fingerprint",
    "to_volta",
    "volta_name",
    "write_weights",
]
