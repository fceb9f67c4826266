"""Every repair of what VOLTA cannot do on today's packages: its failure without the repair, and none with it.

VOLTA's own errors are in ``test_stopping_repairs_of_volta``.
"""

import os
import sys
import textwrap

import pytest
import torch
from torch import nn

from plugin.apart import Apart
from plugin.seen_failures import SeenFailures, failure_of
from plugin.volta_runs import CONCAP_FLAGS, volta_checkout
from volta_switch import UserError
from volta_switch.plugin.checkout import package_of
from volta_switch.plugin.repairs import REPAIRS
from volta_switch.plugin.replacements import installed, version
from volta_switch.plugin.script import Script

HOME = volta_checkout()
sees = SeenFailures(one for one in REPAIRS if not one.fixes_numbers and one.stage == "packages")
BATCH = "batch (4, 36, 2048)"
ANSWER_WAITED_FOR = 5.0  # seconds in which a reader that works gives many batches of four
PREPARED = """
    import sys
    from pathlib import Path

    from volta_switch.plugin.repairs import choose
    from volta_switch.plugin.script import Script

    def prepared(script, *flags, without=()):
        made = Script(Path(sys.argv[1]), script)
        made.prepare(choose(without), flags)
        return made
"""
READS_CAPTIONS = """
    from transformers import AutoTokenizer

    without, batches = sys.argv[2].split(), int(sys.argv[3])
    script = prepared("train_concap.py", *sys.argv[4:], without=without)
    args = script.module.parse_args()
    loader = script.volta("datasets.concept_cap_dataset").ConceptCapLoaderTrain(
        args.annotations_path, args.features_path, AutoTokenizer.from_pretrained("bert-world"),
        args.max_seq_length, batch_size=4, num_workers=1, cache=5000,
    )
    reader = loader.ds.ds.ds.ds  # batches of parallel of preprocessed of records read ahead
    prefetched = "num_prefetch" if hasattr(reader, "num_prefetch") else "nr_prefetch"  # by tensorpack's version
    tell("places", getattr(reader, prefetched), reader.ds.q.maxlen)
    for number, batch in zip(range(batches), loader):
        tell("batch", tuple(batch[5].shape))
"""
TRAINS_WITH_WORKERS = """
    import multiprocessing

    multiprocessing.set_start_method("forkserver")  # as Python 3.14 does on Linux
    for without in (["forked-workers"], []):
        script = prepared("train_task.py", *sys.argv[2:], without=without)
        tell("applied", "forked-workers" in script.applied, multiprocessing.get_start_method())
        try:
            script.module.main()
            tell("finished")
        except TypeError as error:
            tell("TypeError", error)
        script.patches.undo()
"""


def python(world, outputs, code, *arguments):
    """Starts Python code in the world; what its processes write goes below a folder."""
    return Apart(outputs, textwrap.dedent(PREPARED) + textwrap.dedent(code), [HOME, *arguments], world.path)


def read_captions(world, outputs, without="", batches=0):
    """Starts VOLTA's own loader of Conceptual Captions, which tells of some batches."""
    flags = ("--config_file", world.config("ctrl_uniter"), *CONCAP_FLAGS)
    return python(world, outputs, READS_CAPTIONS, without, batches, *flags)


@pytest.fixture(scope="module")
def captions_read(volta_world, tmp_path_factory):
    """What the loader tells when nothing is left out."""
    program = read_captions(volta_world, tmp_path_factory.mktemp("read") / "outputs", batches=2)
    assert program.ends(120) == 0, program.written
    return program.told


@pytest.fixture
def weights(tmp_path):
    """A file of no weights: VOLTA goes on from it with random ones."""
    torch.save({}, tmp_path / "weights.bin")
    return tmp_path / "weights.bin"


@pytest.fixture
def preparing(monkeypatch):
    """Applies repairs to a script as on a machine that is not this one; only the stage before VOLTA is imported."""
    made = []

    def prepare(name, *flags):
        script = Script(HOME, "train_task.py")
        monkeypatch.setattr(sys, "argv", ["train_task.py", *flags])
        made.append(script)
        if sees.repairs[name].concerns(script):
            sees.repairs[name].mend(script)
        return script

    yield prepare
    for script in reversed(made):
        script.patches.undo()


# --- The list -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sees.repairs)
def test_every_repair_of_packages_names_its_lines_and_has_a_test_that_sees_what_it_mends(name):
    sees.check(name, HOME)


# --- What VOLTA imports ---------------------------------------------------------------------------------------------


def refused_without(world, repair):
    """The line with which a script is refused where a repair is left out."""
    done = world.run("train_task.py", options=("--without", repair))
    assert done.returncode == 2
    return done.stderr.splitlines()[-1]


@sees("refer-masks", "_mask")
def test_without_refer_masks_no_script_can_be_imported(volta_world, captions_read):
    line = refused_without(volta_world, "refer-masks")
    assert line.startswith(
        "error: volta/task_utils.py: VOLTA cannot be imported (No module named 'tools.refer.external._mask'"
    )
    assert line.endswith("is a part of VOLTA itself, which this checkout lacks or has not built")
    assert BATCH in captions_read


@sees("refer-pictures", "skimage", "matplotlib")
def test_without_refer_pictures_no_script_can_be_imported(volta_world, captions_read):
    line = refused_without(volta_world, "refer-pictures")
    missing = "matplotlib" if installed("skimage") else "skimage"
    assert line.startswith(f"error: volta/task_utils.py: VOLTA cannot be imported (No module named '{missing}'")
    assert line.endswith(f"; the package {package_of(missing)} is missing: pip install {package_of(missing)}")
    assert BATCH in captions_read


@sees("wikipedias", "load_dataset")
def test_without_wikipedias_no_script_can_be_imported(volta_world, captions_read):
    line = refused_without(volta_world, "wikipedias")
    # The world's own folder datasets/, where VOLTA's files are, is found in the package's place.
    assert "VOLTA cannot be imported (cannot import name 'load_dataset' from 'datasets'" in line
    assert line.endswith("; the package datasets is missing: pip install datasets")
    assert BATCH in captions_read


def test_what_stands_in_for_a_package_tells_why_it_cannot_be_used(volta_world):
    with volta_world.prepared("train_task.py") as script:
        if "wikipedias" in script.applied:
            with pytest.raises(UserError, match=r"datasets.load_dataset: .* pip install datasets"):
                script.volta("datasets.wikipedias_dataset").load_dataset("wikipedia")
        if "refer-pictures" in script.applied:
            refer = sys.modules["tools.refer.refer"]
            for module, missing, call in (
                ("skimage", "scikit-image", lambda: refer.io.imread("a.jpg")),
                ("matplotlib", "matplotlib", lambda: refer.REFER.showRef(None, {})),
            ):
                if not installed(module):
                    with pytest.raises(UserError, match=rf"are drawn with it; pip install {missing}"):
                        call()
        with pytest.raises(UserError, match=r"_mask.decode: segmentation masks are not needed"):
            sys.modules["tools.refer.external.mask"].decode([{}])


# --- Reading Conceptual Captions ------------------------------------------------------------------------------------


@pytest.mark.skipif(version("tensorpack") < (0, 9, 9), reason="this tensorpack reads msgpack by default")
@sees("serializer", "LMDBSerializer", simulated=True)
def test_without_serializer_msgpack_is_read_as_a_pickle(volta_world, captions_read, tmp_path):
    program = read_captions(volta_world, tmp_path / "outputs", without="serializer")
    assert program.ends(120) == 1
    assert "pickle.UnpicklingError: invalid load key" in program.written[program.process.pid]
    assert captions_read.count(BATCH) == 2


def test_a_serializer_that_the_user_chose_stays(monkeypatch, preparing):
    monkeypatch.setenv("TENSORPACK_SERIALIZE", "pickle")
    preparing("serializer")
    assert os.environ["TENSORPACK_SERIALIZE"] == "pickle"
    monkeypatch.delenv("TENSORPACK_SERIALIZE")
    script = preparing("serializer")
    assert os.environ["TENSORPACK_SERIALIZE"] == "msgpack"
    script.patches.undo()
    assert "TENSORPACK_SERIALIZE" not in os.environ


@sees("reader-process", "PrefetchData")
def test_without_reader_process_the_first_batch_never_comes(volta_world, captions_read, tmp_path):
    program = read_captions(volta_world, tmp_path / "outputs", without="reader-process", batches=1)
    heard = program.child_writes("can only start a process object created by current process", 120)
    assert program.ends(ANSWER_WAITED_FOR) is None and heard, program.written
    assert BATCH not in program.told and program.told, "it has come as far as the loader"
    assert captions_read.count(BATCH) == 2


@sees("reader-memory", "LocallyShuffleData")
def test_without_reader_memory_five_thousand_places_are_filled_from_twenty_records(
    volta_world, captions_read, tmp_path
):
    program = read_captions(volta_world, tmp_path / "outputs", without="reader-memory")
    assert program.ends(120) == 0
    assert program.told == ["places 5000 5000"]
    assert captions_read[0] == "places 20 20"


@sees("special-tokens", "build_inputs_with_special_tokens")
def test_without_special_tokens_no_caption_is_read(volta_world):
    from transformers import AutoTokenizer

    assert tokens_of_a_caption(volta_world, AutoTokenizer)[:2] == ["[CLS]", "a"]
    with pytest.raises(AttributeError, match="no attribute build_inputs_with_special_tokens"):
        tokens_of_a_caption(volta_world, AutoTokenizer, without=("special-tokens",))


def tokens_of_a_caption(world, tokenizers, without=()):
    with world.prepared("train_concap.py", without=without) as script:
        concap = script.volta("datasets.concept_cap_dataset")
        tokenizer = tokenizers.from_pretrained("bert-world")
        captions = f"{CONCAP_FLAGS[1]}/caption_train.json"
        preprocess = concap.BertPreprocessBatch(captions, tokenizer, 24, 36, 1, visualization=True)  # nothing masked
        example = concap.InputExample(
            caption=tokenizer.encode("a ball", add_special_tokens=False), num_boxes=1, overlaps=torch.ones(1, 1),
            image_feat=torch.zeros(36, 4), image_loc=None,
        )  # fmt: skip
        features = preprocess.convert_example_to_features(example, 24, tokenizer, 36)
        return tokenizer.convert_ids_to_tokens(features.input_ids)


# --- Devices and processes ------------------------------------------------------------------------------------------


@sees("cpu", "cuda")
def test_without_cpu_models_and_batches_ask_for_a_gpu(world, weights, tmp_path):
    flags = [*world.flags("eval_task.py", "ctrl_uniter", tmp_path, "vqa"), "--from_pretrained", weights]
    world.run_here("eval_task.py", *flags)
    failure = failure_of(world, "eval_task.py", *flags, without=("cpu",))
    assert failure == "RuntimeError: Invalid device, must be cuda device"  # of a batch
    with world.prepared("train_concap.py"):
        assert nn.Linear(1, 1).cuda().weight.device.type == "cpu"
    refused = pytest.raises((AssertionError, RuntimeError), match=r"not compiled with CUDA|no NVIDIA driver")
    with world.prepared("train_concap.py", without=("cpu",)), refused:
        nn.Linear(1, 1).cuda()


@sees("apex-ddp", "apex.parallel")
def test_without_apex_ddp_there_is_no_apex_and_with_it_torch_averages_the_gradients(volta_world, tmp_path):
    with volta_world.prepared("train_task.py", without=("apex-ddp",)), pytest.raises(ModuleNotFoundError, match="apex"):
        from apex.parallel import DistributedDataParallel
    with volta_world.prepared("train_task.py"):
        from apex.parallel import DistributedDataParallel
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
        model.forward = lambda rows: model["used"](rows)
        wrapped = DistributedDataParallel(model, delay_allreduce=True)  # as VOLTA calls apex's
        for _ in range(2):  # a second pass fails unless the unused parameters are known to have no gradient
            wrapped(torch.ones(4, 3)).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert isinstance(wrapped, nn.parallel.DistributedDataParallel)
    assert torch.equal(model["used"].weight.grad, torch.full((2, 3), 8.0))
    assert model["unused"].weight.grad is None or not model["unused"].weight.grad.any()


@sees("local-rank", "local_rank", simulated=True)
def test_without_local_rank_every_process_of_torchrun_trains_by_itself(volta_world, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for without, flags, expected in (
        (("local-rank",), (), -1),
        ((), (), 1),
        ((), ("--local_rank", "0"), 0),  # one that is given counts
    ):
        with volta_world.prepared("train_task.py", *flags, without=without) as script:
            assert script.module.parse_args().local_rank == expected
    monkeypatch.delenv("LOCAL_RANK")
    with volta_world.prepared("train_task.py") as script:
        assert script.module.parse_args().local_rank == -1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_several_processes_without_gpus_are_refused_in_one_line(volta_world):
    done = volta_world.run("train_task.py", LOCAL_RANK="0")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: several processes of VOLTA need one GPU each; start one process, without torchrun"
    ]


@sees("forked-workers", "lmdb.open", simulated=True)
def test_without_forked_workers_an_open_lmdb_would_have_to_be_sent_to_them(volta_world, weights, tmp_path):
    flags = volta_world.flags("train_task.py", "ctrl_uniter", tmp_path / "out", "vqa")
    more = ("--num_workers", "1", "--num_epoch", "1", "--from_pretrained", weights)
    program = python(volta_world, tmp_path / "outputs", TRAINS_WITH_WORKERS, *flags, *more)
    assert program.ends(120) == 0, program.written
    assert program.told == [
        "applied False forkserver",
        "TypeError cannot pickle 'Environment' object",
        "applied True fork",
        "finished",
    ]
