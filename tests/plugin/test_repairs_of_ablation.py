"""Every repair of VOLTA's cross-modal ablation: what goes wrong without it, and the right number with it.

Set VOLTA_HOME to a checkout of github.com/e-bug/volta; without it these tests are skipped.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plugin.seen_failures import SeenFailures, failure_of
from plugin.volta_entities import LENGTH, ablation_flags, dumped_losses, write_entities_world, write_model
from plugin.volta_runs import VoltaWorld, volta_checkout
from volta_switch.plugin.repairs import REPAIRS
from volta_switch.plugin.script import LANG4VIS, VIS4LANG

HOME = volta_checkout()
OWN = [one for one in REPAIRS if one.scripts and set(one.scripts) <= {LANG4VIS, VIS4LANG}]
sees = SeenFailures(one for one in OWN if not one.fixes_numbers)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> VoltaWorld:
    return write_entities_world(tmp_path_factory.mktemp("entities"))


@pytest.fixture(scope="module")
def models(world):
    """The global region first, and last."""
    return {place: write_model(world, "ctrl_uniter", add_global_imgfeat=place)[:2] for place in ("first", "last")}


@pytest.fixture
def flags(models, tmp_path):
    """A command line; results are written below ``tmp_path``."""
    return lambda masking, place="first": ablation_flags(*models[place], tmp_path / "out", masking)


@pytest.mark.parametrize("name", sees.repairs)
def test_every_repair_names_its_lines_and_has_a_test_that_sees_what_it_mends(name):
    sees.check(name, HOME)


@sees("ablated-values", "= model(", "= model(")
@pytest.mark.parametrize("script", [VIS4LANG, LANG4VIS])
def test_without_ablated_values_nothing_is_measured(world, flags, tmp_path, script):
    failure = failure_of(world, script, *flags("none"), without=("ablated-values",))
    assert failure.startswith("ValueError: too many values to unpack (expected 5")
    world.run_here(script, *flags("none"))
    assert dumped_losses(tmp_path / "out", "none")


@sees("unlabelled-regions", "pre_vis_criterions[ix]")
def test_without_unlabelled_regions_no_region_is_measured(world, flags):
    failure = failure_of(world, LANG4VIS, *flags("none"), without=("unlabelled-regions",))
    assert failure == "AttributeError: 'bool' object has no attribute 'unsqueeze'"


def features_of(world, script, flags, fix=()):
    """The features (R, F) of every sample, as the model is given them, and the reader's."""
    with world.prepared(script, *flags, fix=fix) as made:
        seen = []
        loader = made.module.DataLoader

        def noting(dataset, **options):
            reader = dataset._image_features_reader
            seen.extend((dataset[i][5], reader[dataset._entries[i]["image_id"]][0]) for i in range(len(dataset)))
            return loader(dataset, **options)

        made.patches.set(made.module, "DataLoader", noting)
        made.module.main()
    return seen


@pytest.mark.parametrize("fix", [(), ("ablated-global",)])
def test_a_last_global_region_is_the_mean_of_what_is_left(world, flags, fix):
    pairs = features_of(world, VIS4LANG, flags("none", "last"), fix)
    for given, stored in pairs:
        first_is_whole = np.allclose(given[0], stored[0])
        assert first_is_whole == bool(fix)
        np.testing.assert_allclose(given[-1], stored[:-1].mean(0), rtol=1e-4, atol=1e-5)  # nothing is masked
    for given, stored in features_of(world, VIS4LANG, flags("all", "last"), fix):
        own = np.allclose(given[-1], given[1])  # all boxes are the mean of the images
        assert own == bool(fix) and (fix or np.allclose(given[-1], stored[-1]))


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("fix", [(), ("masked-global",)])
def test_the_global_region_tells_nothing_of_masked_ones(world, flags, fix, place):
    masked_somewhere = 0
    for given, stored in features_of(world, LANG4VIS, flags("none", place), fix):
        boxes, whole = (given[:-1], given[-1]) if place == "last" else (given[1:], given[0])
        every = stored[:-1] if place == "last" else stored[1:]
        free = boxes[(boxes != 0).any(1)]
        masked_somewhere += len(free) < len(boxes)
        expected = free.mean(0) if fix else torch.tensor(every.mean(0))
        np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-5)
    assert masked_somewhere > 20


@pytest.mark.parametrize("fix", [(), ("unseen-objects",)])
def test_an_object_that_no_region_shows_has_no_loss(world, flags, tmp_path, fix):
    world.run_here(LANG4VIS, *flags("none"), fix=fix)
    losses = dumped_losses(tmp_path / "out", "none")["mrc_kl"]
    assert (losses == 0).any() != bool(fix) and (losses > 0).any()


@pytest.mark.parametrize("fix", [(), ("cut-phrases",)])
def test_a_phrase_that_is_cut_off_has_no_loss(world, flags, tmp_path, fix, capsys):
    world.run_here(VIS4LANG, *flags("none"), fix=fix)
    losses = dumped_losses(tmp_path / "out", "none")["mlm"]
    assert np.isnan(losses).any() != bool(fix) and (losses > 0).any() and LENGTH < 17
    assert ("MLM: nan" in capsys.readouterr().out) != bool(fix)


SHOWN = {  # the fix -> the test that shows it
    "ablated-global": test_a_last_global_region_is_the_mean_of_what_is_left,
    "masked-global": test_the_global_region_tells_nothing_of_masked_ones,
    "unseen-objects": test_an_object_that_no_region_shows_has_no_loss,
    "cut-phrases": test_a_phrase_that_is_cut_off_has_no_loss,
}
