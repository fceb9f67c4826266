"""A pre-training step, forward to update: one model against another, in one process, in turn (A B A B ...), medians.

    [VOLTA_HOME=...] python benchmarks/train_step.py --model ctrl_uniter_base --against volta
    python benchmarks/train_step.py --model switchbert --against uniter
    python benchmarks/train_step.py --model switchbert --against naive

Both sides get the same batch: captions of 12 +- 4 word pieces in 38 slots, 36 regions and a global one, at VOLTA's
sizes, random weights, dropout as configured. ``volta`` is VOLTA's own model, losses and optimiser, stepped as its
training script does; ``uniter`` this project's UNITER; ``naive`` Switch-BERT with one attention for each mode. bfloat16
is autocast, on both sides. On a CPU the times are CPU seconds of this process, so that others on the machine count
less.
"""

from __future__ import annotations

from typing import Any

import torch
from interleaved import Step, autocast, flags, in_turn, table
from torch import Tensor

from volta_switch import BertForVLPreTraining, load_config
from volta_switch.config import find_config
from volta_switch.model import sublayers
from volta_switch.model.attention import MODE_PAIRS, KeyMask, attend
from volta_switch.train.optimisation import Hyperparameters, build_optimizer, clipped_step

SLOTS, BOXES, CLASSES = 38, 36, 1601


def main() -> None:
    """Build both sides, step them in turn, print the table."""
    parser = flags(__doc__, batch=32, rounds=5)
    parser.add_argument("--model", default="ctrl_uniter_base", help="a configuration of this project")
    parser.add_argument("--against", choices=("volta", "uniter", "naive", "none"), default="none")
    parser.add_argument("--layers", type=int, default=0, help="fewer layers than configured, single-stream models only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    batch = {name: tensor.to(device) for name, tensor in some_batch(args.batch).items()}
    sides = {args.model: our_step(args.model, args.layers, batch, device, dtype)}
    if args.against == "volta":
        sides["VOLTA"] = volta_step(args.model, args.layers, batch, device, dtype)
    elif args.against == "uniter":
        sides["ctrl_uniter_base"] = our_step("ctrl_uniter_base", args.layers, batch, device, dtype)
    elif args.against == "naive":
        sides["naive"] = naively(our_step(args.model, args.layers, batch, device, dtype))
    print(table(in_turn(sides, device, args.rounds), args.batch, args.model))


def some_batch(B: int, seed: int = 0) -> dict[str, Tensor]:
    """Make a batch of pre-training as VOLTA's loader gives it."""
    g = torch.Generator().manual_seed(seed)
    lengths = (torch.randn(B, generator=g) * 4 + 12).round().clamp(3, SLOTS - 2).long() + 2  # [CLS] and [SEP]
    mask = torch.arange(SLOTS) < lengths[:, None]
    words = torch.randint(1000, 30000, (B, SLOTS), generator=g) * mask
    inner = mask & (torch.arange(SLOTS) > 0) & (torch.arange(SLOTS) < lengths[:, None] - 1)
    match = torch.rand(B, generator=g) < 0.5
    hidden = inner & (torch.rand(B, SLOTS, generator=g) < 0.15)
    boxes = torch.rand(B, BOXES, generator=g) < 0.15
    features = torch.randn(B, BOXES + 1, 2048, generator=g).relu()
    features[:, 1:][boxes] = 0
    corners = torch.rand(B, BOXES + 1, 4, generator=g).sort(-1).values
    return {
        "input_ids": torch.where(hidden, 103, words),
        "image_feat": features,
        "image_loc": torch.cat((corners, torch.rand(B, BOXES + 1, 1, generator=g)), -1),
        "token_type_ids": torch.zeros_like(words),
        "attention_mask": mask.long(),
        "image_attention_mask": torch.ones(B, BOXES + 1, dtype=torch.long),
        "masked_lm_labels": torch.where(hidden & ~match[:, None], words, -1),
        "image_label": torch.where(boxes & ~match[:, None], 1, -1),
        "image_cls": torch.randn(B, BOXES, CLASSES, generator=g).softmax(-1),
        "next_sentence_label": match.long(),
    }


def our_step(name: str, layers: int, batch: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> Step:
    """Make a step of this project: forward, backward, clipping at 5, AdamW."""
    torch.manual_seed(0)
    model = BertForVLPreTraining(load_config(shortened(name, layers))).to(device).train()
    optimizer = build_optimizer(model, Hyperparameters(epochs=1, batch_size=1, learning_rate=1e-4))

    def step() -> Tensor:
        with autocast(device, dtype):
            loss = model(**batch).loss
        assert loss is not None
        loss.backward()
        clipped_step(optimizer, 5.0)
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def volta_step(name: str, layers: int, batch: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> Step:
    """Make a step as VOLTA's train_concap.py does it: its model, its losses, one parameter group for each parameter."""
    from pytorch_transformers.optimization import AdamW

    from volta_switch.plugin.checkout import find_checkout, import_encoders, import_volta

    encoders = import_encoders(find_checkout())
    config = import_volta("config").BertConfig.from_dict(shortened(name, layers))
    torch.manual_seed(0)
    model = encoders.BertForVLPreTraining(config).to(device).train()
    groups = [
        {"params": [parameter], "lr": 1e-4, "weight_decay": 0.0 if "bias" in key or "LayerNorm" in key else 0.01}
        for key, parameter in model.named_parameters()
    ]
    optimizer = AdamW(groups, lr=1e-4, eps=1e-6, betas=(0.9, 0.999))
    names = (
        *("input_ids", "image_feat", "image_loc", "token_type_ids", "attention_mask", "image_attention_mask"),
        *("masked_lm_labels", "image_label", "image_cls"),
    )

    def step() -> Tensor:
        with autocast(device, dtype):
            losses = model(*(batch[key] for key in names), next_sentence_label=batch["next_sentence_label"])
            loss = losses[0] + losses[1] + losses[2]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def naively(step: Step) -> Step:
    """Make the same step with one attention for each mode."""

    def slow() -> Tensor:
        merged, sublayers.attend_mixed = sublayers.attend_mixed, attend_each  # type: ignore[assignment]
        try:
            return step()
        finally:
            sublayers.attend_mixed = merged

    return slow


def attend_each(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    real: KeyMask,
    weights: Tensor,
    modes: tuple[str, ...],
    dropout: float,
    text_queries: int,
) -> Tensor:
    """Attend in every mode by itself and mix the outputs, as the paper describes it."""
    T = real.text.shape[1]
    mixed: Tensor | float = 0.0
    for index, mode in enumerate(modes):
        tt, tv, vt, vv = MODE_PAIRS[mode]
        parts = []
        for rows, to_text, to_vision in (
            (query[:, :, :text_queries], tt, tv),
            (query[:, :, text_queries:], vt, vv),
        ):
            at = slice(0 if to_text else T, None if to_vision else T)
            parts.append(attend(rows, key[:, :, at], value[:, :, at], real.joint[:, at], dropout))
        mixed = mixed + weights[:, index, None, None, None] * torch.cat(parts, 2)
    assert isinstance(mixed, Tensor)
    return mixed.to(value.dtype)


def shortened(name: str, layers: int) -> dict[str, Any]:
    """Read a configuration as a dictionary, with fewer layers where that is asked for."""
    values = load_config(find_config(name)).to_dict()
    if not layers:
        return values
    for key in ("tt", "tv", "vt", "vv"):
        values[f"{key}_attn_sublayers"] = list(range(0, 2 * layers, 2))
    for key in ("t", "v"):
        values[f"{key}_ff_sublayers"] = list(range(1, 2 * layers, 2))
    values["shared_sublayers"] = values["single_ln_sublayers"] = list(range(2 * layers))
    for kind, first in (("attn", 0), ("ff", 1)):
        values[f"bert_layer2{kind}_sublayer"] = {str(layer): 2 * layer + first for layer in range(layers)}
    return values


if __name__ == "__main__":
    main()
