"""Small checkpoints, and whether two are equal."""

import torch

from volta_switch.train.checkpoints import CheckpointStore, TrainingProgress

IDENTITY = {"config": {"hidden_size": 16}, "hyperparameters": {"seed": 1, "adam_betas": [0.9, 0.999]}, "task": "TASK1"}
PLAIN = {"schedule": {"last_epoch": 7}, "loss_scale": 65536.0, "ranks": 2, "name": "ü\n"}


def content(step, width=8):
    """What a run of a model with a shared weight saves at a step, as arguments of ``CheckpointStore.save``."""
    generator = torch.Generator().manual_seed(step)
    table = torch.randn(width, width, generator=generator)
    model = {
        "bert.embeddings.word_embeddings.weight": table,
        "bert.encoder.layer.0.weight": torch.randn(width, width, generator=generator).t(),  # not contiguous
        "bert.encoder.switch_samples": torch.tensor(4 * step),
        "cls.predictions.decoder.weight": table,
    }
    training = {f"exp_avg/{name}": torch.randn(width, width, generator=generator) for name in list(model)[:2]}
    training |= {f"step/{name}": torch.tensor(float(step)) for name in list(model)[:2]}
    training["random/cpu"] = torch.get_rng_state()
    progress = TrainingProgress(epoch=1, batch=2, step=step, samples=4 * step, best_score=-3.5, best_epoch=0, skipped=1)
    return progress, IDENTITY, {**PLAIN, "step": step}, model, training


def store_of(folder, *steps, keep=10):
    """A store with checkpoints of some steps."""
    store = CheckpointStore(folder / "checkpoints", keep)
    for step in steps:
        store.save(*content(step))
    return store


def same_tensors(left, right):
    """Whether two dictionaries hold the same tensors, bit for bit."""
    return left.keys() == right.keys() and all(
        tensor.dtype == right[name].dtype and tensor.shape == right[name].shape and torch.equal(tensor, right[name])
        for name, tensor in left.items()
    )


def is_content(saved, step, **arguments):
    """Whether a checkpoint that was read is what ``content`` gave for a step."""
    progress, identity, plain, model, training = content(step, **arguments)
    return (
        (saved.progress, saved.identity, saved.plain) == (progress, identity, plain)
        and same_tensors(saved.model, model)
        and same_tensors(saved.training, training)
    )
