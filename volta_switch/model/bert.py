"""The models: an encoder with its embeddings and poolers, alone, with pre-training heads, or with task heads.

Legend: B batch, T text tokens, R regions (the global region included), D hidden, P pooler width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volta_switch.config import Config
from volta_switch.errors import UserError
from volta_switch.model.embeddings import (
    DUAL_EMBEDDINGS,
    SHARED_EMBEDDINGS,
    Embedded,
    ModelInputs,
    TextEmbeddings,
    VisualBertEmbeddings,
    VLBertEmbeddings,
)
from volta_switch.model.encoder import EncoderOutput, OutputPositions, SwitchEncoder, build_encoder
from volta_switch.model.heads import DETECTED, Pooler, PreTrainingHeads, RegionLabels, task_head, visual_loss
from volta_switch.model.noise import Dropout, Site, apply_keyed, fold_in
from volta_switch.model.pretrained import PretrainedEncoder, PretrainedTasks
from volta_switch.model.rows import PackedLayout, copy_to
from volta_switch.model.switch import Forced, Routes, Switcher

PADDED_SCORE = -10000.0  # added to the region scores at padding, as VOLTA does


@dataclass
class Output:
    """What a model returns; a field that was not computed is None."""

    sequence_t: Tensor | None = None  # (B, T, D), zero at padding; without labels and task
    sequence_v: Tensor | None = None  # (B, R, D_v)
    pooled_t: Tensor | None = None  # (B, P)
    pooled_v: Tensor | None = None
    routes: Routes | None = None  # Switch-BERT only
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
        pooler = partial(Pooler, activation=config.fusion_act) if fusion.through_pooler else nn.Identity
        self.t_pooler = pooler(*text) if fusion.pools_text else None
        self.v_pooler = pooler(*vision) if fusion.pools_vision else None

    def forward(
        self,
        given: ModelInputs,
        read: OutputPositions | None = None,
        *,
        modes: Forced | None = None,
        inputs: Forced | None = None,
    ) -> tuple[EncoderOutput, Output, Tensor]:
        """Returns the packed states, pooled vectors and routes in an output, and the table of words (V, D).

        Args:
            read: the positions whose states are needed beside those that are pooled; all by default.
            modes, inputs: Switch-BERT's routes, forced (``switch.forced_weights``).
        """
        masks = given.attention_mask, given.image_attention_mask
        keys = given.noise_keys if self.training else None
        layout = PackedLayout.of(masks, given.input_ids.device, keys)
        text, vision, word_table = self.embed(given, layout)
        pooled_text, pooled_vision = pooled = self.pooled_positions(given.attention_mask)  # (B,)
        if read is not None:
            masks = read.text, read.vision
            marked = (m if at is None else m.scatter(1, at[:, None], True) for m, at in zip(masks, pooled, strict=True))
            read = OutputPositions(*marked)
        encoded = self.encoder((text, vision), layout, read, modes=modes, inputs=inputs)
        out = Output(routes=encoded.routes)
        if self.t_pooler is not None:
            out.pooled_t = self.t_pooler(encoded.layout.text.row_of_each(encoded.states[0], pooled_text))
        if self.v_pooler is not None:
            out.pooled_v = self.v_pooler(encoded.layout.vision.row_of_each(encoded.states[1], pooled_vision))
        return encoded, out, word_table

    def embed(self, given: ModelInputs, layout: PackedLayout) -> Embedded:
        """Returns the packed embeddings of words (n_t, D) and regions (n_v, D_v), and the table of words (V, D)."""
        if given.image_token_type_ids is not None and not isinstance(self.embeddings, VisualBertEmbeddings):
            raise UserError("image_token_type_ids: regions have them with image_embeddings visualbert alone")
        if self.shared_embeddings:
            return self.embeddings(given, layout)
        text, word_table = self.embeddings.text(given, layout)
        return text, self.v_embeddings(given, layout), word_table

    @property
    def feature_projection(self) -> nn.Linear:
        """The map from region features to states."""
        embeddings = self.embeddings if self.shared_embeddings else self.v_embeddings
        return cast(nn.Linear, embeddings.feature_projection)

    def pooled_positions(self, attention_mask: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Where the states lie that stand for the text and for the image, (B,) on the host; None where none is pooled.

        ``[CLS]``, or for VL-BERT's and VisualBERT's VQA the last but one real token, as the mask (B, T) of real ones
        says; the first region.
        """
        first = torch.zeros(len(attention_mask), dtype=torch.long)
        text = (attention_mask.cpu() != 0).sum(1) - 2 if self.text_at_end else first
        return None if self.t_pooler is None else text, None if self.v_pooler is None else first


class BertForVLPreTraining(PretrainedEncoder):
    """Masked words, masked regions and image-text matching (paper section 2.4.3)."""

    def __init__(self, config: Config):
        super().__init__()
        self.config, self.fuse = config, config.fusion.combine
        self.bert = BertModel(config)
        self.cls = PreTrainingHeads(config, self.bert.embeddings.word_embeddings)
        # Where the boxes stand among the regions: the global region is left out.
        self._boxes = {"first": slice(1, None), "last": slice(-1), None: slice(None)}[config.add_global_imgfeat]
        initialise(self, config)

    def forward(
        self,
        input_ids: Tensor,
        image_feat: Tensor,
        image_loc: Tensor,
        *,
        masked_lm_labels: Tensor | None = None,
        image_label: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        image_feat_target: Tensor | None = None,
        modes: Forced | None = None,
        inputs: Forced | None = None,
        **rest: Tensor,
    ) -> Output:
        """Returns scores without labels, losses with them.

        Args:
            input_ids, image_feat, image_loc, rest: what ``ModelInputs`` and ``RegionLabels`` take.
            masked_lm_labels: (B, T), -1 ignored, and what stands at padding.
            image_label: (B, N), 1 masked, -1 not; N boxes, the global region excluded. Ignored at padding.
            next_sentence_label: (B,), 0 aligned, 1 mismatched. Which words and boxes are masked is read on the host, as
                the attention masks are.
            image_feat_target: (B, N, F), the features before masking, for the visual targets that regress them;
                without it the features of the input are taken, as VOLTA does.
            modes, inputs: as in ``BertModel.forward``.
        """
        detected = {name: rest.pop(name) for name in DETECTED if name in rest}
        given = ModelInputs(input_ids, image_feat, image_loc, **rest)
        words = torch.zeros(input_ids.shape, dtype=torch.bool)
        boxes = torch.zeros(image_feat.shape[:2], dtype=torch.bool)
        if masked_lm_labels is not None:
            masked_lm_labels = masked_lm_labels.cpu().masked_fill(given.attention_mask.cpu() == 0, -1)
            words = masked_lm_labels != -1
        if image_label is not None:
            image_label = image_label.cpu().masked_fill(given.image_attention_mask[:, self._boxes].cpu() == 0, -1)
            boxes[:, self._boxes] = image_label == 1
        labelled = any(label is not None for label in (masked_lm_labels, image_label, next_sentence_label))
        read = OutputPositions(words, boxes) if labelled else None
        encoded, out, word_table = self.bert(given, read, modes=modes, inputs=inputs)
        pooled = None if out.pooled_t is None else self.fuse(out.pooled_t, out.pooled_v)
        match = self.cls.match(pooled, fold_in(encoded.layout.sample_keys, Site.MATCH))
        if not labelled:
            out.sequence_t, out.sequence_v = encoded.padded()
            out.prediction_scores_t = self.cls.predictions(out.sequence_t, word_table)
            out.prediction_scores_v = self.cls.imagePredictions(out.sequence_v)
            out.seq_relationship_score = match
            return out
        if masked_lm_labels is not None:
            states = encoded.layout.text.rows_at(encoded.states[0], words)  # (K, D)
            scores = self.cls.predictions(states, word_table).float()  # (K, V)
            wanted = copy_to(masked_lm_labels[words], states.device)
            out.loss_mlm = F.cross_entropy(scores, wanted, reduction="sum") / max(len(wanted), 1)
        if image_label is not None:
            states = encoded.layout.vision.rows_at(encoded.states[1], boxes)  # (K, D_v)
            features = image_feat[:, self._boxes] if image_feat_target is None else image_feat_target
            labels = RegionLabels(image_label, features, **detected)
            weights = self.config.visual_target_weights
            out.loss_vision = visual_loss(self.cls.imagePredictions(states), weights, labels)
        if next_sentence_label is not None and match is not None:
            out.loss_itm = F.cross_entropy(match.float(), next_sentence_label)
        return out


class BertForVLTasks(PretrainedTasks):
    """Task heads over one encoder; ``tasks`` maps a name (``TASK10``) to its entry in VOLTA's task file."""

    def __init__(self, config: Config, tasks: Mapping[str, Mapping[str, Any]], dropout_prob: float = 0.1):
        super().__init__()
        self.config, self.fuse = config, config.fusion.combine
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
        *,
        modes: Forced | None = None,
        inputs: Forced | None = None,
        **rest: Tensor,
    ) -> Output:
        """Returns the scores of one task; arguments as in ``ModelInputs`` and ``BertModel.forward``.

        ``V-logit``: (B, R, 1), lowered by 10000 at padding; ``VL-binary-classifier``: (B / 2, 2), rows 2i and 2i + 1
        being the two images of one text, or (B, 2) where the fusion joins them in one row; other types: (B, labels).
        """
        if task not in self.tasks:
            raise UserError(f"task {task}: this model has heads for {', '.join(self.tasks)}")
        kind, head = self.tasks[task]["type"], self.clfs_dict[task]
        words = torch.zeros(input_ids.shape, dtype=torch.bool)
        read = OutputPositions(words, torch.full(image_feat.shape[:2], kind == "V-logit"))
        given = ModelInputs(input_ids, image_feat, image_loc, **rest)
        fusion = self.config.fusion
        if kind == "VL-binary-classifier" and fusion.joins_images and given.image_token_type_ids is None:
            raise UserError(
                f"{task}: image_token_type_ids missing, which say whether a region is the first image's (0) or the "
                f"second's (1); fusion_method {self.config.fusion_method} has both in one row"
            )
        encoded, out, _ = self.bert(given, read, modes=modes, inputs=inputs)
        if kind == "V-logit":
            rows = encoded.layout.vision
            states = apply_keyed(self.dropout, encoded.states[1], fold_in(rows.rng_keys, Site.TASK))
            scores = rows.unpack(
                apply_keyed(head, states, fold_in(rows.rng_keys, Site.HEAD))
            )  # (B, R, 1), 0 at padding
            out.scores = scores + PADDED_SCORE * copy_to(rows.numbers < 0, scores.device)[..., None]
            return out
        pooled = None if out.pooled_t is None else self.fuse(out.pooled_t, out.pooled_v)
        if pooled is None:
            raise UserError(f"{task}: fusion_method none leaves nothing to classify; set another fusion_method")
        pooled = apply_keyed(self.dropout, pooled, fold_in(encoded.layout.sample_keys, Site.TASK))
        are_pairs = kind == "VL-binary-classifier" and not fusion.joins_images
        out.scores = head(pooled.reshape(-1, 2 * pooled.shape[1]) if are_pairs else pooled)
        return out


def switch_encoder(model: nn.Module) -> SwitchEncoder | None:
    """The model's switched encoder; None for a static architecture."""
    return next((module for module in model.modules() if isinstance(module, SwitchEncoder)), None)


def initialise(model: nn.Module, config: Config) -> None:
    """BERT's start: normal weights (``initializer_range``), zero biases, unit LayerNorms.

    Pre-training heads start from Xavier's uniform distribution, as in VOLTA; the switchers' last layers and VL-BERT's
    appearance at zero. Shared embeddings are included (VOLTA leaves theirs at standard deviation 1).
    ``image_bias_range`` is drawn last and apart: all other weights, and the noise of training, are as without it.
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
    for module in model.modules():
        if isinstance(module, BertModel) and config.image_bias_range:
            with torch.random.fork_rng(devices=[]):
                nn.init.normal_(module.feature_projection.bias, std=config.image_bias_range)


def start_from_prior(head: nn.Module, probability: float) -> None:
    """Sets the last layer's bias so that every output of a task head starts near a probability.

    With many answers of which few are right, binary cross-entropy first has to unlearn a start at 0.5; the prior start
    of Lin et al. (Focal Loss, section 4.1) spares that. 0.5 leaves VOLTA's zero bias.
    """
    last = [module for module in head.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.constant_(last.bias, math.log(probability / (1 - probability)))
