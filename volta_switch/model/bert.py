"""The models: an encoder with its embeddings and poolers, alone, with pre-training heads, or with task heads.

Legend: B batch, T text tokens, R regions (the global region included), D hidden, P pooler width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volta_switch.config import Config
from volta_switch.errors import UserError
from volta_switch.model.embeddings import (
    DUAL_EMBEDDINGS,
    SHARED_EMBEDDINGS,
    TextEmbeddings,
    VisualBertEmbeddings,
    VLBertEmbeddings,
)
from volta_switch.model.encoder import SwitchEncoder, build_encoder
from volta_switch.model.heads import Pooler, PreTrainingHeads, fuse, task_head
from volta_switch.model.switch import Forced, Routes, Switcher
from volta_switch.model.visual_targets import RegionLabels, visual_loss

PADDED_SCORE = -10000.0  # added to the region scores at padding, as VOLTA does


@dataclass
class Output:
    """What a model returns; a field that was not computed is None."""

    sequence_t: Tensor  # (B, T, D)
    sequence_v: Tensor  # (B, R, D_v)
    pooled_t: Tensor | None  # (B, P)
    pooled_v: Tensor | None
    routes: Routes | None  # Switch-BERT only
    prediction_scores_t: Tensor | None = None  # (B, T, V), without labels
    prediction_scores_v: dict[str, Tensor] = field(default_factory=dict)  # target -> (B, R, width), without labels
    seq_relationship_score: Tensor | None = None  # (B, 2), 0 aligned
    scores: Tensor | None = None  # a task head's
    loss_mlm: Tensor | None = None  # scalars, with labels
    loss_vision: Tensor | None = None
    loss_itm: Tensor | None = None

    @property
    def loss(self) -> Tensor | None:
        """Sum of the losses that labels were given for."""
        given = [loss for loss in (self.loss_mlm, self.loss_vision, self.loss_itm) if loss is not None]
        return torch.stack(given).sum() if given else None


class BertModel(nn.Module):
    """Embeddings, encoder and poolers (VOLTA's ``bert``)."""

    def __init__(self, config: Config):
        super().__init__()
        self.fusion_method = config.fusion_method
        self.shared_embeddings = config.image_embeddings in SHARED_EMBEDDINGS
        if self.shared_embeddings:
            self.embeddings: TextEmbeddings = SHARED_EMBEDDINGS[config.image_embeddings](config)
        else:
            self.embeddings = TextEmbeddings(config)
            self.v_embeddings = DUAL_EMBEDDINGS[config.image_embeddings](config)
        self.encoder = build_encoder(config)
        pools_text = config.fusion_method != "none"
        pools_vision = config.fusion_method in ("mul", "sum")
        self.t_pooler = Pooler(config.hidden_size, config.pooler_size, config.fusion_act) if pools_text else None
        self.v_pooler = Pooler(config.v_hidden_size, config.v_pooler_size, config.fusion_act) if pools_vision else None

    def forward(
        self,
        input_ids: Tensor,
        image_feat: Tensor,
        image_loc: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_attention_mask: Tensor | None = None,
        modes: Forced | None = None,
        inputs: Forced | None = None,
    ) -> Output:
        """Encodes a batch.

        Args:
            input_ids, token_type_ids, attention_mask: (B, T) int64; the mask is 1 at real tokens.
            image_feat: (B, R, F).
            image_loc: (B, R, num_locs), normalised.
            image_attention_mask: (B, R), 1 at real regions.
            modes, inputs: Switch-BERT's routes, forced (``switch.forced_weights``).
        """
        token_type_ids = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if image_attention_mask is None:
            image_attention_mask = attention_mask.new_ones(image_feat.shape[:2])
        if self.shared_embeddings:
            text, vision = self.embeddings(input_ids, image_feat, image_loc, token_type_ids)
        else:
            text, vision = self.embeddings(input_ids, token_type_ids), self.v_embeddings(image_feat, image_loc)
        masks = (_additive(attention_mask), _additive(image_attention_mask))
        encoded = self.encoder(text, vision, *masks, modes=modes, inputs=inputs)
        pooled_t = pooled_v = None
        if self.t_pooler is not None:
            pooled_t = self.t_pooler(self._text_summary(encoded.text, input_ids))
        if self.v_pooler is not None:
            pooled_v = self.v_pooler(encoded.vision[:, 0])
        return Output(encoded.text, encoded.vision, pooled_t, pooled_v, encoded.routes)

    def _text_summary(self, text: Tensor, input_ids: Tensor) -> Tensor:
        """The state that stands for the text, (B, D): ``[CLS]``, or for VL-BERT's VQA the last but one real token."""
        if self.fusion_method != "vl-bert_vqa":
            return text[:, 0]
        last_but_one = (input_ids != 0).sum(1) - 2
        return text[torch.arange(len(text), device=text.device), last_but_one]


def _additive(mask: Tensor) -> Tensor:
    """(B, N) of 1 and 0 to VOLTA's (B, 1, 1, N) of 0 and -10000."""
    return (1.0 - mask[:, None, None, :].float()) * -10000.0


class BertForVLPreTraining(nn.Module):
    """Masked words, masked regions and image-text matching (paper section 2.4.3)."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.bert = BertModel(config)
        self.cls = PreTrainingHeads(config, self.bert.embeddings.word_embeddings)
        initialise(self, config)

    def forward(
        self,
        input_ids: Tensor,
        image_feat: Tensor,
        image_loc: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_attention_mask: Tensor | None = None,
        masked_lm_labels: Tensor | None = None,
        image_label: Tensor | None = None,
        image_cls: Tensor | None = None,
        obj_labels: Tensor | None = None,
        obj_confs: Tensor | None = None,
        attr_labels: Tensor | None = None,
        attr_confs: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        image_feat_target: Tensor | None = None,
        modes: Forced | None = None,
        inputs: Forced | None = None,
    ) -> Output:
        """Scores without labels, losses with them.

        Args:
            masked_lm_labels: (B, T), -1 ignored.
            image_label: (B, N), 1 masked, -1 not; N boxes, the global region excluded.
            image_cls: (B, N, C), index 0 background; or (K, C), the rows of the boxes whose image_label is 1 alone.
            obj_labels, obj_confs, attr_labels, attr_confs: (B, N).
            next_sentence_label: (B,), 0 aligned, 1 mismatched.
            image_feat_target: (B, N, F), the features before masking, for the visual targets that regress them;
                without it the features of the input are taken, as VOLTA does.
        """
        out = self.bert(
            input_ids, image_feat, image_loc, token_type_ids, attention_mask, image_attention_mask, modes, inputs
        )
        match = self.cls.match(fuse(out.pooled_t, out.pooled_v, self.config.fusion_method))
        labels = (masked_lm_labels, image_label, next_sentence_label)
        if all(label is None for label in labels):
            out.prediction_scores_t = self.cls.predictions(out.sequence_t)
            out.prediction_scores_v = self.cls.imagePredictions(out.sequence_v)
            out.seq_relationship_score = match
            return out
        if masked_lm_labels is not None:
            out.loss_mlm = self._word_loss(out.sequence_t, masked_lm_labels)
        if image_label is not None:
            if image_feat_target is None:
                image_feat_target = self._boxes(image_feat)
            known = RegionLabels(
                image_label, image_cls, image_feat_target, obj_labels, obj_confs, attr_labels, attr_confs
            )
            states = self._boxes(out.sequence_v)[image_label == 1]  # (K, D_v): nothing else is read
            out.loss_vision = visual_loss(
                self.cls.imagePredictions(states), dict(self.config.visual_target_weights), known
            )
        if next_sentence_label is not None and match is not None:
            out.loss_itm = F.cross_entropy(match.float(), next_sentence_label)
        return out

    def _word_loss(self, sequence_t: Tensor, labels: Tensor) -> Tensor:
        masked = labels != -1
        scores = self.cls.predictions(sequence_t[masked])  # (K, V): nothing else is read
        return F.cross_entropy(scores.float(), labels[masked], reduction="sum") / masked.sum().clamp(min=1)

    def _boxes(self, regions: Tensor) -> Tensor:
        """Drops the global region, (B, R, ...) to (B, N, ...)."""
        where = self.config.add_global_imgfeat
        return regions if where is None else (regions[:, 1:] if where == "first" else regions[:, :-1])


class BertForVLTasks(nn.Module):
    """Task heads over one encoder; ``tasks`` maps a name (``TASK10``) to its entry in VOLTA's task file."""

    def __init__(self, config: Config, tasks: Mapping[str, Mapping[str, Any]], dropout_prob: float = 0.1):
        super().__init__()
        self.config = config
        self.tasks = {name: dict(task) for name, task in tasks.items()}
        self.bert = BertModel(config)
        self.dropout = nn.Dropout(dropout_prob)
        self.clfs_dict = nn.ModuleDict({name: task_head(config, name, task) for name, task in tasks.items()})
        initialise(self, config)

    def forward(
        self,
        task: str,
        input_ids: Tensor,
        image_feat: Tensor,
        image_loc: Tensor,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_attention_mask: Tensor | None = None,
        modes: Forced | None = None,
        inputs: Forced | None = None,
    ) -> Output:
        """Scores of one task.

        ``V-logit``: (B, R, 1), lowered by 10000 at padding; ``VL-binary-classifier``: (B / 2, 2), rows 2i and 2i + 1
        being the two images of one text; other types: (B, labels).
        """
        if task not in self.tasks:
            raise UserError(f"task {task}: this model has heads for {', '.join(self.tasks)}")
        out = self.bert(
            input_ids, image_feat, image_loc, token_type_ids, attention_mask, image_attention_mask, modes, inputs
        )
        kind, head = self.tasks[task]["type"], self.clfs_dict[task]
        if kind == "V-logit":
            out.scores = head(self.dropout(out.sequence_v))
            if image_attention_mask is not None:
                padding = 1 - image_attention_mask[..., None].to(out.scores.dtype)  # (B, R, 1)
                out.scores = out.scores + PADDED_SCORE * padding
            return out
        pooled = fuse(out.pooled_t, out.pooled_v, self.config.fusion_method)
        if pooled is None:
            raise UserError(f"{task}: fusion_method none leaves nothing to classify; set another fusion_method")
        pooled = self.dropout(pooled)
        out.scores = head(pooled.reshape(-1, 2 * pooled.shape[1]) if kind == "VL-binary-classifier" else pooled)
        return out


def initialise(model: nn.Module, config: Config) -> None:
    """BERT's start: normal weights (``initializer_range``), zero biases, unit LayerNorms.

    Pre-training heads start from Xavier's uniform distribution, as in VOLTA; the switchers' last layers and VL-BERT's
    appearance at zero. Shared embeddings are included (VOLTA leaves theirs at standard deviation 1).
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) or (isinstance(module, nn.Linear) and not name.startswith("cls.")):
            nn.init.normal_(module.weight, std=config.initializer_range)
        elif isinstance(module, nn.Linear) and not name.endswith("predictions.decoder"):  # that one is the word table
            nn.init.xavier_uniform_(module.weight)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, VisualBertEmbeddings):
            module.copy_text_tables()
        elif isinstance(module, VLBertEmbeddings):
            module.start()
        elif isinstance(module, Switcher):
            module.reset()


def start_from_prior(head: nn.Module, probability: float) -> None:
    """Sets the last layer's bias so that every output of a task head starts near a probability.

    With many answers of which few are right, binary cross-entropy first has to unlearn a start at 0.5; the prior start
    of Lin et al. (Focal Loss, section 4.1) spares that. 0.5 leaves VOLTA's zero bias.
    """
    last = [module for module in head.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.constant_(last.bias, math.log(probability / (1 - probability)))


def switch_encoder(model: nn.Module) -> SwitchEncoder | None:
    """The model's switched encoder; None for a static architecture."""
    return next((module for module in model.modules() if isinstance(module, SwitchEncoder)), None)
