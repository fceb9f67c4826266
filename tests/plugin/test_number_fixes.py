"""Every fix of a wrong number is shown by a test, and names the line of VOLTA that is wrong.

Set VOLTA_HOME to a checkout of github.com/e-bug/volta; without it these tests are skipped.
"""

from __future__ import annotations

import pytest

from plugin import test_number_fixes_of_pretraining as of_pretraining
from plugin import test_number_fixes_of_tasks as of_tasks
from plugin import test_number_fixes_of_weights as of_weights
from plugin import test_repairs_of_ablation as of_ablation
from plugin.volta_runs import volta_checkout
from volta_switch import UserError
from volta_switch.plugin.repairs import REPAIRS, choose

HOME = volta_checkout()
FIXES = {repair.name: repair for repair in REPAIRS if repair.fixes_numbers}
AT = {  # what the named line of VOLTA holds
    "seeds": "LocallyShuffleData",
    "global-last": "add_global_imgfeat",
    "global-mean": "sum_count",
    "validation-objective": "batch[:-1]",
    "bert-rate": "key[12:]",
    "resume-epoch": "-1, model",
    "embeddings-from-scratch": "shared_embeddings[",
    "empty-words": "loss_fct",
    "object-labels": "obj_labels",
    "vlbert-inputs": "image_feat[mvrc_mask]",
    "negatives": "count = 0",
    "token-caches": "cache_path",
    "schedule": "optim_train_epochs",
    "evaluation-steps": "eval_steps - 1",
    "accumulated-loss": "gradient_accumulation_steps",
    "referred-region": "torch.max(vil_prediction",
    "referred-ids": "question_id[i]",
    "sampler-epochs": "DistributedSampler(",
    "results-folder": "timeStamp",
    "ablated-global": "mix_features_pad[1:].mean(0)",
    "masked-global": "mix_features_pad[masked_label > 0] = 0",
    "unseen-objects": "highest IoU",
    "cut-phrases": "masked_lm_loss",
}


def test_every_fix_is_shown():
    shown = [*of_pretraining.SHOWN, *of_weights.SHOWN, *of_tasks.SHOWN, *of_ablation.SHOWN]
    assert sorted(shown) == sorted(FIXES), "add the fix to SHOWN of a test module, with the test that shows it"


@pytest.mark.parametrize("name", FIXES)
def test_a_fix_names_the_line_that_is_wrong(name):
    file, line = FIXES[name].where.split(":")
    assert AT[name] in (HOME / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]


@pytest.mark.parametrize("name", FIXES)
def test_a_fix_is_applied_only_where_it_is_asked_for(name):
    chosen = choose(fix=[name])
    assert FIXES[name] in chosen and not [one for one in choose() if one.fixes_numbers]
    assert [one for one in chosen if one.fixes_numbers] == [FIXES[name]]
    with pytest.raises(UserError, match=f"--without {name}: "):
        choose(without=[name])  # it is no repair that could be left out
