"""VOLTA's cross-modal ablation: what a pre-trained model's predictions lose where the other modality is taken away.

Frank, Bugliarello and Elliott, "Vision-and-Language or Vision-for-Language?" (EMNLP 2021). ``run.py`` begins it.
"""

from __future__ import annotations

from volta_switch.ablation.settings import MASKINGS
from volta_switch.flag_parser import FlagParser
from volta_switch.ranges import ANY_TEXT, BATCH_SIZE, PATH, PROCESSES, Number, Text

TASKS = "config_tasks/cross-modal-ablation_test_tasks.yml"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def ablation_flags() -> FlagParser:
    """Makes the command's parser. Nothing here imports PyTorch."""
    about = (
        "What a pre-trained model's masked words lose without the image's regions (vis4lang), and its masked regions "
        "without the caption's words (lang4vis), over a split of Flickr30k Entities: VOLTA's cross-modal ablation."
    )
    flags = FlagParser(description=about)
    model = "a pre-trained model's folder, or hf://owner/name"
    flags.add_argument("model", type=PATH, metavar="MODEL", help=model)
    flags.add_argument("--set", action="append", type=Text(), default=[], metavar="KEY=VALUE",
                       help="override a field of its configuration")  # fmt: skip
    data, measured = flags.group("data"), flags.group("what is measured")
    data.add_argument("--split", type=ANY_TEXT, default="", help="default: the task file's val_split")
    file = f"a task file with VOLTA's entry FlickrGrounding; default: {TASKS}"
    data.add_argument("--tasks_config_file", "--tasks-config-file", type=PATH, default=TASKS, help=file)
    data.add_argument("--task", type=Text(), default="TASK18", help="of the task file (default: %(default)s)")
    root = "the folder in which the task file's relative paths begin; default: as of eval_task.py"
    data.add_argument("--data_root", "--data-root", type=ANY_TEXT, default="", help=root)
    features = "another feature file than the task file's; for lang4vis one with the detector's classes"
    data.add_argument("--features", type=ANY_TEXT, default="", help=features)
    both = "which modality is taken away from the prediction of the other (default: %(default)s)"
    measured.add_argument("--direction", choices=(*MASKINGS, "both"), default="both", help=both)
    every = tuple(dict.fromkeys(masking for known in MASKINGS.values() for masking in known))
    masking = (
        "what of that modality is masked: nothing, what shows the object (vis4lang) or names it (lang4vis), all of it; "
        "default: each of them"
    )
    measured.add_argument("--masking", nargs="+", choices=every, default=[], help=masking)
    threshold = "a region shows an object if it covers more than this share of its box (default: %(default)s)"
    share = Number(0.0, 1.0, below=True)
    measured.add_argument("--overlap_threshold", "--overlap-threshold", type=share, default=0.5, help=threshold)
    machine = flags.group("precision and devices")
    machine.add_argument("--batch_size", "--batch-size", type=BATCH_SIZE, default=64, help="phrases at once")
    machine.add_argument("--device", type=ANY_TEXT, default="auto", help="auto, cpu, cuda or cuda:<n>")
    machine.add_argument("--precision", choices=PRECISIONS, default="fp32", help="(default: %(default)s)")
    machine.add_argument("--threads", type=PROCESSES, default=0, help="CPU threads; 0 leaves PyTorch's default")
    output = flags.group("results")
    out = "the JSON file to write; default: results/<model>/<split>_ablation.json"
    output.add_argument("--out", type=ANY_TEXT, default="", help=out)
    output.add_argument("--overwrite", action="store_true", help="replace the file that is there")
    return flags
