"""Floating-point operations as executed, by arithmetic and by PyTorch's counter; parameters and saved activations.

A matrix product of (m, k) and (k, n) is 2 m k n; nothing else counts. Only useful work counts: real tokens and regions,
heads at masked positions, in the last layers the rows that are read. The attention's products are over the slots of the
longest sample of the batch, as executed (about 1 % of the whole at 38 + 37 slots). VOLTA does the same work and more,
so that its useful operations are these, too.

Legend: B batch, D hidden, P pooler width, V vocabulary, F feature width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from volta_switch.config import Config, attention_size, intermediate_size
from volta_switch.cost.counts import BatchCounts, some_batch
from volta_switch.data.batches.collate import Batch
from volta_switch.model.bert import BertForVLPreTraining
from volta_switch.model.heads import target_widths

# Products of a training step for one of the forward pass: without any gradient, with none of its input, with both.
FORWARD, FIRST, INNER = 1, 2, 3


def count_flops(run: Callable[[], Any]) -> int:
    """Returns the operations that PyTorch's counter sees in a run, those inside our own autograd functions included."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def training_step(config: Config, counts: BatchCounts) -> float:
    """Returns the FLOPs of a forward and backward pass, by arithmetic."""
    return training_flops(config, counts, encoder(config, counts))


def inference(config: Config, counts: BatchCounts) -> float:
    """Returns the FLOPs of a forward pass, by arithmetic.

    Of pre-training it is the validation's pass, which reads masked positions alone.
    """
    return inference_flops(config, counts, encoder(config, counts))


def training_flops(config: Config, counts: BatchCounts, of_encoder: float) -> float:
    """Returns the FLOPs of ``training_step`` with ``of_encoder`` multiplications in the encoder's forward pass.

    Every product has two more in the backward pass, one for each factor. The regions' features take no gradient,
    except in VL-BERT, where masked features are learnt. What a task's head does not read takes none either.
    """
    first = INNER if config.image_embeddings == "vl-bert" else FIRST
    around = switchers(config, counts) + head(config, counts)
    pooled = FORWARD if _grounds(counts) else INNER
    of_encoder -= (1 - FORWARD / INNER) * macs_without_backward(config, counts)
    inner = first * region_embedding(config, counts) + pooled * poolers(config, counts)
    return 2.0 * (INNER * (of_encoder + around) + inner)


def inference_flops(config: Config, counts: BatchCounts, of_encoder: float) -> float:
    """Returns the FLOPs of ``inference`` with ``of_encoder`` multiplications in the encoder."""
    around = (region_embedding, switchers, head, poolers)
    return 2.0 * (of_encoder + sum(part(config, counts) for part in around))


def region_embedding(config: Config, counts: BatchCounts) -> int:
    """Returns the multiplications of regions' features and locations with their projections."""
    D, F = config.v_hidden_size, config.v_feature_size
    if config.image_embeddings == "vl-bert":  # coordinates as wide as the features
        further = (counts.vision.rows + counts.samples) * D * config.hidden_size
        return counts.vision.rows * 2 * F * D + (further if config.hidden_size != D else 0)
    located = 0 if config.image_embeddings == "visualbert" else config.num_locs
    return counts.vision.rows * D * (F + located)


def encoder(config: Config, counts: BatchCounts) -> int:
    """Returns the multiplications of all sublayers in a forward pass."""
    of_attention = sum(attention(config, counts, number) for number in config.attention_sublayers)
    return of_attention + sum(feed_forward(config, counts, number) for number in config.ff_sublayers)


def macs_without_backward(config: Config, counts: BatchCounts) -> int:
    """Returns the encoder's multiplications that have no backward pass.

    Where only regions are scored, these are the text's own sublayers after the last attention from vision to text, and
    the keys and values of vision that only text attends to there.
    """
    if not _grounds(counts):
        return 0
    last, macs = max(config.vt_attn_sublayers, default=-1), 0
    for number in config.attention_sublayers:
        if number >= last and not _joined(config, number):
            of_queries, of_keys = _attention_of(config, counts, number, 0)
            macs += of_queries + of_keys * (number > last)
            if number in config.tv_attn_sublayers and number not in config.vv_attn_sublayers:
                macs += _attention_of(config, counts, number, 1)[1]
    for number in config.ff_sublayers:
        if number > last and not _joined(config, number):
            macs += _feed_forward_of(config, counts, number, 0)
    return macs


def _grounds(counts: BatchCounts) -> bool:
    """Returns whether the task scores regions and nothing else."""
    return counts.task is not None and counts.task["type"] == "V-logit"


def _joined(config: Config, number: int) -> bool:
    """Returns whether a sublayer multiplies the rows of both modalities in one matrix."""
    texts = {*config.tt_attn_sublayers, *config.tv_attn_sublayers, *config.t_ff_sublayers}
    visions = {*config.vt_attn_sublayers, *config.vv_attn_sublayers, *config.v_ff_sublayers}
    return number in texts & visions & {*config.shared_sublayers}


def feed_forward(config: Config, counts: BatchCounts, number: int) -> int:
    """Returns the multiplications of one feed-forward sublayer in a forward pass."""
    return sum(_feed_forward_of(config, counts, number, side) for side in (0, 1))


def _feed_forward_of(config: Config, counts: BatchCounts, number: int, side: int) -> int:
    """Returns those of text (``side`` 0) or of vision (1)."""
    if number not in (config.t_ff_sublayers, config.v_ff_sublayers)[side]:
        return 0
    modality, D = (("", config.hidden_size), ("v_", config.v_hidden_size))[side]
    return 2 * counts.rows_still_needed(config, number)[side].rows * D * intermediate_size(config, number, modality)


def attention(config: Config, counts: BatchCounts, number: int) -> int:
    """Returns the multiplications of one attention sublayer in a forward pass.

    Switch-BERT's modes are parts of one score matrix and one product with the values, whatever their number is.
    """
    return sum(sum(_attention_of(config, counts, number, side)) for side in (0, 1))


def _attention_of(config: Config, counts: BatchCounts, number: int, side: int) -> tuple[int, int]:
    """Returns those of queries, and of keys and values, of text (``side`` 0) or of vision (1)."""
    pairs = ((config.tt_attn_sublayers, config.tv_attn_sublayers), (config.vt_attn_sublayers, config.vv_attn_sublayers))
    to_text, to_vision = (number in numbers for numbers in pairs[side])
    if not (to_text or to_vision):
        return 0, 0
    queries, keys = counts.rows_still_needed(config, number)[side], counts.rows_still_needed(config, number - 1)
    modality, D = (("", config.hidden_size), ("v_", config.v_hidden_size))[side]
    width, _ = attention_size(config, number, modality)
    slots = to_text * keys[0].longest + to_vision * keys[1].longest
    products = 2 * counts.samples * queries.longest * slots * width  # scores; weights by values
    return 2 * queries.rows * D * width + products, 2 * keys[side].rows * D * width  # query and output; key and value


def switchers(config: Config, counts: BatchCounts) -> int:
    """Returns the multiplications of Switch-BERT's decisions: one of each kind a layer, no input in the first."""
    if config.switch is None:
        return 0
    switch, layers = config.switch, len(config.attention_sublayers)
    pooled = config.hidden_size * (2 if switch.alignment == "concat" else 1)
    each = [len(switch.modes)] * layers * switch.attention + [switch.input_candidates] * (layers - 1) * switch.input
    return sum(counts.samples * switch.hidden_size * (pooled + options) for options in each)


def poolers(config: Config, counts: BatchCounts) -> int:
    """Returns the multiplications of the poolers of text and of vision."""
    if not config.fusion.through_pooler:
        return 0
    macs = counts.samples * config.pooler_size * config.hidden_size * config.fusion.pools_text
    if config.fusion.pools_vision:
        macs += counts.samples * config.v_pooler_size * config.v_hidden_size
    return macs


def head(config: Config, counts: BatchCounts) -> int:
    """Returns the multiplications of the heads: masked words, masked regions and matching, or a task's head."""
    D, D_v, P = config.hidden_size, config.v_hidden_size, config.pooler_size
    if counts.task is not None:
        return _task_head(config, counts)
    widths = (w for target, w in target_widths(config).items() if config.visual_target_weights.get(target, 0) > 0)
    macs = counts.words * D * (D + config.vocab_size) + counts.boxes * D_v * (D_v + sum(widths))
    matched = config.fusion.matches
    return macs + counts.samples * P * config.itm_dim * matched


def _task_head(config: Config, counts: BatchCounts) -> int:
    P, D_v, inner = config.pooler_size, config.v_hidden_size, config.clf_hidden_size
    task, samples = counts.task or {}, counts.samples
    kind = task["type"]
    if kind == "V-logit":
        return counts.vision.rows * D_v * (1 + D_v * (task.get("num_clf_layers", 1) == 2))
    if kind == "VL-binary-classifier":  # of two images
        rows = config.fusion.rows_of_pair
        return samples // rows * (rows * P * 2 if inner is None else inner * (rows * P + 2))
    if kind in ("VL-logit", "VL-tri-classifier"):
        return samples * P * (1 if kind == "VL-logit" else 3)
    return samples * (P * task["num_labels"] if inner is None else inner * (P + task["num_labels"]))


def pretraining_model(config: Config) -> BertForVLPreTraining:
    """Builds the pre-training model on a device that knows shapes alone."""
    with torch.device("meta"):
        return BertForVLPreTraining(config)


def parameters(config: Config) -> int:
    """Returns the number of parameters of the pre-training model."""
    return sum(parameter.numel() for parameter in pretraining_model(config).parameters())


def activation_bytes(config: Config, B: int, seed: int = 0) -> int:
    """Returns the bytes of all tensors that a pre-training step in float32 saves for its backward pass.

    Weights and the batch do not count; nor does a kernel's own memory, so that the peak of a real step is higher.
    """
    model = pretraining_model(config).train()
    batch = some_batch(B, seed, config)
    boxes = batch["image_label"].shape
    for kind in ("obj", "attr"):  # for visual targets that need them
        batch |= {f"{kind}_labels": torch.ones(boxes, dtype=torch.long), f"{kind}_confs": torch.ones(boxes)}
    inputs = Batch(batch, None, [str(sample) for sample in range(B)]).to("meta").inputs
    known = {_storage(tensor) for tensor in (*model.parameters(), *inputs.values())}
    saved: dict[int, Tensor] = {}  # kept, so that no storage is given out twice

    def keep(tensor: Tensor) -> Tensor:
        saved.setdefault(_storage(tensor), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**inputs).loss
    assert loss is not None
    return sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in known)


def _storage(tensor: Any) -> int:
    return int(tensor.untyped_storage()._cdata)
