"""The specification: every architecture and Switch-BERT as plain equations over padded batches. Read this file first.

The models (``bert``) compute the same numbers on packed rows, with merged attention modes and pruned rows; the tests
compare their outputs, losses and gradients with this file. Here nothing is clever: each attention mode has a softmax
of its own, and padding is computed and set to zero at the end. ``Eq.`` numbers are the Switch-BERT paper's.

A ``Reference`` reads its weights by name from a model and is called as the model is. It shares the model's parameters,
so that gradients land in them, and computes on their device and in their dtype::

    model = BertForVLPreTraining(load_config("switchbert"))
    Reference(model)(**batch).loss.backward()                 # as model(**batch).loss.backward(), but plainly
    exact = Reference(copy.deepcopy(model).double())          # in float64; on a GPU: Reference(model.cuda())

Dropout is left out. Gumbel noise is drawn in training, or given from outside. What stands at padding must be finite
numbers. The heads and losses are in ``reference_heads``.

Legend: B batch, T text tokens, R regions (the global region included), D hidden, A attention width, H heads,
N rows of queries, K rows of keys, P pooler width, L layers, M attention modes, C input candidates, O options (M or C).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volta_switch.config import ATTENTION_MODES, Config, SwitchConfig, attention_size
from volta_switch.errors import UserError
from volta_switch.model import reference_heads
from volta_switch.model.bert import Output
from volta_switch.model.switch import Forced, Routes, forced_weights

States = dict[str, Tensor]  # "t": (B, T, D) of the text, "v": (B, R, D) of the regions
Gumbel = Callable[[str, int, Tensor], Tensor]

PREFIX = {"t": "", "v": "v_"}  # of the names of weights and of fields
# Section 2.3.2: how many layers below each input candidate takes the text from, and the regions.
SCHEDULE = ("samples", "start_temperature", "floor_samples")  # n, tau_0, and n at tau_min; 0: by the rate
EPSILON = 1e-5  # is added to the variance of alignment vectors
CANDIDATES = ((1, 1), (2, 1), (1, 2), (2, 2))
ACTIVATIONS: dict[str, Callable] = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu, "tanh": torch.tanh}


def draw_gumbel(block: str, layer: int, log_pi: Tensor) -> Tensor:
    """Draws Gumbel noise g = -log(-log u), u ~ U(0, 1), (B, O); every block of every layer gets its own."""
    return -(-torch.rand_like(log_pi).log()).log()


class Reference:
    """The plain forward pass of one ``BertForVLPreTraining`` or ``BertForVLTasks``.

    Args:
        model: its parameters are shared; make a new reference after moving or casting it.
        routing: how switchers that are not forced choose: ``"auto"`` (soft with noise in training, hard in evaluation),
            ``"soft"`` (without noise) or ``"hard"``.
        gumbel: ``gumbel(block, layer, log_pi)`` gives the noise of a switcher, (B, O) as ``log_pi``; ``block`` is
            ``"attention"`` or ``"input"``, ``layer`` counts from 0.
    """

    def __init__(self, model: nn.Module, routing: str = "auto", gumbel: Gumbel = draw_gumbel):
        self.model, self.routing, self.gumbel = model, routing, gumbel
        self.weights: dict[str, Tensor] = model.state_dict(keep_vars=True)
        self.config: Config = model.config  # type: ignore[assignment]
        self.switch = self.config.switch or SwitchConfig()  # read only where there is one
        self.options = {"attention": self.switch.modes, "input": tuple("0123")[: self.switch.input_candidates]}

    def __call__(
        self, task: str | None = None, *, modes: Forced | None = None, inputs: Forced | None = None, **batch: Any
    ) -> Output:
        """Returns what the model returns for the same arguments.

        Args:
            task: name of a task head, for a ``BertForVLTasks``.
            modes, inputs: forced routes: an option for each layer, or (B, L) of them, or weights (B, L, O).
            batch: the model's arguments; those that are missing or None are made up as the model does.
        """
        given = self.completed(batch)
        real = {"t": given["attention_mask"] != 0, "v": given["image_attention_mask"] != 0}  # (B, T) and (B, R)
        embedded, routes = self.embeddings(given), None
        if self.config.switch is not None:
            states, routes = self.switch_encoder(embedded, real, modes, inputs)
        elif modes is None and inputs is None:
            states = self.static_encoder(embedded, real)
        else:
            raise UserError("modes and inputs can be forced only where the configuration has a switch section")
        states = {own: states[own] * real[own][..., None] for own in "tv"}
        pooled_t, pooled_v = (self.pooled(own, states, real) for own in "tv")
        out = Output(sequence_t=None, sequence_v=None, pooled_t=pooled_t, pooled_v=pooled_v, routes=routes)
        if task is not None:
            out.scores = reference_heads.task_scores(self, task, states, real, out)
        else:
            reference_heads.pretrain(self, given, states, out)
        return out

    def completed(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Returns the batch on the model's device, floats in its dtype, with masks and token types."""
        some = self.weights["bert.embeddings.word_embeddings.weight"]
        out = {name: value.to(some.device) for name, value in batch.items() if value is not None}
        out = {name: value.to(some.dtype) if value.is_floating_point() else value for name, value in out.items()}
        out.setdefault("token_type_ids", torch.zeros_like(out["input_ids"]))
        out.setdefault("attention_mask", torch.ones_like(out["input_ids"]))
        out.setdefault("image_attention_mask", torch.ones_like(out["image_feat"][..., 0]))
        return out

    # --- Parts ----------------------------------------------------------------------------------------------------

    def linear(self, name: str, states: Tensor) -> Tensor:
        """W x + b, (..., D) to (..., width)."""
        return F.linear(states, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def dense(self, name: str, activation: str, states: Tensor) -> Tensor:
        """A linear layer and an activation."""
        return ACTIVATIONS[activation](self.linear(name, states))

    def norm(self, name: str, states: Tensor) -> Tensor:
        """LayerNorm over the last dimension."""
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(states, weight.shape, weight, bias, self.config.layer_norm_eps)

    def table(self, name: str) -> Tensor:
        """An embedding table of ``bert.embeddings``, (entries, D)."""
        return self.weights[f"bert.embeddings.{name}.weight"]

    # --- Embeddings (section 2.4.1) -------------------------------------------------------------------------------

    def embeddings(self, batch: dict[str, Tensor]) -> States:
        """t_0 (B, T, D) and v_0 (B, R, D), at padding too."""
        kind, name = self.config.image_embeddings, "bert.embeddings"
        if kind == "vl-bert":
            return self.vl_bert_embeddings(batch)
        positions = self.table("position_embeddings")[: batch["input_ids"].shape[1]]
        text = self.norm(f"{name}.LayerNorm", self.words(batch) + positions)
        feat, loc = batch["image_feat"], batch["image_loc"]
        if kind == "visualbert":  # no locations: every region has position 0, and type 1 where none is given
            types = self.table("token_type_embeddings_visual")[batch.get("image_token_type_ids", 1)]
            feat = self.linear(f"{name}.projection", feat) + self.table("position_embeddings_visual")[0] + types
            return {"t": text, "v": self.norm(f"{name}.LayerNorm", feat)}
        name = name if kind == "uniter" else "bert.v_embeddings"
        feat = self.linear(f"{name}.image_embeddings", feat)
        loc = self.linear(f"{name}.image_location_embeddings", loc)
        if kind == "vilbert":
            vision = self.norm(f"{name}.LayerNorm", feat + loc)
        elif kind == "lxmert":
            vision = (self.norm(f"{name}.ImgLayerNorm", feat) + self.norm(f"{name}.LocLayerNorm", loc)) / 2
        else:  # UNITER, and Switch-BERT: regions have the text's type 1
            feat, loc = self.norm(f"{name}.image_layer_norm", feat), self.norm(f"{name}.image_location_layer_norm", loc)
            vision = self.norm(f"{name}.v_LayerNorm", feat + loc + self.table("token_type_embeddings")[1])
        return {"t": text, "v": vision}

    def words(self, batch: dict[str, Tensor]) -> Tensor:
        """Words and token types, (B, T, D); the padding word takes no gradient."""
        words = F.embedding(batch["input_ids"], self.table("word_embeddings"), padding_idx=self.config.pad_token_id)
        return words + self.table("token_type_embeddings")[batch["token_type_ids"]]

    def vl_bert_embeddings(self, batch: dict[str, Tensor]) -> States:
        """VL-BERT: every position has a word and an appearance; the last region slot stands for the end.

        Positions count the whole sequence, as in VOLTA: words behind the batch's shortest text come after the regions.
        """
        ids, feat = batch["input_ids"], batch["image_feat"]
        (_, T), R = ids.shape, feat.shape[1]
        masked = (feat == 0).all(-1, keepdim=True)  # (B, R, 1): masked regions have no feature
        feat = torch.where(masked, self.table("object_mask_visual_embedding")[0], feat)
        located = torch.cat((self.coordinates(batch["image_loc"]), feat), -1)  # (B, R, 2 * F)
        seen = F.relu(self.linear("bert.embeddings.obj_downsample.1", located))  # (B, R, D_v)
        of_words, of_regions = seen[:, -1:], seen  # the words' appearance is that of the end, (B, 1, D_v)
        if self.config.v_hidden_size != self.config.hidden_size:
            of_words = self.linear("bert.embeddings.visual_1x1_text", of_words)
            of_regions = self.linear("bert.embeddings.visual_1x1_object", of_regions)
        is_end = (torch.arange(R, device=feat.device) == R - 1).expand(len(feat), R)  # (B, R)
        kinds = self.table("object_linguistic_embeddings")[0].expand(len(feat), R, -1)  # (B, R, D)
        if "bert.embeddings.object_mask_word_embedding.weight" in self.weights:
            kinds = torch.where(masked, self.table("object_mask_word_embedding")[0], kinds)
        kinds = torch.where(is_end[..., None], self.table("end_embedding")[0], kinds)
        positions, text_end = self.table("position_embeddings"), (ids != 0).sum(1)  # text_end (B,)
        place = torch.arange(T, device=ids.device)
        place = torch.where(place >= text_end.min(), place + R, place).clamp(max=len(positions) - 1)  # (T,)
        text = self.words(batch) + self.norm("bert.embeddings.visual_ln_text", of_words) + positions[place]
        vision = kinds + self.norm("bert.embeddings.visual_ln_object", of_regions)
        vision = vision + positions[text_end[:, None] + is_end] + self.table("token_type_embeddings")[2]
        return {own: self.norm("bert.embeddings.LayerNorm", rows) for own, rows in (("t", text), ("v", vision))}

    def coordinates(self, boxes: Tensor) -> Tensor:
        """Sines and cosines of a box's centre and size, (B, R, num_locs) corners in [0, 1] to (B, R, 8 * dim)."""
        dim = self.config.v_coordinate_embeddings_dim
        assert dim is not None  # the configuration has checked that VL-BERT has one
        x1, y1, x2, y2 = boxes[..., :4].unbind(-1)
        value = 100 * torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), -1)  # (B, R, 4)
        wavelength = 1000 ** (torch.arange(dim, dtype=boxes.dtype, device=boxes.device) / dim)
        angle = value[..., None] / wavelength  # (B, R, 4, dim)
        return torch.cat((angle.sin(), angle.cos()), -1).flatten(-2)

    # --- Sublayers (eqs. 1-4) -------------------------------------------------------------------------------------

    def attention(self, number: int, own: str, others: str, states: States, real: States) -> Tensor:
        """Eqs. 3 and 4: softmax(q k^T / sqrt(A / H)) v, the query from ``own``, key and value from ``others``.

        Padded keys are left out; a sample without any key gets zeros. Returns (B, N, A).
        """
        _, H = attention_size(self.config, number, PREFIX[own])

        def heads(part: str, of: str) -> Tensor:  # (B, N, D) to (B, H, N, A / H)
            name = f"bert.encoder.layer.{number}.attention_self.{PREFIX[of]}{part}"
            return self.linear(name, states[of]).unflatten(-1, (H, -1)).transpose(1, 2)

        query = heads("query", own)  # (B, H, N, A / H)
        key, value = (torch.cat([heads(part, of) for of in others], 2) for part in ("key", "value"))
        allowed = torch.cat([real[of] for of in others], 1)[:, None, None]  # (B, 1, 1, K)
        some = allowed.any(-1, keepdim=True)  # (B, 1, 1, 1)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # (B, H, N, K)
        weights = scores.masked_fill(~allowed & some, -torch.inf).softmax(-1) * some
        return (weights @ value).transpose(1, 2).flatten(2)

    def residual(self, name: str, own: str, update: Tensor, states: Tensor) -> Tensor:
        """LN(x + W u), of states x (B, N, D) and an update u (B, N, width)."""
        dense = self.linear(f"{name}.{PREFIX[own]}dense", update)
        return self.norm(f"{name}.{PREFIX[own]}LayerNorm", states + dense)

    def attend(self, number: int, states: States, updates: States) -> States:
        """Eqs. 1-2, the first half of a layer: the states of the modalities that have attended."""
        name = f"bert.encoder.layer.{number}.attention_output"
        return states | {own: self.residual(name, own, update, states[own]) for own, update in updates.items()}

    def feed_forward(self, number: int, states: States) -> States:
        """Eqs. 1-2, the second half: LN(x + W' GELU(W x)), of the modalities for which VOLTA's lists name it."""
        name, out = f"bert.encoder.layer.{number}", dict(states)
        for own in "tv":
            if number in getattr(self.config, f"{own}_ff_sublayers"):
                activation = getattr(self.config, f"{PREFIX[own]}hidden_act")
                update = self.dense(f"{name}.intermediate.{PREFIX[own]}dense", activation, states[own])
                out[own] = self.residual(f"{name}.output", own, update, states[own])
        return out

    # --- Encoders -------------------------------------------------------------------------------------------------

    def static_encoder(self, states: States, real: States) -> States:
        """VOLTA's sublayers in their order; a modality that a sublayer does not name passes through.

        Shared sublayers need no word here: their weights stand under both modalities' names.
        """
        config = self.config
        for number in range(len(config.attention_sublayers) + len(config.ff_sublayers)):
            updates = {}
            for own in "tv":
                others = [other for other in "tv" if number in getattr(config, f"{own}{other}_attn_sublayers")]
                if others:
                    updates[own] = self.attention(number, own, "".join(others), states, real)
            states = self.feed_forward(number, self.attend(number, states, updates))
        return states

    def switch_encoder(
        self, states: States, real: States, modes: Forced | None = None, inputs: Forced | None = None
    ) -> tuple[States, Routes]:
        """Switch-BERT (section 2.4.2): a SAB in every layer, a SIB between consecutive layers."""
        L, device = len(self.config.attention_sublayers), states["t"].device
        of_layers: dict[str, Any] = {"shape": (len(real["t"]), L), "device": device}
        forced = {
            block: given if given is None else forced_weights(given, self.options[block], what=name, **of_layers)
            for block, given, name in (("attention", modes, "modes"), ("input", inputs, "inputs"))
        }
        below = [states, states]  # layer l-1's output and the older input; before the first layer, the embeddings
        used: dict[str, list[Tensor]] = {"attention": [], "input": []}
        for layer in range(L):
            # SIB, section 2.3.2: the candidates' weighted sum, of the text and of the regions.
            c = self.route("input", layer, below[0], real, forced["input"])  # (B, C)
            states = {
                own: _mixture(c, [below[CANDIDATES[int(k)][side] - 1][own] for k in self.options["input"]])
                for side, own in enumerate("tv")
            }
            # SAB, eq. 8: the modes' weighted sum.
            p = self.route("attention", layer, states, real, forced["attention"])  # (B, M)
            updates = {}
            for side, own in enumerate("tv"):
                others = [ATTENTION_MODES[mode].attended[side] for mode in self.options["attention"]]
                updates[own] = _mixture(p, [self.attention(2 * layer, own, other, states, real) for other in others])
            older = below[0] if self.switch.older_input == "output" else states
            below = [self.feed_forward(2 * layer + 1, self.attend(2 * layer, states, updates)), older]
            used["attention"].append(p.float())
            used["input"].append(c.float())
        return below[0], Routes(*(torch.stack(used[block], 1) for block in ("attention", "input")))

    # --- Switchers (eqs. 5-8) -------------------------------------------------------------------------------------

    @property
    def temperature(self) -> Tensor:
        """Section 2.3.1: tau = max(tau_min, tau_0 exp(-rate n)), n the training samples seen; a scalar."""
        n, start, end = (self.weights[f"bert.encoder.switch_{part}"] for part in SCHEDULE)
        rate = torch.where(end > 0, (start / self.switch.min_temperature).log() / end, self.switch.anneal_rate)
        return (start * torch.exp(-rate * n).to(start.dtype)).clamp(min=self.switch.min_temperature)

    def route(self, block: str, layer: int, states: States, real: States, forced: Tensor | None) -> Tensor:
        """The weights of a block's options, (B, O): forced (B, L, O), fixed where there is no switcher, or chosen."""
        options = self.options[block]
        first = block == "input" and layer == 0  # has the embeddings alone
        if forced is not None and not first:
            return forced[:, layer].to(states["t"])
        if first or not getattr(self.switch, block):
            fixed = options.index("J") if "J" in options else 0
            return F.one_hot(torch.full_like(real["t"].sum(1), fixed), len(options)).to(states["t"].dtype)
        return self.choose(block, layer, self.log_pi(block, layer, states, real))

    def log_pi(self, block: str, layer: int, states: States, real: States) -> Tensor:
        """Eqs. 5 and 6: the mean states, their alignment degree, and log pi = log softmax(MLP(a)), (B, O)."""
        mask = {own: real[own][..., None].to(states[own].dtype) for own in "tv"}  # padding does not count
        t, v = ((states[own] * mask[own]).sum(1) / mask[own].sum(1).clamp(min=1) for own in "tv")  # (B, D), eq. 5
        a = torch.cat((t, v), -1) if self.switch.alignment == "concat" else t * v
        name = f"bert.encoder.{block}_switch.{layer - 1 if block == 'input' else layer}"
        if self.switch.alignment_norm == "batch":  # by the statistics of the steps before
            a = (a - self.weights[f"{name}.norm.mean"]) / (self.weights[f"{name}.norm.variance"] + EPSILON).sqrt()
        elif self.switch.alignment_norm == "sample":
            a = F.layer_norm(a, a.shape[-1:])
        return self.linear(f"{name}.options", F.gelu(self.linear(f"{name}.hidden", a))).log_softmax(-1)  # eq. 6

    def choose(self, block: str, layer: int, log_pi: Tensor) -> Tensor:
        """Eqs. 7 and 8: soft weights of the K most probable options, or the most probable one; (B, O)."""
        options = log_pi.shape[-1]
        if self.routing == "hard" or (self.routing == "auto" and not self.model.training):
            return F.one_hot(log_pi.argmax(-1), options).to(log_pi.dtype)  # eq. 8, "hard selection"
        g = self.gumbel(block, layer, log_pi) if self.routing == "auto" else 0
        p = ((log_pi + g) / self.temperature).softmax(-1)  # eq. 7
        K = self.switch.active_modes if block == "attention" else options
        if options == K:
            return p
        active = torch.zeros_like(p).scatter(-1, p.topk(K, -1).indices, 1.0)  # section 3.4.5
        if K == 1:  # the lone weight is 1; the gradient is the soft one's
            return active * (1 + p - p.detach())
        return p * active / (p * active).sum(-1, keepdim=True)

    # --- Poolers --------------------------------------------------------------------------------------------------

    def pooled(self, own: str, states: States, real: States) -> Tensor | None:
        """One state through a linear layer and an activation, (B, P); None where the fusion needs none.

        It is that of ``[CLS]`` or of the first region; for VL-BERT's and (as it is) VisualBERT's VQA the last but one.
        """
        fusion, name = self.config.fusion, f"bert.{own}_pooler.dense"
        if not (fusion.pools_text if own == "t" else fusion.pools_vision):
            return None
        count = real[own].sum(1)  # (B,)
        place = count - 2 if own == "t" and fusion.at_end else torch.zeros_like(count)
        state = states[own][torch.arange(len(place), device=place.device), place]  # (B, D)
        return self.dense(name, self.config.fusion_act, state) if fusion.through_pooler else state


def _mixture(weights: Tensor, options: list[Tensor]) -> Tensor:
    """sum_k p_k o_k, (B, O) and O times (B, N, width) to (B, N, width)."""
    return torch.einsum("bk,kbnd->bnd", weights, torch.stack(options))
