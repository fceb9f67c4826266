"""Text and image embeddings, under VOLTA's names.

``vilbert`` and ``lxmert`` embed regions apart from the text; ``uniter``, ``visualbert`` and ``vl-bert`` embed both in
one module. Legend: B batch, T text tokens, R regions, D hidden, F feature width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from volta_switch.config import Config


class TextEmbeddings(nn.Module):
    """Words, positions and token types (BERT)."""

    def __init__(self, config: Config):
        super().__init__()
        D = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, D, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, D)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, D)
        self.LayerNorm = nn.LayerNorm(D, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def sums(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        """The three embeddings added, (B, T) to (B, T, D), before LayerNorm."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        words = self.word_embeddings(input_ids)
        return words + self.position_embeddings(positions) + self.token_type_embeddings(token_type_ids)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        """(B, T) to (B, T, D)."""
        return self.dropout(self.LayerNorm(self.sums(input_ids, token_type_ids)))


class RegionProjection(nn.Module):
    """The two linear maps that ViLBERT, LXMERT and UNITER share: feature and location to D."""

    def __init__(self, config: Config):
        super().__init__()
        self.image_embeddings = nn.Linear(config.v_feature_size, config.v_hidden_size)
        self.image_location_embeddings = nn.Linear(config.num_locs, config.v_hidden_size)


class ViLBertImageEmbeddings(RegionProjection):
    """ViLBERT: one LayerNorm over the sum of feature and location."""

    def __init__(self, config: Config):
        super().__init__(config)
        self.LayerNorm = nn.LayerNorm(config.v_hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.v_hidden_dropout_prob)

    def forward(self, image_feat: Tensor, image_loc: Tensor) -> Tensor:
        """(B, R, F) and (B, R, num_locs) to (B, R, D)."""
        return self.dropout(
            self.LayerNorm(self.image_embeddings(image_feat) + self.image_location_embeddings(image_loc))
        )


class LxmertImageEmbeddings(RegionProjection):
    """LXMERT: feature and location normalised apart, then averaged."""

    def __init__(self, config: Config):
        super().__init__(config)
        self.ImgLayerNorm = nn.LayerNorm(config.v_hidden_size, eps=config.layer_norm_eps)
        self.LocLayerNorm = nn.LayerNorm(config.v_hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.v_hidden_dropout_prob)

    def forward(self, image_feat: Tensor, image_loc: Tensor) -> Tensor:
        """(B, R, F) and (B, R, num_locs) to (B, R, D)."""
        features = self.ImgLayerNorm(self.image_embeddings(image_feat))
        locations = self.LocLayerNorm(self.image_location_embeddings(image_loc))
        return self.dropout((features + locations) / 2)


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

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, image_feat: Tensor, image_loc: Tensor, token_type_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Text (B, T, D) and regions (B, R, D)."""
        features = self.image_layer_norm(self.image_embeddings(image_feat))
        locations = self.image_location_layer_norm(self.image_location_embeddings(image_loc))
        regions = features + locations + self.token_type_embeddings.weight[1]
        return super().forward(input_ids, token_type_ids), self.dropout(self.v_LayerNorm(regions))


class VisualBertEmbeddings(TextEmbeddings):
    """VisualBERT: regions without locations, one position (0) and one type (1), one LayerNorm with the text."""

    def __init__(self, config: Config):
        super().__init__(config)
        D = config.hidden_size
        self.projection = nn.Linear(config.v_feature_size, D)
        self.token_type_embeddings_visual = nn.Embedding(config.type_vocab_size, D)
        self.position_embeddings_visual = nn.Embedding(config.max_position_embeddings, D)

    def copy_text_tables(self) -> None:
        """Starts the visual type and position tables from the text's, as VisualBERT does."""
        with torch.no_grad():
            self.token_type_embeddings_visual.weight.copy_(self.token_type_embeddings.weight)
            self.position_embeddings_visual.weight.copy_(self.position_embeddings.weight)

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, image_feat: Tensor, image_loc: Tensor, token_type_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Text (B, T, D) and regions (B, R, D); ``image_loc`` is not read."""
        regions = (
            self.projection(image_feat)
            + self.position_embeddings_visual.weight[0]
            + self.token_type_embeddings_visual.weight[1]
        )
        return super().forward(input_ids, token_type_ids), self.dropout(self.LayerNorm(regions))


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
            nn.Dropout(config.v_attention_probs_dropout_prob),
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

    def start(self) -> None:
        """VL-BERT's own start: appearance enters with weight 0, masked features at 0."""
        nn.init.xavier_uniform_(cast(nn.Linear, self.obj_downsample[1]).weight)
        nn.init.zeros_(self.object_mask_visual_embedding.weight)
        nn.init.zeros_(self.visual_ln_text.weight)
        nn.init.zeros_(self.visual_ln_object.weight)

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, image_feat: Tensor, image_loc: Tensor, token_type_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Text (B, T, D) and regions (B, R, D)."""
        R = image_feat.shape[1]
        masked = (image_feat == 0).all(-1, keepdim=True)  # (B, R, 1)
        features = torch.where(masked, self.object_mask_visual_embedding.weight[0], image_feat)
        coordinates = _coordinates(image_loc, self.coordinate_dim)  # (B, R, 8 * dim)
        appearance = self.obj_downsample(torch.cat((coordinates, features), -1))  # (B, R, D_v)
        on_objects = appearance if self.visual_1x1_object is None else self.visual_1x1_object(appearance)
        on_words = appearance[:, -1:] if self.visual_1x1_text is None else self.visual_1x1_text(appearance[:, -1:])

        is_end = torch.arange(R, device=image_feat.device) == R - 1  # (R,)
        kinds = self.object_linguistic_embeddings.weight[0].expand(*image_feat.shape[:2], -1)  # (B, R, D)
        if self.object_mask_word_embedding is not None:
            kinds = torch.where(masked, self.object_mask_word_embedding.weight[0], kinds)
        kinds = torch.where(is_end[:, None], self.end_embedding.weight[0], kinds)

        text_end = (input_ids != 0).sum(1, keepdim=True)  # (B, 1): the regions follow the last word
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        text_positions = torch.where(positions >= text_end.min(), positions + R, positions)
        # Padded words lie behind the regions; what they hold is never read, so they may share the last position.
        text_positions = text_positions.clamp(max=self.position_embeddings.num_embeddings - 1)
        words = self.word_embeddings(input_ids) + self.visual_ln_text(on_words)
        words = words + self.position_embeddings(text_positions) + self.token_type_embeddings(token_type_ids)
        regions = kinds + self.visual_ln_object(on_objects) + self.position_embeddings(text_end + is_end)
        regions = regions + self.token_type_embeddings.weight[2]
        return self.dropout(self.LayerNorm(words)), self.dropout(self.LayerNorm(regions))


def _coordinates(boxes: Tensor, dim: int) -> Tensor:
    """Sine and cosine of centre and size, (B, R, >= 4) corners in [0, 1] to (B, R, 4 * 2 * dim)."""
    x1, y1, x2, y2 = boxes[..., :4].unbind(-1)
    position = torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), -1) * 100  # (B, R, 4)
    wavelength = 1000 ** (torch.arange(dim, dtype=boxes.dtype, device=boxes.device) / dim)
    angle = position.unsqueeze(-1) / wavelength  # (B, R, 4, dim)
    return torch.cat((angle.sin(), angle.cos()), -1).flatten(2)


DUAL_EMBEDDINGS = {"vilbert": ViLBertImageEmbeddings, "lxmert": LxmertImageEmbeddings}
SHARED_EMBEDDINGS = {"uniter": UniterEmbeddings, "visualbert": VisualBertEmbeddings, "vl-bert": VLBertEmbeddings}
