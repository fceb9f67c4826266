"""Scores of all pairs of c texts with i images, what depends on one modality alone being computed once.

The scores equal those of the model run over the c * i pairs (``expand_pairs``). The states lie in banks (``banks``), of
which one item may serve many pairs: texts and images are embedded once, and a modality that attends to itself alone, in
a static encoder's lower layers or under a hard route (``SS``; ``SC`` for text, ``CS`` for vision), stays shared.

Legend: c texts, i images, P = c * i pairs, T text tokens, R regions, U items of a bank, D hidden.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from volta_switch.errors import UserError
from volta_switch.model import banks
from volta_switch.model.banks import Bank, per_pair
from volta_switch.model.bert import BertForVLPreTraining, BertForVLTasks, BertModel
from volta_switch.model.embeddings import ModelInputs, VLBertEmbeddings
from volta_switch.model.encoder import SwitchEncoder
from volta_switch.model.rows import PackedLayout
from volta_switch.model.sublayers import AttentionSublayer, FeedForwardSublayer

Banks = tuple[Bank, Bank]  # of text and of vision


def score_pairs(
    model: BertForVLTasks | BertForVLPreTraining,
    texts: dict[str, Tensor],
    images: dict[str, Tensor],
    task: str | None = None,
) -> Tensor:
    """(c, i) scores of c texts with each of i images, float32; no gradient.

    Of a model with task heads, the ``task``'s first logit; of a pre-training model, the probability that its matching
    head gives to "aligned".

    Args:
        model: in evaluation mode.
        texts: input_ids, token_type_ids, attention_mask, (c, T).
        images: image_feat (i, R, F), image_loc (i, R, num_locs), image_attention_mask (i, R).
        task: the name of a VL-logit task; only for a model with task heads.

    Raises:
        UserError: a model whose heads do not score pairs.
    """
    if model.training:
        raise ValueError("score_pairs needs a model in evaluation mode: call model.eval() first")
    device = images["image_feat"].device.type
    with torch.inference_mode():
        text, vision = encode_pairs(model.bert, texts, images)
        pooled_t, pooled_v = _pooled(model.bert.t_pooler, text), _pooled(model.bert.v_pooler, vision)
        pooled = None if pooled_t is None else model.config.fusion.combine(pooled_t, pooled_v)
    # The head works in float32, whatever the precision: of scores in bfloat16 many are equal, and a tie is no win.
    with torch.inference_mode(), torch.autocast(device, enabled=False):
        pooled = None if pooled is None else pooled.float()
        if isinstance(model, BertForVLTasks):
            if task not in model.tasks or model.tasks[task]["type"] != "VL-logit" or pooled is None:
                raise UserError(f"{task}: scoring pairs needs a VL-logit head of this name and a fusion_method")
            scores = model.clfs_dict[task](pooled)[:, 0]  # (P,)
        else:
            match = model.cls.match(pooled)
            if match is None:
                raise UserError("zero-shot retrieval needs a model with a matching head (fusion_method is none)")
            scores = match.softmax(-1)[:, 0]
    return scores.view(len(texts["input_ids"]), -1)


def expand_pairs(texts: dict[str, Tensor], images: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model's inputs for every pair, (P, ...): pair ``text * i + image``."""
    c, i = len(texts["input_ids"]), len(images["image_feat"])
    each = {name: tensor.repeat_interleave(i, 0) for name, tensor in texts.items()}
    return each | {name: tensor.repeat(c, *[1] * (tensor.dim() - 1)) for name, tensor in images.items()}


def encode_pairs(bert: BertModel, texts: dict[str, Tensor], images: dict[str, Tensor]) -> tuple[Bank, Bank]:
    """Last states of what is pooled, for every pair; arguments as those of ``score_pairs``."""
    text, vision = _embedded(bert, texts, images)
    if isinstance(bert.encoder, SwitchEncoder):
        return _switched(bert.encoder, text, vision)
    ends = bert.encoder.last_text, bert.encoder.last_vision
    for number, sublayer in enumerate(bert.encoder.layer):
        if isinstance(sublayer, AttentionSublayer):
            text, vision = banks.attention(sublayer, text, vision, last_read=(number == ends[0], number == ends[1]))
        else:
            text, vision = banks.feed_forward(cast(FeedForwardSublayer, sublayer), text, vision)
    return text, vision


def _switched(encoder: SwitchEncoder, text: Bank, vision: Bank) -> tuple[Bank, Bank]:
    """As ``SwitchEncoder.forward``, with the switchers' own routes."""

    def run_layer(
        index: int, last: Banks, before: Banks, *, shares: Tensor | None, weights: Tensor | None
    ) -> tuple[Banks, Banks]:
        if shares is not None:
            on_host = shares.cpu()  # once for both modalities: a GPU is waited for
            text, vision = (banks.choose_input(last[n], before[n], shares[n], on_host=on_host[n]) for n in (0, 1))
            last = text, vision
        ends = 2 * index == encoder.last_text, 2 * index == encoder.last_vision
        attend, feed = cast(AttentionSublayer, encoder.layer[2 * index]), encoder.layer[2 * index + 1]
        mixture = None if weights is None else (weights, encoder.switch.modes)
        attended = banks.attention(attend, *last, last_read=ends, mixture=mixture)
        return banks.feed_forward(cast(FeedForwardSublayer, feed), *attended), last

    def means_of(index: int, states: Banks) -> Tensor:
        return torch.stack((states[0].means(), states[1].means()))  # (2, P, D)

    last, _ = encoder.run_layers((text, vision), run_layer, means_of, B=len(text.item))
    return last


def _embedded(bert: BertModel, texts: dict[str, Tensor], images: dict[str, Tensor]) -> tuple[Bank, Bank]:
    """A bank of the texts and one of the images; of the pairs where words are embedded with their image."""
    c, i = len(texts["input_ids"]), len(images["image_feat"])
    of_text, of_image = torch.arange(c).repeat_interleave(i), torch.arange(i).repeat(c)  # (P,)
    given = texts | images
    if isinstance(bert.embeddings, VLBertEmbeddings):
        given, of_text = expand_pairs(texts, images), torch.arange(c * i)
        of_image = of_text
    inputs = ModelInputs(**given)
    layout = PackedLayout.of((inputs.attention_mask, inputs.image_attention_mask), inputs.image_feat.device)
    text, vision, _ = bert.embed(inputs, layout)
    pooled, v_pooled = bert.pooled_positions(inputs.attention_mask)
    v_pooled = None if v_pooled is None else v_pooled.new_zeros(len(inputs.image_feat))
    return Bank(layout.text, text, of_text, pooled=pooled), Bank(layout.vision, vision, of_image, pooled=v_pooled)


def _pooled(pooler: nn.Module | None, bank: Bank) -> Tensor | None:
    """(P, width)."""
    if pooler is None or bank.pooled is None:
        return None
    return per_pair(pooler(bank.rows.row_of_each(bank.states, bank.pooled)), bank.item)
