"""``volta-switch weights``: what weights are, other programs' as models of this project, and these as others'."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volta_switch.errors import UserError
from volta_switch.hub_models import WEIGHTS, is_address, pinned
from volta_switch.ranges import ANY_TEXT, PATH, Text
from volta_switch.train.next_command import command_line
from volta_switch.weight_tools.registered.commands import add_registry_commands

if TYPE_CHECKING:
    from volta_switch.weight_tools.importing import ImportedModel
    from volta_switch.weight_tools.own_models import ExportedModel


def add_weights_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the commands below ``volta-switch weights``."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    about = "describe a model's folder, or say whose weights a file holds and what an import would keep"
    inspect = commands.add_parser("inspect", help=about)
    taken = commands.add_parser("import", help="write another program's checkpoint as a model's folder of this program")
    for command in (inspect, taken):
        command.add_argument(
            "source", type=PATH, metavar="FROM", help="a file of weights, a folder, or hf://owner/name"
        )
        command.add_argument(
            "--format", type=ANY_TEXT, default="", help="expect this layout, and refuse any other: lxmert, uniter, ..."
        )
        of = "set a field of its configuration that its weights do not tell"
        command.add_argument("--set", nargs="+", type=Text(), default=[], metavar="KEY=VALUE", help=of)
    inspect.set_defaults(run=_inspect)
    taken.add_argument("to", type=PATH, metavar="TO", help="the folder to write; must not exist")
    taken.add_argument(
        "--task", type=ANY_TEXT, default="", help="keep its head of answers as that of this task, such as TASK1"
    )
    labels = "a JSON list: the answer of each row of its head; needed with --task"
    taken.add_argument("--labels", type=ANY_TEXT, default="", metavar="FILE", help=labels)
    data = "the task's folder of annotations, with trainval_label2ans.pkl: the head's rows are brought into its order"
    taken.add_argument("--answers-of", type=ANY_TEXT, default="", metavar="FOLDER", help=data)
    taken.set_defaults(run=_import)
    given = commands.add_parser("export", help="write a model of this project as another program's")
    given.add_argument(
        "source", type=PATH, metavar="FROM", help="a model's folder, hf://owner/name, or a file of weights"
    )
    given.add_argument("to", type=PATH, metavar="TO", help="the folder; must not exist")
    layouts = "volta, lxmert, visualbert, uniter, vilbert, or bert for the text side alone"
    given.add_argument("--format", type=ANY_TEXT, required=True, help=layouts)
    about = "the configuration of a file that lies in no model's folder"
    given.add_argument("--config_file", "--config-file", type=ANY_TEXT, default="", metavar="NAME", help=about)
    given.set_defaults(run=_export)

    add_registry_commands(commands)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Gives Ctrl-C inside the block its line: nothing is there that could be resumed."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; nothing was written") from None


def _inspect(args: argparse.Namespace) -> None:
    with _interruptible():
        print(inspect_text(args.source, args.format, args.set))


def _export(args: argparse.Namespace) -> None:
    with _interruptible():
        from volta_switch.weight_tools.exporting import export_weights, write_export

        model = export_weights(args.source, args.format, args.config_file)
        write_export(model, Path(args.to))
    print(export_text(model))
    print(f"\nwritten to {args.to}")


def _import(args: argparse.Namespace) -> None:
    if bool(args.task) != bool(args.labels) or (args.answers_of and not args.task):
        raise UserError(
            "--task and --labels: give both, or neither, and --answers-of with them alone: answers are kept with their "
            "names, or left out"
        )
    with _interruptible():
        from volta_switch.tasks.vqa_files import load_labels
        from volta_switch.weight_tools.given import read_answers
        from volta_switch.weight_tools.imported_folders import write_model
        from volta_switch.weight_tools.importing import import_weights

        labels = read_answers(Path(args.labels), args.labels) if args.labels else []
        wanted = load_labels(Path(args.answers_of)) if args.answers_of else []
        if args.answers_of and not wanted:
            raise UserError(f"{args.answers_of}: names no answer; expected the lists of a task's answers")
        model = import_weights(args.source, args.format, args.set, args.task, labels, wanted)
        write_model(model, Path(args.to))
    print(import_text(model))
    print(f"\nwritten to {args.to}; next: {next_command(args.to, bool(model.task))}")


def next_command(source: str, has_head: bool, task: str = "") -> str:
    """Returns the command that uses weights.

    Args:
        source: a folder or a name.
        has_head: they are of a model with a task's head.
        task: the head's, where the folder does not say it.
    """
    if has_head:
        return command_line("eval_task", "weights", {"from_pretrained": source, **({"task": task} if task else {})})
    return command_line("train_task", "weights", {"task": "TASK1", "from_pretrained": source})


def import_text(model: ImportedModel) -> str:
    """Returns what became of a file, for a reader."""
    from tabulate import tabulate

    from volta_switch.weight_tools.imported_folders import left_out_by_reason, modules_of

    config = model.config
    heads = [f"{config.num_attention_heads} in text", f"{config.v_num_attention_heads} in vision"]
    heads += [f"{number} in sublayer {at}" for at, number in config.sublayer2num_attention_heads.items()]
    answers = [str(entry["num_labels"]) for entry in model.task.values()]
    rows = [
        ("weights of", model.project),
        ("layout", model.layout.name),
        ("architecture", f"{model.layout.base}, {model.parameters / 1e6:.2f} M parameters"),
        ("attention heads", ", ".join(heads)),
        ("poolers", config.fusion_act),
        ("regions", f"{model.layout.regions}; {config.v_feature_size} wide, {config.num_locs} numbers of a box"),
        ("heads kept", ", ".join(model.heads) or "none"),
        *(("answers", number) for number in answers),
        *(("left out", f"{', '.join(names)}: {why}") for why, names in left_out_by_reason(model.left_out).items()),
        *([("initial values", ", ".join(modules_of(model.initial)))] if model.initial else []),
        *([("changed by --set", ", ".join(model.overrides))] if model.overrides else []),
    ]
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def export_text(model: ExportedModel) -> str:
    """Returns what became of a model, for a reader."""
    from tabulate import tabulate

    from volta_switch.weight_tools.imported_folders import left_out_by_reason, modules_of
    from volta_switch.weights.loading import distinct

    parameters = sum(tensor.numel() for tensor in distinct(model.state).values())
    rows = [
        ("weights of", str(model.source)),
        ("layout", model.format),
        ("written", f"{model.file}, {len(model.state)} names, {parameters / 1e6:.2f} M parameters"),
        *(("for", name) for name in model.settings.get("architectures", ())),
        *(("left out", f"{', '.join(names)}: {why}") for why, names in left_out_by_reason(model.left_out).items()),
        *([("without", f"{', '.join(modules_of(model.absent))}, which no model here has")] if model.absent else []),
        *(("of training", told) for told in model.not_told),
    ]
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def inspect_text(source: str | Path, layout: str = "", overrides: Sequence[str] = ()) -> str:
    """Returns what a file of weights holds: a run's, a BERT's, or what an import would make of it.

    Of a model's folder it also says what its other files say.

    Raises:
        UserError: it is none of these, or cannot be read; arguments as ``importing.import_weights``'s.
    """
    from tabulate import tabulate

    from volta_switch.config import model_folder
    from volta_switch.weight_tools.given import weights_file
    from volta_switch.weight_tools.importing import import_state
    from volta_switch.weights.files import read_weights
    from volta_switch.weights.loading import distinct, is_a_bert, is_of_a_run, project_of

    source = pinned(str(source)) if is_address(source) else source  # all that is read is of one commit
    own = model_folder.is_model_folder(source)
    path = model_folder.weights_in(source) if own else weights_file(source, WEIGHTS)
    state = read_weights(path)
    if layout or project_of(state):
        return import_text(import_state(path, state, layout, overrides))
    kind = "a run, this project's or VOLTA's" if is_of_a_run(state) else "a BERT" if is_a_bert(state) else ""
    if not kind:
        raise UserError(f"{path}: neither a run's weights nor a BERT's, nor of a layout that is known")
    parts: dict[str, int] = {}
    for name, tensor in distinct(state).items():
        words = name.split(".")
        part = ".".join(words[: 2 if words[0] in ("cls", "clfs_dict") else 1])
        parts[part] = parts.get(part, 0) + tensor.numel()
    layers = {name.split(".")[3] for name in state if name.startswith("bert.encoder.layer.")}
    depth = ("sublayers" if is_of_a_run(state) else "layers", str(len(layers)))
    rows = [("weights of", kind), depth, *((part, f"{count:,} numbers") for part, count in parts.items())]
    return tabulate(
        [*rows, *(_folder_rows(model_folder.local_folder(source)) if own else [])],
        tablefmt="plain",
        disable_numparse=True,
    )


def _folder_rows(folder: Path) -> list[tuple[str, str]]:
    """Returns what a model's folder says of its architecture, its task, its answers and its regions."""
    from volta_switch.checksums import is_there
    from volta_switch.config import load_config, model_folder
    from volta_switch.config.loading import CONFIG
    from volta_switch.data.files.json_files import read_object

    config = load_config(folder / CONFIG)  # by its path: a folder may have a shipped configuration's name
    count = len(config.attention_sublayers)
    kind = f"{'Switch-BERT' if config.switch else config.image_embeddings}, {count} attention sublayers"
    rows = [("architecture", f"{kind}, {config.hidden_size} and {config.v_hidden_size} wide")]
    rows.append(("fusion", f"{config.fusion_method}, {config.fusion_act}"))
    if found := model_folder.task_in(folder):
        key, entry = found
        rows.append(("task", ", ".join([key, *(f"{name}: {_shown(value)}" for name, value in entry.items())])))
    for task, labels in model_folder.labels_in(folder).items():
        few = f"{', '.join(labels[:5])}{', ...' if len(labels) > 5 else ''}"
        rows.append((f"answers of {task}", f"{len(labels)}: {few}"))
    if is_there(path := folder / model_folder.REGIONS):
        rows += [(f"regions: {name}", _shown(value)) for name, value in read_object(path).items()]
    return rows


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
