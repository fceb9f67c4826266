"""Text and image embeddings, under VOLTA's names.

``vilbert`` and ``lxmert`` embed regions apart from the text; ``uniter``, ``visualbert`` and ``vl-bert`` embed both in
one module. They see packed rows: no padding.

Legend: B batch, T tokens as given, R regions as given, n_t and n_v packed rows, D hidden, F feature width.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from volta_switch.config import Config
from volta_switch.model.noise import Dropout, Site, apply_keyed, dropout, fold_in
from volta_switch.model.rows import PackedLayout, copy_to

Embedded = tuple[Tensor, Tensor, Tensor]  # text (n_t, D), regions (n_v, D_v), and the table of words (V, D)


@dataclass
class ModelInputs:
    """A batch as it was given; what is left out is filled in: token types 0, masks 1.

    The masks are read on the host: where they stay there, a step does not wait for the device.
    """

    input_ids: Tensor  # (B, T) int64
    image_feat: Tensor  # (B, R, F)
    image_loc: Tensor  # (B, R, num_locs), normalised
    _: KW_ONLY
    token_type_ids: Tensor = None  # type: ignore[assignment]  # (B, T) int64
    attention_mask: Tensor = None  # type: ignore[assignment]  # (B, T), 1 at real tokens
    image_attention_mask: Tensor = None  # type: ignore[assignment]  # (B, R), 1 at real regions
    image_token_type_ids: Tensor | None = None  # (B, R) int64, of VisualBERT's embeddings alone; None: 1
    noise_keys: Tensor | None = None  # (B,) int64 of ``noise.sample_keys``, which count in training

    def __post_init__(self) -> None:
        if self.token_type_ids is None:
            self.token_type_ids = torch.zeros_like(self.input_ids)
        if self.attention_mask is None:
            self.attention_mask = torch.ones_like(self.input_ids)
        if self.image_attention_mask is None:
            self.image_attention_mask = self.attention_mask.new_ones(self.image_feat.shape[:2])


class TextEmbeddings(nn.Module):
    """Words, positions and token types (BERT)."""

    def __init__(self, config: Config):
        super().__init__()
        D = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, D, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, D)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, D)
        self.LayerNorm = nn.LayerNorm(D, eps=config.layer_norm_eps)
        self.dropout = config.hidden_dropout_prob

    def text(self, given: ModelInputs, layout: PackedLayout) -> tuple[Tensor, Tensor]:
        """Returns the embeddings of text (n_t, D), and the table of words (V, D) for whoever else reads it.

        So the table's gradient is made once, and that of the looked-up rows is added to it.
        """
        table, ids = self.word_embeddings, layout.text.pack(given.input_ids)
        words, word_table = _LookUp.apply(table.weight, ids, table.padding_idx)
        words = words + self.token_type_embeddings(layout.text.pack(given.token_type_ids))
        words = self.LayerNorm(words + self.position_embeddings(layout.text.position))
        return dropout(
            words, self.dropout, self.training, keys=fold_in(layout.text.rng_keys, Site.EMBEDDINGS)
        ), word_table


class RegionProjection(nn.Module):
    """The two linear maps that ViLBERT, LXMERT and UNITER share: feature and location to D."""

    def __init__(self, config: Config):
        super().__init__()
        self.image_embeddings = nn.Linear(config.v_feature_size, config.v_hidden_size)
        self.image_location_embeddings = nn.Linear(config.num_locs, config.v_hidden_size)

    @property
    def feature_projection(self) -> nn.Linear:
        """The map from region features to states."""
        return self.image_embeddings


class ViLBertImageEmbeddings(RegionProjection):
    """ViLBERT: one LayerNorm over the sum of feature and location."""

    def __init__(self, config: Config):
        super().__init__(config)
        self.LayerNorm = nn.LayerNorm(config.v_hidden_size, eps=config.layer_norm_eps)
        self.dropout = config.v_hidden_dropout_prob

    def forward(self, given: ModelInputs, layout: PackedLayout) -> Tensor:
        """Returns the embeddings of regions, (n_v, D_v)."""
        features = self.image_embeddings(layout.vision.pack(given.image_feat))
        regions = self.LayerNorm(features + self.image_location_embeddings(layout.vision.pack(given.image_loc)))
        return dropout(regions, self.dropout, self.training, keys=fold_in(layout.vision.rng_keys, Site.EMBEDDINGS))


class LxmertImageEmbeddings(RegionProjection):
    """LXMERT: feature and location normalised apart, then averaged."""

    def __init__(self, config: Config):
        super().__init__(config)
        self.ImgLayerNorm = nn.LayerNorm(config.v_hidden_size, eps=config.layer_norm_eps)
        self.LocLayerNorm = nn.LayerNorm(config.v_hidden_size, eps=config.layer_norm_eps)
        self.dropout = config.v_hidden_dropout_prob

    def forward(self, given: ModelInputs, layout: PackedLayout) -> Tensor:
        """Returns the embeddings of regions, (n_v, D_v)."""
        features = self.ImgLayerNorm(self.image_embeddings(layout.vision.pack(given.image_feat)))
        locations = self.LocLayerNorm(self.image_location_embeddings(layout.vision.pack(given.image_loc)))
        keys = fold_in(layout.vision.rng_keys, Site.EMBEDDINGS)
        return dropout((features + locations) / 2, self.dropout, self.training, keys=keys)


class UniterEmbeddings(TextEmbeddings):
    """UNITER: text as BERT; regions with their own LayerNorms and the text's type embedding 1."""

    def __init__(self, config: Config):
        super().__init__(config)
        D, eps = config.hidden_size, config.layer_norm_eps
        self.image_embeddings = nn.Linear(config.v_feature_size, D)
        self.image_location_embeddings = nn.Linear(config.num_locs, D)
        self.image_token_type_embeddings = self.token_type_embeddings  # one table under two names
        self.image_layer_norm = nn.LayerNorm(D, eps=eps)
        self.image_location_layer_norm = nn.LayerNorm(D, eps=eps)
        self.v_LayerNorm = nn.LayerNorm(D, eps=eps)

    @property
    def feature_projection(self) -> nn.Linear:
        """As ``RegionProjection.feature_projection``."""
        return self.image_embeddings

    def forward(self, given: ModelInputs, layout: PackedLayout) -> Embedded:
        """Returns the embeddings of text (n_t, D) and regions (n_v, D), and the table of words (V, D)."""
        features = self.image_layer_norm(self.image_embeddings(layout.vision.pack(given.image_feat)))
        locations = self.image_location_embeddings(layout.vision.pack(given.image_loc))
        regions = features + self.image_location_layer_norm(locations) + self.token_type_embeddings.weight[1]
        text, word_table = self.text(given, layout)
        keys = fold_in(layout.vision.rng_keys, Site.EMBEDDINGS)
        return text, dropout(self.v_LayerNorm(regions), self.dropout, self.training, keys=keys), word_table


class VisualBertEmbeddings(TextEmbeddings):
    """VisualBERT: regions without locations, one position (0), one LayerNorm with the text; type 1 unless given."""

    def __init__(self, config: Config):
        super().__init__(config)
        D = config.hidden_size
        self.projection = nn.Linear(config.v_feature_size, D)
        self.token_type_embeddings_visual = nn.Embedding(config.type_vocab_size, D)
        self.position_embeddings_visual = nn.Embedding(config.max_position_embeddings, D)

    @property
    def feature_projection(self) -> nn.Linear:
        """As ``RegionProjection.feature_projection``."""
        return self.projection

    def copy_text_tables(self) -> None:
        """Starts the visual type and position tables from the text's, as VisualBERT does."""
        with torch.no_grad():
            self.token_type_embeddings_visual.weight.copy_(self.token_type_embeddings.weight)
            self.position_embeddings_visual.weight.copy_(self.position_embeddings.weight)

    def forward(self, given: ModelInputs, layout: PackedLayout) -> Embedded:
        """As ``UniterEmbeddings.forward``; locations are not read."""
        types = self.token_type_embeddings_visual.weight[1]  # (D,), or of each region (n_v, D)
        if given.image_token_type_ids is not None:
            types = self.token_type_embeddings_visual(layout.vision.pack(given.image_token_type_ids))
        regions = (
            self.projection(layout.vision.pack(given.image_feat)) + self.position_embeddings_visual.weight[0] + types
        )
        text, word_table = self.text(given, layout)
        keys = fold_in(layout.vision.rng_keys, Site.EMBEDDINGS)
        return text, dropout(self.LayerNorm(regions), self.dropout, self.training, keys=keys), word_table


class VLBertEmbeddings(TextEmbeddings):
    """VL-BERT: every position carries a word and an appearance embedding.

    Regions whose feature is all zero (masked ones) get a learned feature. The last slot of the region tensor stands for
    the end of the sequence and lends its appearance to the words; that is the last slot also where it is padding, as in
    VOLTA. The inputs are not written to (VOLTA's are).
    """

    def __init__(self, config: Config):
        super().__init__(config)
        D, eps = config.hidden_size, config.layer_norm_eps
        assert config.v_coordinate_embeddings_dim is not None  # checked by the configuration
        self.coordinate_dim = config.v_coordinate_embeddings_dim
        self.obj_downsample = nn.Sequential(
            Dropout(config.v_attention_probs_dropout_prob),
            nn.Linear(2 * config.v_feature_size, config.v_hidden_size),
            nn.ReLU(),
        )
        self.object_linguistic_embeddings = nn.Embedding(1, D)
        self.object_mask_word_embedding = nn.Embedding(1, D) if config.visual_target_weights.get("6", 0) > 0 else None
        self.object_mask_visual_embedding = nn.Embedding(1, config.v_feature_size)
        self.end_embedding = nn.Embedding(1, D)
        widths_differ = config.v_hidden_size != D
        self.visual_1x1_text = nn.Linear(config.v_hidden_size, D) if widths_differ else None
        self.visual_1x1_object = nn.Linear(config.v_hidden_size, D) if widths_differ else None
        self.visual_ln_text = nn.LayerNorm(D, eps=eps)
        self.visual_ln_object = nn.LayerNorm(D, eps=eps)

    @property
    def feature_projection(self) -> nn.Linear:
        """As ``RegionProjection.feature_projection``."""
        return cast(nn.Linear, self.obj_downsample[1])

    def start(self) -> None:
        """VL-BERT's own start: appearance enters with weight 0, masked features at 0."""
        nn.init.xavier_uniform_(self.feature_projection.weight)
        nn.init.zeros_(self.object_mask_visual_embedding.weight)
        nn.init.zeros_(self.visual_ln_text.weight)
        nn.init.zeros_(self.visual_ln_object.weight)

    def forward(self, given: ModelInputs, layout: PackedLayout) -> Embedded:
        """As ``UniterEmbeddings.forward``."""
        R = given.image_feat.shape[1]
        features, locations = layout.vision.pack(given.image_feat), layout.vision.pack(given.image_loc)
        masked = (features == 0).all(-1, keepdim=True)  # (n_v, 1)
        keys = fold_in(layout.vision.rng_keys, Site.APPEARANCE)
        appearance = self._appearance(features, masked, locations, keys=keys)  # (n_v, D_v)
        on_objects = appearance if self.visual_1x1_object is None else self.visual_1x1_object(appearance)
        on_words = self._last_appearance(given, layout, appearance)  # (B, D_v)
        on_words = on_words if self.visual_1x1_text is None else self.visual_1x1_text(on_words)

        is_end = layout.vision.position == R - 1  # (n_v,)
        kinds = self.object_linguistic_embeddings.weight[0].expand(len(features), -1)  # (n_v, D)
        if self.object_mask_word_embedding is not None:
            kinds = torch.where(masked, self.object_mask_word_embedding.weight[0], kinds)
        kinds = torch.where(is_end[:, None], self.end_embedding.weight[0], kinds)

        text_end = (given.input_ids != 0).sum(1)  # (B,): the regions follow the last word
        position = layout.text.position
        # Words behind the shortest text of the batch are counted behind the regions, too, as in VOLTA.
        position = torch.where(position >= text_end.min(), position + R, position)
        position = position.clamp(max=self.position_embeddings.num_embeddings - 1)
        table, ids = self.word_embeddings, layout.text.pack(given.input_ids)
        words, word_table = _LookUp.apply(table.weight, ids, table.padding_idx)
        words = words + layout.text.per_row(self.visual_ln_text(on_words)) + self.position_embeddings(position)
        words = words + self.token_type_embeddings(layout.text.pack(given.token_type_ids))
        regions = kinds + self.visual_ln_object(on_objects)
        regions = regions + self.position_embeddings(layout.vision.per_row(text_end) + is_end)
        regions = regions + self.token_type_embeddings.weight[2]
        text_keys, vision_keys = (fold_in(rows.rng_keys, Site.EMBEDDINGS) for rows in (layout.text, layout.vision))
        text = dropout(self.LayerNorm(words), self.dropout, self.training, keys=text_keys)
        return text, dropout(self.LayerNorm(regions), self.dropout, self.training, keys=vision_keys), word_table

    def _appearance(self, features: Tensor, masked: Tensor, locations: Tensor, *, keys: Tensor | None) -> Tensor:
        """(n, F) and (n, num_locs) to (n, D_v); ``keys`` (n,): of the dropout."""
        features = torch.where(masked, self.object_mask_visual_embedding.weight[0], features)
        located = torch.cat((_coordinates(locations, self.coordinate_dim), features), -1)
        return apply_keyed(self.obj_downsample, located, keys)

    def _last_appearance(self, given: ModelInputs, layout: PackedLayout, appearance: Tensor) -> Tensor:
        """That of every sample's last slot, (B, D_v), which may be padding."""
        last = layout.vision.numbers[:, -1]
        if bool((last >= 0).all()):
            return appearance.index_select(0, copy_to(last, appearance.device))
        features = given.image_feat[:, -1]
        keys = fold_in(layout.sample_keys, Site.LAST_APPEARANCE)
        masked = (features == 0).all(-1, keepdim=True)
        return self._appearance(features, masked, given.image_loc[:, -1], keys=keys)


class _LookUp(torch.autograd.Function):
    """Rows of a table, and the table for whoever else reads it."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, words: Tensor, padding: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(V, D) and (n,) to (n, D) and (V, D)."""
        ctx.save_for_backward(words)
        ctx.padding = padding
        return table.index_select(0, words), table.view_as(table)

    @staticmethod
    def backward(ctx: Any, of_rows: Tensor, of_table: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """The gradient of the table; as in nn.Embedding, none comes from padding."""
        (words,) = ctx.saved_tensors
        of_rows = of_rows.masked_fill((words == ctx.padding)[:, None], 0)
        return of_table.index_add_(0, words, of_rows.to(of_table.dtype)), None, None


def _coordinates(boxes: Tensor, dim: int) -> Tensor:
    """Sine and cosine of centre and size, (n, >= 4) corners in [0, 1] to (n, 4 * 2 * dim)."""
    x1, y1, x2, y2 = boxes[..., :4].unbind(-1)
    position = torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), -1) * 100  # (n, 4)
    wavelength = 1000 ** (torch.arange(dim, dtype=boxes.dtype, device=boxes.device) / dim)
    angle = position.unsqueeze(-1) / wavelength  # (n, 4, dim)
    return torch.cat((angle.sin(), angle.cos()), -1).flatten(-2)


DUAL_EMBEDDINGS = {"vilbert": ViLBertImageEmbeddings, "lxmert": LxmertImageEmbeddings}
SHARED_EMBEDDINGS = {"uniter": UniterEmbeddings, "visualbert": VisualBertEmbeddings, "vl-bert": VLBertEmbeddings}
