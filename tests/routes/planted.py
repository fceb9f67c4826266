"""Task models of the small world whose switchers are set by hand."""

import torch

from volta_switch.model.bert import switch_encoder

LARGE = 50.0


def model_and_task(world, task, **changes):
    """A random model of the small world's Switch-BERT, in evaluation, its task and its encoder."""
    built = world.task(task, world.config("switchbert", **changes))
    model = world.task_model(built)
    return model, built, switch_encoder(model)


def scatter(encoder, seed=0):
    """Switchers that send samples different ways."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "switch" in name:
                parameter.copy_(3 * torch.randn(parameter.shape, generator=generator))


def plant_constant(switcher, option):
    """Always this option."""
    with torch.no_grad():
        for parameter in switcher.parameters():
            parameter.zero_()
        switcher.options.bias[option] = LARGE


def plant_reader(switcher, side, direction, threshold, below, above):
    """``above`` where the mean state of a side (0 text, 1 vision) along a direction (D,) exceeds the threshold."""
    D = len(direction)
    with torch.no_grad():
        for parameter in switcher.parameters():
            parameter.zero_()
        # GELU(z) and GELU(-z) differ by z; the hidden units beyond these two stay at 0.
        for unit, sign in ((0, 1.0), (1, -1.0)):
            switcher.hidden.weight[unit, side * D : (side + 1) * D] = sign * direction
            switcher.hidden.bias[unit] = -sign * threshold
            switcher.options.weight[above, unit] = sign * LARGE
        switcher.options.bias += -(LARGE**2)
        switcher.options.bias[[below, above]] = 0.0
