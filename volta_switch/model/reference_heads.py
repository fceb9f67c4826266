"""The specification's second part: pre-training heads, their losses, and task heads; see ``reference``.

Legend: B batch, T text tokens, R regions, N boxes (regions without the global one), D hidden, P pooler width,
V vocabulary, K masked words or boxes, F feature width, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from volta_switch.errors import UserError

if TYPE_CHECKING:
    from volta_switch.model.bert import Output
    from volta_switch.model.reference import Reference, States

NEGATIVES = 128  # of visual target 2: 70 % from other images of the batch, 30 % from the same image
PADDED_SCORE = -10000.0  # of a region that is padding


def fused(reference: Reference, out: Output) -> Tensor | None:
    """The pooled vectors of text and image as one, (B, P); None where the configuration pools none."""
    return None if out.pooled_t is None else reference.config.fusion.combine(out.pooled_t, out.pooled_v)


def transformed(reference: Reference, name: str, states: Tensor) -> Tensor:
    """Linear layer, activation and (in some region heads not) LayerNorm, (..., D) to (..., D)."""
    states = reference.dense(f"{name}.dense", reference.config.hidden_act, states)
    has_norm = f"{name}.LayerNorm.weight" in reference.weights
    return reference.norm(f"{name}.LayerNorm", states) if has_norm else states


# --- Pre-training (section 2.4.3) ---------------------------------------------------------------------------------


def pretrain(reference: Reference, batch: dict[str, Tensor], states: States, out: Output) -> None:
    """Fills in the scores of all positions, or with labels the losses."""
    words = transformed(reference, "cls.predictions.transform", states["t"])  # (B, T, D)
    words = F.linear(words, reference.table("word_embeddings"), reference.weights["cls.predictions.bias"])  # (B, T, V)
    regions = transformed(reference, "cls.imagePredictions.transform", states["v"])  # (B, R, D_v)
    active = sorted(target for target, weight in reference.config.visual_target_weights.items() if weight > 0)
    scores = {target: reference.linear(f"cls.imagePredictions.decoder_dict.{target}", regions) for target in active}
    pooled, match = fused(reference, out), None
    if pooled is not None and "cls.bi_seq_relationship.weight" in reference.weights:
        match = reference.linear("cls.bi_seq_relationship", pooled)  # (B, 2), 0 aligned
    if not batch.keys() & {"masked_lm_labels", "image_label", "next_sentence_label"}:
        out.sequence_t, out.sequence_v = states["t"], states["v"]
        out.prediction_scores_t, out.prediction_scores_v, out.seq_relationship_score = words, scores, match
    if "masked_lm_labels" in batch:  # MLM, over the masked words; labels at padding are ignored
        wanted = batch["masked_lm_labels"].masked_fill(batch["attention_mask"] == 0, -1)  # (B, T)
        masked = wanted != -1
        out.loss_mlm = cross_entropy(words[masked], wanted[masked]).sum() / max(int(masked.sum()), 1)
    if "image_label" in batch:
        out.loss_vision = region_loss(reference, batch, scores)
    if "next_sentence_label" in batch and match is not None:  # ITM
        out.loss_itm = cross_entropy(match, batch["next_sentence_label"]).mean()


def region_loss(reference: Reference, batch: dict[str, Tensor], scores: dict[str, Tensor]) -> Tensor:
    """The weighted sum of VOLTA's visual targets, each a mean over the masked boxes; 0 is the paper's MRC-KL."""
    first = {None: 0, "last": 0, "first": 1}[reference.config.add_global_imgfeat]

    def boxes(regions: Tensor) -> Tensor:  # (B, R, ...) to (B, N, ...)
        return regions[:, first : first + batch["image_label"].shape[1]]

    masked = (batch["image_label"] == 1) & (boxes(batch["image_attention_mask"]) != 0)  # (B, N)
    features = batch.get("image_feat_target", boxes(batch["image_feat"]))  # (B, N, F)
    count, total = max(int(masked.sum()), 1), features.new_zeros(())

    def labels(name: str, target: str) -> Tensor:  # (K, ...)
        if name not in batch:
            raise UserError(f"visual target {target} needs {name} in the batch")
        return batch[name] if name == "image_cls" and batch[name].dim() == 2 else batch[name][masked]

    for target, of_regions in scores.items():
        found = boxes(of_regions)[masked]  # (K, width)
        if target == "0":  # KL(detector || model) over the classes
            wanted = labels("image_cls", target)
            loss = (torch.xlogy(wanted, wanted) - wanted * found.log_softmax(-1)).sum() / count
        elif target == "1":
            loss = (found - features[masked]).square().sum(-1).sum() / count / found.shape[-1]
        elif target == "2":
            loss = contrast(found, features, masked)
        elif target == "3":  # weighted by the detector's confidence, as 4
            loss = (cross_entropy(found, labels("obj_labels", target)) * labels("obj_confs", target)).sum() / count
        elif target == "4":
            loss = (cross_entropy(found, labels("attr_labels", target)) * labels("attr_confs", target)).sum() / count
        elif target == "5":
            loss = F.smooth_l1_loss(found, features[masked], reduction="sum") / count / found.shape[-1]
        else:
            loss = cross_entropy(found, labels("obj_labels", target)).sum() / count
        total = total + reference.config.visual_target_weights[target] * loss
    return total


def contrast(found: Tensor, features: Tensor, masked: Tensor) -> Tensor:
    """Target 2: each prediction (K, F) finds its feature among it and 128 others; 0 where there are none.

    The others are drawn from the boxes (B, N, F) uniformly, never the feature itself, from PyTorch's generator.
    """
    (B, N, _), (image, box) = features.shape, masked.nonzero(as_tuple=True)  # (K,) each
    if B < 2 or N < 2 or len(image) == 0:
        return found.sum() * 0

    def draw(low: int, high: int, count: int) -> Tensor:  # (K, count)
        return torch.randint(low, high, (len(image), count), device=found.device)

    across = int(NEGATIVES * 0.7)
    other = (image[:, None] + draw(1, B, across)) % B, draw(0, N, across)
    same = image[:, None], (box[:, None] + draw(1, N, NEGATIVES - across)) % N
    choices = torch.cat((features[masked][:, None], features[other], features[same]), 1)  # (K, 129, F)
    return cross_entropy(torch.einsum("kcf,kf->kc", choices, found), torch.zeros_like(image)).mean()


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """-log softmax at the labels, (K, C) and (K,) to (K,)."""
    return F.cross_entropy(scores, labels, reduction="none")


# --- Task heads ---------------------------------------------------------------------------------------------------


def task_scores(reference: Reference, task: str, states: States, real: States, out: Output) -> Tensor:
    """The scores of one task's head, as ``BertForVLTasks``."""
    kind, name = reference.model.tasks[task]["type"], f"clfs_dict.{task}"  # type: ignore[index]
    if kind == "V-logit":  # a score for each region, (B, R, 1)
        rows = states["v"]
        if f"{name}.3.weight" in reference.weights:
            scores = reference.linear(f"{name}.3", F.gelu(reference.linear(f"{name}.0", rows)))
        else:
            scores = reference.linear(name, rows)
        return scores.masked_fill(~real["v"][..., None], PADDED_SCORE)
    pooled = fused(reference, out)
    if pooled is None:
        raise UserError(f"{task}: fusion_method none leaves nothing to classify; set another fusion_method")
    if kind == "VL-binary-classifier" and not reference.config.fusion.joins_images:
        pooled = torch.cat((pooled[0::2], pooled[1::2]), -1)  # a text's two images side by side, (B / 2, 2 * P)
    if kind in ("VL-logit", "VL-tri-classifier") or reference.config.clf_hidden_size is None:
        return reference.linear(name, pooled)  # (B, 1), (B, 3) or (B, labels)
    hidden = F.gelu(reference.linear(f"{name}.logit_fc.0", pooled))
    return reference.linear(f"{name}.logit_fc.3", reference.norm(f"{name}.logit_fc.2", hidden))  # (B, labels)
