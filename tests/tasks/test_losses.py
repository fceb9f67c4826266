"""Each task's loss is METHOD's formula, worked out here from the scores, and independent of padding."""

import pytest
import torch

from synthetic_world import TASKS
from volta_switch.data.batches.loader import start_epoch


@pytest.fixture(scope="module")
def config(world):
    return world.config("ctrl_uniter")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def first_batch(task, size, training=False):
    loader = task.loader("train", size, training)
    start_epoch(loader, 0)
    return next(iter(loader))


def cross_entropy(probability, target):
    """-(t log p + (1 - t) log(1 - p)) in float64."""
    return -(target * probability.log() + (1 - target) * (1 - probability).log())


def test_vqa_descends_the_cross_entropies_summed_over_the_answers(world, config):
    task = world.task("vqa", config)
    batch = first_batch(task, 6)
    scores = task.scores(world.task_model(task), batch)
    assert scores.shape == batch.target.shape == (6, task.spec.num_labels)
    each = cross_entropy(scores.double().sigmoid(), batch.target.double()).sum(1)
    assert task.loss(scores, batch).item() == pytest.approx(each.mean().item(), rel=1e-5)
    voltas = torch.nn.functional.binary_cross_entropy_with_logits(scores, batch.target) * batch.target.shape[1]
    assert task.loss(scores, batch).item() == pytest.approx(voltas.item(), rel=1e-6)


def test_refer_descends_the_cross_entropies_summed_over_the_regions(world, config):
    task = world.task("refer", config)
    batch = first_batch(task, 6)
    scores = task.scores(world.task_model(task), batch)
    real = batch.inputs["image_attention_mask"] == 1
    assert 0 < batch.target[:, 1:].max() <= 1 and (batch.target[:, 0] > 0).all()  # the global region is trained on
    each = torch.where(real, cross_entropy(scores[..., 0].double().sigmoid(), batch.target.double()), 0).sum(1)
    assert task.loss(scores, batch).item() == pytest.approx(each.mean().item(), rel=1e-5)


def test_retrieval_descends_the_cross_entropy_of_the_pair_among_four(world, config):
    task = world.task("retrieval", config)
    batch = first_batch(task, 5, training=True)
    scores = task.scores(world.task_model(task), batch)
    assert scores.shape == (20, 1) and batch.target.tolist() == [0] * 5
    four = scores.double().view(5, 4)
    each = -(four[:, 0].exp() / four.exp().sum(1)).log()
    assert task.loss(scores, batch).item() == pytest.approx(each.mean().item(), rel=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_padding_changes_no_loss(world, config, name):
    task = world.task(name, config)
    model = world.task_model(task)
    batch = first_batch(task, 4)
    padded = padded_batch(batch)
    assert padded.inputs["image_feat"].shape[1] == batch.inputs["image_feat"].shape[1] + 3
    scores, padded_scores = task.scores(model, batch), task.scores(model, padded)
    torch.testing.assert_close(task.loss(padded_scores, padded), task.loss(scores, batch), rtol=1e-5, atol=1e-6)
    assert task.hits(padded_scores, padded).tolist() == task.hits(scores, batch).tolist()


def padded_batch(batch):
    """The batch with three more regions and two more tokens, all padding, whose features are not even zero."""
    inputs = dict(batch.inputs)
    for key in ("input_ids", "token_type_ids", "attention_mask"):
        inputs[key] = torch.nn.functional.pad(inputs[key], (0, 2))
    inputs["image_attention_mask"] = torch.nn.functional.pad(inputs["image_attention_mask"], (0, 3))
    for key in ("image_feat", "image_loc"):
        inputs[key] = torch.nn.functional.pad(inputs[key], (0, 0, 0, 3), value=0.7)
    grounded = batch.candidates is not None
    target = torch.nn.functional.pad(batch.target, (0, 3)) if grounded else batch.target
    candidates = torch.nn.functional.pad(batch.candidates, (0, 3)) if grounded else None
    return type(batch)(inputs, target, batch.ids, candidates)


@pytest.mark.parametrize("name", TASKS)
def test_a_batchs_loss_is_the_mean_of_its_samples(world, config, name):
    """What makes accumulated gradients those of the whole batch."""
    task = world.task(name, config)
    model = world.task_model(task)
    dataset = task.dataset("train", training=False)
    samples = [dataset[index] for index in range(6)]

    def loss(some):
        batch = dataset.collate(some, task.layout)
        return task.loss(task.scores(model, batch), batch).item()

    assert loss(samples) == pytest.approx(sum(loss([sample]) for sample in samples) / 6, rel=1e-5)
