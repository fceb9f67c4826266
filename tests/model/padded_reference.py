"""A plain forward pass over padded batches, for comparison: no packing, no pruning, no merged modes; in float64.

Driven by the same configuration lists as the models; weights are read by their names in a model's state.

Legend: B batch, T tokens, R regions (the global region included), N boxes, D hidden, H heads, d head width, K keys,
P pooler width, V vocabulary, M modes, C input candidates.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Which keys a text row and a vision row may read in each mode (paper table 1).
MODE_KEYS = {"SS": ("t", "v"), "SC": ("t", "t"), "CS": ("v", "v"), "J": ("tv", "tv")}
# Layer (1 or 2 below) from which each input candidate takes the text and the vision.
CANDIDATES = ((1, 1), (2, 1), (1, 2), (2, 2))
ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "tanh": torch.tanh}


class PaddedReference:
    """The reference of one model; gradients end up in ``weights``."""

    def __init__(self, model: torch.nn.Module):
        state = model.state_dict(keep_vars=True)
        leaves = {id(tensor): tensor.detach().double().requires_grad_() for tensor in state.values()}
        self.weights = {name: leaves[id(tensor)] for name, tensor in state.items()}  # shared ones are one leaf
        self.config = model.config

    def gradients(self) -> dict[str, Tensor]:
        """Of every weight by its name, zero where nothing reads it."""
        return {name: torch.zeros_like(w) if w.grad is None else w.grad for name, w in self.weights.items()}

    # --- Parts ----------------------------------------------------------------------------------------------------

    def linear(self, name: str, states: Tensor) -> Tensor:
        return states @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, name: str, states: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(states, weight.shape, weight, bias, self.config.layer_norm_eps)

    def embeddings(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Text (B, T, D) and regions (B, R, D), at padding too."""
        kind, name = self.config.image_embeddings, "bert.embeddings"
        regions = "bert.v_embeddings" if kind in ("vilbert", "lxmert") else name
        T = batch["input_ids"].shape[1]
        types = self.weights[f"{name}.token_type_embeddings.weight"]
        text = (
            F.embedding(batch["input_ids"], self.weights[f"{name}.word_embeddings.weight"], padding_idx=0)
            + self.weights[f"{name}.position_embeddings.weight"][:T]
            + types[batch["token_type_ids"]]
        )
        feat, loc = batch["image_feat"].double(), batch["image_loc"].double()
        if kind == "visualbert":
            vision = (
                self.linear(f"{name}.projection", feat)
                + self.weights[f"{name}.position_embeddings_visual.weight"][0]
                + self.weights[f"{name}.token_type_embeddings_visual.weight"][1]
            )
            return {"t": self.norm(f"{name}.LayerNorm", text), "v": self.norm(f"{name}.LayerNorm", vision)}
        feat = self.linear(f"{regions}.image_embeddings", feat)
        loc = self.linear(f"{regions}.image_location_embeddings", loc)
        if kind == "vilbert":
            vision = self.norm(f"{regions}.LayerNorm", feat + loc)
        elif kind == "lxmert":
            vision = (self.norm(f"{regions}.ImgLayerNorm", feat) + self.norm(f"{regions}.LocLayerNorm", loc)) / 2
        else:
            assert kind == "uniter"
            feat, loc = self.norm(f"{name}.image_layer_norm", feat), self.norm(f"{name}.image_location_layer_norm", loc)
            vision = self.norm(f"{name}.v_LayerNorm", feat + loc + types[1])
        return {"t": self.norm(f"{name}.LayerNorm", text), "v": vision}

    # --- Encoder --------------------------------------------------------------------------------------------------

    def projected(self, number: int, part: str, modality: str, states: Tensor) -> Tensor:
        """(B, N, D) to (B, H, N, d)."""
        prefix = "" if modality == "t" else "v_"
        sizes = getattr(self.config, f"sublayer2{prefix}num_attention_heads")
        H = sizes.get(str(number), getattr(self.config, f"{prefix}num_attention_heads"))
        rows = self.linear(f"bert.encoder.layer.{number}.attention_self.{prefix}{part}", states)
        return rows.unflatten(-1, (H, -1)).transpose(1, 2)

    def context(self, number: int, own: str, keys: str, states: dict[str, Tensor], real: dict[str, Tensor]) -> Tensor:
        """What rows of one modality read from the keys of ``keys`` ("t", "v" or "tv"), (B, N, H * d)."""
        query = self.projected(number, "query", own, states[own])
        key, value = (
            torch.cat([self.projected(number, part, modality, states[modality]) for modality in keys], 2)
            for part in ("key", "value")
        )
        allowed = torch.cat([real[modality] for modality in keys], 1)[:, None, None]  # (B, 1, 1, K)
        anything = allowed.any(-1, keepdim=True)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # (B, H, N, K)
        weights = scores.masked_fill(~allowed & anything, -torch.inf).softmax(-1) * anything
        return (weights @ value).transpose(1, 2).flatten(2)

    def residual(self, name: str, modality: str, update: Tensor, states: Tensor) -> Tensor:
        prefix = "" if modality == "t" else "v_"
        return self.norm(f"{name}.{prefix}LayerNorm", self.linear(f"{name}.{prefix}dense", update) + states)

    def feed_forward(self, number: int, states: dict[str, Tensor]) -> dict[str, Tensor]:
        name, out = f"bert.encoder.layer.{number}", dict(states)
        for modality, prefix in (("t", ""), ("v", "v_")):
            if number in getattr(self.config, f"{modality}_ff_sublayers"):
                activation = ACTIVATIONS[getattr(self.config, f"{prefix}hidden_act")]
                update = activation(self.linear(f"{name}.intermediate.{prefix}dense", states[modality]))
                out[modality] = self.residual(f"{name}.output", modality, update, states[modality])
        return out

    def static_encoder(self, states: dict[str, Tensor], real: dict[str, Tensor]) -> dict[str, Tensor]:
        config = self.config
        lists = {pair: getattr(config, f"{pair}_attn_sublayers") for pair in ("tt", "tv", "vt", "vv")}
        for number in range(len(config.attention_sublayers) + len(config.ff_sublayers)):
            out = dict(states)
            for own in "tv":
                keys = "".join(other for other in "tv" if number in lists[own + other])
                if keys:
                    update = self.context(number, own, keys, states, real)
                    out[own] = self.residual(f"bert.encoder.layer.{number}.attention_output", own, update, states[own])
            states = self.feed_forward(number, out)
        return states

    def switch_encoder(
        self, states: dict[str, Tensor], real: dict[str, Tensor], modes: Tensor | str, inputs: Tensor | str
    ) -> dict[str, Tensor]:
        """``modes`` (B, L, M) and ``inputs`` (B, L, C) are weights, or "hard" or "soft": the switchers' own."""
        names, C = self.config.switch.modes, self.config.switch.input_candidates
        below = [states, states]  # l-2 and l-1
        for layer in range(len(self.config.attention_sublayers)):
            if layer > 0:
                weights = self.route("input", layer - 1, below[1], real, inputs) if isinstance(inputs, str) else None
                weights = inputs[:, layer].double() if weights is None else weights
                states = {
                    own: sum(
                        weights[:, c, None, None] * below[-CANDIDATES[c][side]][own] for c in range(C)
                    )
                    for side, own in enumerate("tv")
                }  # fmt: skip
            weights = self.route("attention", layer, states, real, modes) if isinstance(modes, str) else None
            weights = modes[:, layer].double() if weights is None else weights
            out = {}
            for side, own in enumerate("tv"):
                update = sum(
                    weights[:, k, None, None] * self.context(2 * layer, own, MODE_KEYS[mode][side], states, real)
                    for k, mode in enumerate(names)
                )
                name = f"bert.encoder.layer.{2 * layer}.attention_output"
                out[own] = self.residual(name, own, update, states[own])
            below = [below[1], self.feed_forward(2 * layer + 1, out)]
        return below[1]

    def route(self, block: str, index: int, states: dict[str, Tensor], real: dict[str, Tensor], kind: str) -> Tensor:
        """Weights of a switcher's options, (B, O)."""
        means = []
        for own in "tv":
            mask = real[own].double()[..., None]
            means.append((states[own] * mask).sum(1) / mask.sum(1).clamp(min=1))
        alignment = torch.cat(means, -1) if self.config.switch.alignment == "concat" else means[0] * means[1]
        name = f"bert.encoder.{block}_switch.{index}"
        log_pi = self.linear(f"{name}.options", F.gelu(self.linear(f"{name}.hidden", alignment))).log_softmax(-1)
        if kind == "hard":
            return F.one_hot(log_pi.argmax(-1), log_pi.shape[-1]).double()
        weights = (log_pi / self.config.switch.temperature).softmax(-1)
        if block == "attention":
            largest = weights.topk(self.config.switch.active_modes, -1).indices
            weights = weights * torch.zeros_like(weights).scatter(-1, largest, 1.0)
        return weights / weights.sum(-1, keepdim=True)

    # --- Outputs --------------------------------------------------------------------------------------------------

    def states(
        self, batch: dict[str, Tensor], modes: Tensor | str = "hard", inputs: Tensor | str = "hard"
    ) -> dict[str, Tensor]:
        """Last states, (B, T, D) and (B, R, D), set to zero at padding."""
        real = {"t": batch["attention_mask"] == 1, "v": batch["image_attention_mask"] == 1}
        embedded = self.embeddings(batch)
        if self.config.switch is None:
            states = self.static_encoder(embedded, real)
        else:
            states = self.switch_encoder(embedded, real, modes, inputs)
        return {own: states[own] * real[own][..., None] for own in "tv"}

    def fused(self, states: dict[str, Tensor]) -> Tensor:
        """(B, P)."""
        assert self.config.fusion_method == "mul"
        act = ACTIVATIONS[self.config.fusion_act]
        text, vision = (act(self.linear(f"bert.{own}_pooler.dense", states[own][:, 0])) for own in "tv")
        return text * vision

    def transformed(self, name: str, states: Tensor) -> Tensor:
        return self.norm(f"{name}.LayerNorm", ACTIVATIONS[self.config.hidden_act](self.linear(f"{name}.dense", states)))

    def word_scores(self, states: dict[str, Tensor]) -> Tensor:
        """(B, T, V)."""
        rows = self.transformed("cls.predictions.transform", states["t"])
        return rows @ self.weights["bert.embeddings.word_embeddings.weight"].T + self.weights["cls.predictions.bias"]

    def box_scores(self, states: dict[str, Tensor], target: str) -> Tensor:
        """(B, N, width)."""
        rows = self.transformed("cls.imagePredictions.transform", states["v"])
        assert self.config.add_global_imgfeat == "first"
        return self.linear(f"cls.imagePredictions.decoder_dict.{target}", rows)[:, 1:]

    def losses(self, states: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses whose labels are in the batch; labels at padding are ignored."""
        out = {}
        if "masked_lm_labels" in batch:
            wanted = torch.where(batch["attention_mask"] == 1, batch["masked_lm_labels"], -1)
            out["loss_mlm"] = mean_cross_entropy(self.word_scores(states), wanted)
        if "image_label" in batch:
            masked = (batch["image_label"] == 1) & (batch["image_attention_mask"][:, 1:] == 1)
            out["loss_vision"] = self.vision_loss(states, batch, masked)
        if "next_sentence_label" in batch:
            scores = self.linear("cls.bi_seq_relationship", self.fused(states))
            out["loss_itm"] = F.cross_entropy(scores, batch["next_sentence_label"])
        return out

    def vision_loss(self, states: dict[str, Tensor], batch: dict[str, Tensor], masked: Tensor) -> Tensor:
        """Targets 0 (divergence), 1 (squared error) and 6 (cross-entropy), over the masked boxes (B, N)."""
        count, total = masked.sum().clamp(min=1), torch.zeros((), dtype=torch.float64)
        for target, weight in self.config.visual_target_weights.items():
            if weight == 0:
                continue
            scores = self.box_scores(states, target)
            if target == "0":
                wanted = batch["image_cls"].double()
                per_box = (torch.xlogy(wanted, wanted) - wanted * scores.log_softmax(-1)).sum(-1)
                loss = (per_box * masked).sum() / count
            elif target == "1":
                loss = ((scores - batch["image_feat"][:, 1:].double()).square().mean(-1) * masked).sum() / count
            else:
                assert target == "6"
                loss = mean_cross_entropy(scores, torch.where(masked, batch["obj_labels"], -1))
            total = total + weight * loss
        return total

    def task_scores(self, states: dict[str, Tensor], task: str, kind: str) -> Tensor:
        """Those of one task's head; at padded regions whatever comes out."""
        name = f"clfs_dict.{task}"
        if kind == "V-logit":
            return self.linear(name, states["v"])  # (B, R, 1)
        fused = self.fused(states)
        if kind == "VL-logit":
            return self.linear(name, fused)
        if kind == "VL-binary-classifier":
            fused = torch.cat((fused[0::2], fused[1::2]), -1)  # (B / 2, 2 * P)
        rows = self.norm(f"{name}.logit_fc.2", F.gelu(self.linear(f"{name}.logit_fc.0", fused)))
        return self.linear(f"{name}.logit_fc.3", rows)


def mean_cross_entropy(scores: Tensor, wanted: Tensor) -> Tensor:
    """Over the labels that are not -1; 0 where there are none."""
    loss = F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), ignore_index=-1, reduction="sum")
    return loss / (wanted != -1).sum().clamp(min=1)
