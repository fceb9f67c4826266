"""The models: an encoder with its embeddings and poolers, alone, with pre-training heads, or with task heads.

Legend: B batch, T text tokens, R regions (the global region included), D hidden, P pooler width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volta_switch.config import Config
from volta_switch.errors import UserError
from volta_switch.model.dropout import Dropout, through
from volta_switch.model.embeddings import (
    DUAL_EMBEDDINGS,
    SHARED_EMBEDDINGS,
    Inputs,
    TextEmbeddings,
)
from volta_switch.model.encoder import Encoded, Read, SwitchEncoder, build_encoder
from volta_switch.model.heads import Pooler, PreTrainingHeads, fuse, task_head
from volta_switch.model.initialisation import initialise
from volta_switch.model.layout import Layout, Streams
from volta_switch.model.noise import Noise, Site
from volta_switch.model.rows import Rows, also, sent
from volta_switch.model.switch import Forced, Routes
from volta_switch.model.visual_targets import RegionLabels, visual_loss

PADDED_SCORE = -10000.0  # added to the region scores at padding, as VOLTA does


@dataclass
class Output:
    """What a model returns; a field that was not computed is None."""

    sequence_t: Tensor | None  # (B, T, D), zero at padding; without labels and task
    sequence_v: Tensor | None  # (B, R, D_v)
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


# What wraps a model (DDP's and FSDP's hooks) finds the tensors in what it returns.
for _returned in (Output, Routes):
    torch.export.register_dataclass(_returned)


class BertModel(nn.Module):
    """Embeddings, encoder and poolers (VOLTA's ``bert``)."""

    def __init__(self, config: Config):
        super().__init__()
        fusion = config.fusion
        self.text_at_end = fusion.at_end
        self.shared_embeddings = config.image_embeddings in SHARED_EMBEDDINGS
        if self.shared_embeddings:
            self.embeddings: TextEmbeddings = SHARED_EMBEDDINGS[config.image_embeddings](config)
        else:
            self.embeddings = TextEmbeddings(config)
            self.v_embeddings = DUAL_EMBEDDINGS[config.image_embeddings](config)
        self.encoder = build_encoder(config)
        text, vision = (config.hidden_size, config.pooler_size), (config.v_hidden_size, config.v_pooler_size)
        self.t_pooler = Pooler(*text, config.fusion_act) if fusion.pools_text else None
        self.v_pooler = Pooler(*vision, config.fusion_act) if fusion.pools_vision else None

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
        read: Read | None = None,
        noise_keys: Tensor | None = None,
    ) -> tuple[Encoded, Output, Tensor]:
        """Encodes a batch: packed states, pooled vectors and routes in an output, and the table of words (V, D).

        Args:
            input_ids, token_type_ids: (B, T) int64.
            image_feat: (B, R, F).
            image_loc: (B, R, num_locs), normalised.
            attention_mask, image_attention_mask: (B, T) and (B, R), 1 at real tokens and regions. They are read on the
                host: where they stay on the CPU, nobody waits for the device.
            modes, inputs: Switch-BERT's routes, forced (``switch.forced_weights``).
            read: the positions whose states are needed beside those that are pooled; all by default.
            noise_keys: (B,) int64 of ``noise.sample_keys``: in training, dropout and Gumbel noise follow from these;
                without them they are drawn from PyTorch's generators.
        """
        token_type_ids = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if image_attention_mask is None:
            image_attention_mask = attention_mask.new_ones(image_feat.shape[:2])
        device = input_ids.device
        rows = Rows.of(attention_mask != 0, device), Rows.of(image_attention_mask != 0, device)
        layout = Layout(*rows, Noise.of(noise_keys, *rows) if self.training and noise_keys is not None else None)
        given = Inputs(layout, input_ids, token_type_ids, image_feat, image_loc)
        text, vision = self.embed(given)
        of_text, of_vision = self.summaries(attention_mask)  # (B,) positions
        if read is not None:
            read = Read(also(read.text, of_text), also(read.vision, of_vision))
        encoded = self.encoder(Streams((text, vision)), layout, read, modes=modes, inputs=inputs)
        out = Output(None, None, None, None, encoded.routes)
        if self.t_pooler is not None:
            out.pooled_t = self.t_pooler(encoded.layout.text.at(encoded.text, of_text))
        if self.v_pooler is not None:
            out.pooled_v = self.v_pooler(encoded.layout.vision.at(encoded.vision, of_vision))
        assert given.word_table is not None
        return encoded, out, given.word_table

    def embed(self, given: Inputs) -> tuple[Tensor, Tensor]:
        """The packed embeddings of words (n_t, D) and regions (n_v, D_v)."""
        if self.shared_embeddings:
            return self.embeddings(given)
        return self.embeddings.text(given), self.v_embeddings(given)

    def summaries(self, attention_mask: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Where the states lie that stand for the text and for the image, (B,) on the CPU; None where none is pooled.

        ``[CLS]``, or for VL-BERT's VQA the last but one real token, as the mask (B, T) of real ones says; the first
        region.
        """
        first = torch.zeros(len(attention_mask), dtype=torch.long)
        of_text = (attention_mask.cpu() != 0).sum(1) - 2 if self.text_at_end else first
        return None if self.t_pooler is None else of_text, None if self.v_pooler is None else first


def _read(input_ids: Tensor, image_feat: Tensor, words: Tensor | None = None, boxes: Tensor | None = None) -> Read:
    """What is read beside what is pooled: ``words`` (B, T), ``boxes`` (B, R) bool; None: nothing."""
    no_words = torch.zeros(input_ids.shape, dtype=torch.bool)
    no_boxes = torch.zeros(image_feat.shape[:2], dtype=torch.bool)
    return Read(no_words if words is None else words, no_boxes if boxes is None else boxes)


def _without_padding(labels: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """The labels on the CPU, with -1, which is ignored, where the mask of real positions is 0."""
    if labels is None or mask is None:
        return None if labels is None else labels.cpu()
    return labels.cpu().masked_fill(mask.cpu() == 0, -1)


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
        noise_keys: Tensor | None = None,
    ) -> Output:
        """Scores without labels, losses with them.

        Args:
            masked_lm_labels: (B, T), -1 ignored, and what stands at padding.
            image_label: (B, N), 1 masked, -1 not; N boxes, the global region excluded. Ignored at padding.
            image_cls: (B, N, C), index 0 background; or (K, C), the rows of the boxes whose image_label is 1 alone.
            obj_labels, obj_confs, attr_labels, attr_confs: (B, N).
            next_sentence_label: (B,), 0 aligned, 1 mismatched. Which words and boxes are masked is read on the host, as
                the attention masks are.
            image_feat_target: (B, N, F), the features before masking, for the visual targets that regress them;
                without it the features of the input are taken, as VOLTA does.
        """
        masked_lm_labels = _without_padding(masked_lm_labels, attention_mask)
        real_boxes = None if image_attention_mask is None else self._boxes(image_attention_mask)
        image_label = _without_padding(image_label, real_boxes)
        read = None
        if any(label is not None for label in (masked_lm_labels, image_label, next_sentence_label)):
            words = None if masked_lm_labels is None else masked_lm_labels != -1
            boxes = None if image_label is None else self._with_global(image_label == 1)
            read = _read(input_ids, image_feat, words, boxes)
        encoded, out, word_table = self.bert(
            *(input_ids, image_feat, image_loc, token_type_ids, attention_mask, image_attention_mask),
            modes,
            inputs,
            read,
            noise_keys,
        )
        pooled = fuse(out.pooled_t, out.pooled_v, self.config.fusion_method)
        match = self.cls.match(pooled, encoded.layout.sample_keys(Site.MATCH))
        if read is None:
            out.sequence_t, out.sequence_v = encoded.padded()
            out.prediction_scores_t = self.cls.predictions(out.sequence_t, word_table)
            out.prediction_scores_v = self.cls.imagePredictions(out.sequence_v)
            out.seq_relationship_score = match
            return out
        if masked_lm_labels is not None:
            words = encoded.layout.text.where(encoded.text, read.text)  # (K, D)
            out.loss_mlm = self._word_loss(words, masked_lm_labels, word_table)
        if image_label is not None:
            features = self._boxes(image_feat) if image_feat_target is None else image_feat_target
            known = RegionLabels(image_label, image_cls, features, obj_labels, obj_confs, attr_labels, attr_confs)
            boxes = encoded.layout.vision.where(encoded.vision, read.vision)  # (K, D_v)
            out.loss_vision = self._region_loss(boxes, known)
        if next_sentence_label is not None and match is not None:
            out.loss_itm = F.cross_entropy(match.float(), next_sentence_label)
        return out

    def _word_loss(self, states: Tensor, labels: Tensor, word_table: Tensor) -> Tensor:
        """Cross-entropy of the masked words' states, (K, D)."""
        wanted = sent(labels[labels != -1], states.device)
        scores = self.cls.predictions(states, word_table)  # (K, V)
        return F.cross_entropy(scores.float(), wanted, reduction="sum") / max(len(wanted), 1)

    def _region_loss(self, states: Tensor, known: RegionLabels) -> Tensor:
        """The visual targets' loss of the masked boxes' states, (K, D_v)."""
        return visual_loss(self.cls.imagePredictions(states), dict(self.config.visual_target_weights), known)

    def _with_global(self, boxes: Tensor) -> Tensor:
        """A mask of boxes (B, N) as one of regions (B, R), False at the global region."""
        where = self.config.add_global_imgfeat
        return boxes if where is None else F.pad(boxes, (1, 0) if where == "first" else (0, 1))

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
        self.dropout = Dropout(dropout_prob)
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
        noise_keys: Tensor | None = None,
    ) -> Output:
        """Scores of one task.

        ``V-logit``: (B, R, 1), lowered by 10000 at padding; ``VL-binary-classifier``: (B / 2, 2), rows 2i and 2i + 1
        being the two images of one text; other types: (B, labels).
        """
        if task not in self.tasks:
            raise UserError(f"task {task}: this model has heads for {', '.join(self.tasks)}")
        kind, head = self.tasks[task]["type"], self.clfs_dict[task]
        boxes = torch.ones(image_feat.shape[:2], dtype=torch.bool) if kind == "V-logit" else None
        encoded, out, _ = self.bert(
            *(input_ids, image_feat, image_loc, token_type_ids, attention_mask, image_attention_mask),
            modes,
            inputs,
            _read(input_ids, image_feat, boxes=boxes),
            noise_keys,
        )
        if kind == "V-logit":
            rows, layout = encoded.layout.vision, encoded.layout
            states = through(self.dropout, encoded.vision, layout.vision_keys(Site.TASK))
            scores = rows.spread(through(head, states, layout.vision_keys(Site.HEAD)))  # (B, R, 1), of real ones alone
            out.scores = scores + PADDED_SCORE * sent(rows.numbers < 0, scores.device)[..., None]
            return out
        pooled = fuse(out.pooled_t, out.pooled_v, self.config.fusion_method)
        if pooled is None:
            raise UserError(f"{task}: fusion_method none leaves nothing to classify; set another fusion_method")
        pooled = through(self.dropout, pooled, encoded.layout.sample_keys(Site.TASK))
        out.scores = head(pooled.reshape(-1, 2 * pooled.shape[1]) if kind == "VL-binary-classifier" else pooled)
        return out


def switch_encoder(model: nn.Module) -> SwitchEncoder | None:
    """The model's switched encoder; None for a static architecture."""
    return next((module for module in model.modules() if isinstance(module, SwitchEncoder)), None)
