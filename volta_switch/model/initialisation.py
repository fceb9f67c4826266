"""What weights are before anything is learnt."""

from __future__ import annotations

import math

from torch import nn

from volta_switch.config import Config
from volta_switch.model.embeddings import VisualBertEmbeddings, VLBertEmbeddings
from volta_switch.model.switch import Switcher


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
