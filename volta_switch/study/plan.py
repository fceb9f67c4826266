"""A study's plan: which arms are compared in which tables, from one YAML file, with one place for every setting.

| key | holds |
|---|---|
| ``name`` | of the study |
| ``world`` | ``WorldSpec`` fields of a synthetic world, which is written into the study's folder |
| ``data`` | in its place: ``tasks_config_file``, ``features_path``, ``annotations_path``, ``data_root`` |
| ``seeds`` | of all arms |
| ``set`` | overrides of every configuration |
| ``pretraining`` | flags of ``train_concap.py`` |
| ``tasks`` | per task ``train``, flags of ``train_task.py``, and ``test``, flags of the evaluation (``split``) |
| ``models`` | arms that differ in the model alone |
| ``arms`` | others: a name, its ``model``, and what it changes of the study's settings |
| ``tables`` | see below; without them there is one of all arms and tasks, which varies the model |
| ``routes`` | ``arms`` that switch, whose routes on every task of theirs are reported, for how many ``seeds`` (1) or \
which, and flags of ``volta-switch routes`` |
| ``ablation`` | ``arms`` whose pre-training is measured by the cross-modal ablation, for how many ``seeds`` (1) or \
which, and flags of ``volta-switch ablate`` |
| ``minimum_effect`` | the smallest effect of interest, in points (``sizing.sizing``), set before anything is run |

Of the study's settings an arm changes ``set`` (added), ``pretraining`` (merged; false: none), ``tasks``, ``world``,
``data`` (merged) and ``seeds``. ``layers`` gives a single-stream model another depth, ``text_layers`` a ViLBERT
(``config.depths``). A BERT from which such an arm starts may be deeper (``--allow_deeper_bert``).

A table has a name, ``arms``, ``tasks``, what they vary (``varies``), ``title``, ``claims``, and what was ``published``.
``flops``, ``pretraining``: whether operations of training, and pre-training's last validation, stand beside the scores.
``seeds``: how many of the arms' seeds it takes, from the first, or a list of them; ``pilot``: the same of those by
whose spread ``study power`` plans its claims. ``dial``: the sweep that its arms make, drawn as lines (a ``label``, and
``series``: a name, and each arm's number).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from volta_switch.config import load_config
from volta_switch.config.depths import with_layers, with_text_layers
from volta_switch.config.model_folder import config_name
from volta_switch.errors import UserError
from volta_switch.files import here_or_shipped, read_yaml
from volta_switch.study.arms import Arm, PlannedTable, TaskFlags
from volta_switch.study.claims import read_claims
from volta_switch.study.command_lines import refuse_arms_flags
from volta_switch.study.confounds import refuse_confounds
from volta_switch.study.plan_values import check_kinds, refuse_twice, refuse_unknown
from volta_switch.study.records import Sweep
from volta_switch.study.reported_arms import ReportedArms, check_seeds, read_ablation, read_routes, read_seeds

FOLDERS = ("cells", "figures", "merged", "world")  # of a study's folder; "world-..." too
SHARED = ("seeds", "set", "pretraining", "tasks")
KEYS = ("name", "world", "data", "models", "arms", "tables", "routes", "ablation", "minimum_effect", *SHARED)
ARM_KEYS = ("model", "layers", "text_layers", "world", "data", *SHARED)
DEPTHS = {"layers": with_layers, "text_layers": with_text_layers}
WORLDS_FIELDS = ("bert_model", "vocab_size")  # of a configuration: a synthetic world decides them
SHOWN = ("flops", "pretraining")
SEEDS_KEYS = ("seeds", "pilot")
TABLE_KEYS = ("title", "arms", "tasks", "varies", "claims", "published", *SHOWN, *SEEDS_KEYS, "dial")


@dataclass(frozen=True)
class Study:
    """A study's file, read and checked; paths are relative to the working directory."""

    name: str
    arms: Mapping[str, Arm]
    tables: tuple[PlannedTable, ...]
    tasks: tuple[str, ...] = field(default=())
    routes: ReportedArms = field(default_factory=ReportedArms)
    ablation: ReportedArms = field(default_factory=ReportedArms)
    minimum_effect: float = 2.0  # points
    path: Path = Path()  # that it was read from

    def pilot(self) -> Study:
        """Returns the study with each table's pilot in the place of its seeds, where it has one."""
        tables = (replace(each, seeds=each.seeds if each.pilot is None else each.pilot) for each in self.tables)
        return replace(self, tables=tuple(tables))

    def only(self, tables: Sequence[str]) -> Study:
        """Returns the study with some of its tables.

        Raises:
            UserError: there is no such table.
        """
        known = [table.name for table in self.tables]
        for name in tables:
            if name not in known:
                raise UserError(f"study {self.name}: no table {name}; it has {', '.join(known)}")
        return replace(self, tables=tuple(table for table in self.tables if table.name in tables))


def load_study(path: str | Path) -> Study:
    """Reads and checks a plan.

    Raises:
        UserError: the file cannot be read, a key is unknown, missing, twice there or of the wrong kind, a flag is one
            that the study says itself or that its command does not take, or a table is confounded.
    """
    path = here_or_shipped(path)
    values = read_yaml(path, "study", "shipped ones are in studies/")
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys {', '.join(KEYS)}")
    refuse_unknown(str(path), values, KEYS, "a study has")
    values = {key: value for key, value in values.items() if value is not None}
    if not values.get("models") and not values.get("arms"):
        raise UserError(f"{path}: models is missing or empty; give models, or arms")
    if not values.get("tasks"):
        raise UserError(f"{path}: tasks is missing or empty")
    check_kinds(str(path), values)
    if ("world" in values) == bool(values.get("data")):
        raise UserError(f"{path}: give either world (to write one) or data (where yours lie)")
    arms = _arms(path, values)
    tasks = tuple(str(task) for task in values["tasks"])
    refuse_twice(f"{path}: tasks", [task.removeprefix("TASK") for task in tasks])
    for arm in arms.values():
        unknown = [task for task in arm.tasks if task not in tasks]
        if unknown:
            raise UserError(
                f"{path}: arms.{arm.name}.tasks: {unknown[0]} is none of the study's tasks ({', '.join(tasks)}); call "
                "it as the study does"
            )
        refuse_arms_flags(str(path), arm)
    tables = _tables(path, values.get("tables") or {}, arms, tasks)
    effect = values.get("minimum_effect", Study.minimum_effect)
    if isinstance(effect, bool) or not isinstance(effect, int | float) or not 0 < effect <= 100:
        raise UserError(f"{path}: minimum_effect: expected points, more than 0 and at most 100, found {effect!r}")
    routes = read_routes(path, values.get("routes") or {}, arms, tables)
    ablation = read_ablation(path, values.get("ablation") or {}, arms, tables)
    return Study(str(values.get("name", path.stem)), arms, tables, tasks, routes, ablation, effect, path)


def _arms(path: Path, values: Mapping[str, Any]) -> dict[str, Arm]:
    stems = [config_name(model) for model in values.get("models") or ()]
    for stem in stems:
        if stems.count(stem) > 1:
            raise UserError(f"{path}: models has {stem} twice; each needs a file name of its own, its rows' name")
    written = {stem: {"model": model} for stem, model in zip(stems, values.get("models") or (), strict=True)}
    own = values.get("arms") or {}
    if not isinstance(own, Mapping):
        raise UserError(f"{path}: arms: expected a section of arms, found {own!r}")
    for name, changes in own.items():
        where = f"{path}: arms.{name}"
        if str(name) in written:
            raise UserError(f"{where} has the name of a model in models; give it another one")
        if not isinstance(changes, Mapping) or not isinstance(changes.get("model"), str):
            raise UserError(f"{where}: expected a section with a model")
        if not str(name).replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise UserError(f"{where}: a name is made of letters, digits and . _ -, for it names a folder")
        if str(name).split("-")[0] in FOLDERS:
            raise UserError(f"{where}: the study keeps its own {name} under that name; give the arm another one")
        for here, other in (("world", "data"), ("data", "world")):
            if changes.get(here) and other in values:
                raise UserError(f"{where}.{here}: the study has {other}, and so have its arms; leave {here} out")
        refuse_unknown(where, changes, ARM_KEYS, "an arm has")
        check_kinds(where, {key: value for key, value in changes.items() if value is not None and value is not False})
        written[str(name)] = dict(changes)
    return {name: _arm(name, values, changes) for name, changes in written.items()}


def _arm(name: str, shared: Mapping[str, Any], changes: Mapping[str, Any]) -> Arm:
    """Returns an arm: the study's shared settings with its changes."""

    def merged(key: str) -> dict[str, Any]:
        return _merged(shared.get(key) or {}, changes.get(key) or {})

    overrides = tuple(shared.get("set") or ())
    for key, with_depth in DEPTHS.items():
        if key in changes:
            if type(changes[key]) is not int:
                raise UserError(f"arm {name}: {key}: expected a number of layers, found {changes[key]!r}")
            overrides += with_depth(load_config(changes["model"], overrides), changes[key])
    overrides += tuple(changes.get("set") or ())
    load_config(changes["model"], overrides)
    given = [override.partition("=")[0].strip() for override in overrides]
    taken = [field for field in WORLDS_FIELDS if field in given]
    if "world" in shared and taken:  # the world's come later, and win
        raise UserError(f"arm {name}: set: {taken[0]}: the vocabulary is the world's; leave it out")
    tasks = {str(task): TaskFlags(flags or {}) for task, flags in merged("tasks").items()}
    return Arm(
        name=name,
        model=changes["model"],
        overrides=overrides,
        pretraining={} if changes.get("pretraining") is False else merged("pretraining"),
        tasks=tasks,
        seeds=tuple(changes.get("seeds") or shared.get("seeds") or (0,)),
        world=None if "world" not in shared else merged("world"),
        data=merged("data"),
        own_depth=any(key in changes for key in DEPTHS),
    )


def _merged(shared: Mapping[Any, Any], changes: Mapping[Any, Any]) -> dict[Any, Any]:
    """Returns the shared section with the changes, section by section."""
    both = dict(shared)
    for key, value in changes.items():
        before = both.get(key)
        both[key] = _merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return both


def _tables(
    path: Path, written: Mapping[str, Any], arms: Mapping[str, Arm], tasks: tuple[str, ...]
) -> tuple[PlannedTable, ...]:
    if not isinstance(written, Mapping):
        raise UserError(f"{path}: tables: expected a section of tables, found {written!r}")
    tables = tuple(
        _table(f"{path}: tables.{name}", str(name), given or {}, arms, tasks)
        for name, given in (written or {"table": {}}).items()
    )
    for table in tables:
        refuse_confounds(str(path), table, arms)
    return tables


def _table(where: str, name: str, given: Any, arms: Mapping[str, Arm], tasks: tuple[str, ...]) -> PlannedTable:
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: expected a section of settings, found {given!r}")
    refuse_unknown(where, given, TABLE_KEYS, "a table has")
    for key in ("arms", "tasks", "varies", "claims"):
        if not isinstance(given.get(key) or [], list):
            raise UserError(f"{where}.{key}: expected a list, found {given[key]!r}")
    settings: dict[str, Any] = {key: given.get(key, False) for key in SHOWN}
    settings |= {key: read_seeds(f"{where}.{key}", given[key]) for key in SEEDS_KEYS if given.get(key) is not None}
    table = PlannedTable(
        name=name,
        arms=tuple(map(str, given.get("arms") or arms)),
        tasks=tuple(map(str, given.get("tasks") or tasks)),
        title=str(given.get("title", "")),
        varies=tuple(map(str, given.get("varies") or ("model",))),
        claims=read_claims(given.get("claims") or [], f"{where}.claims"),
        published=given.get("published") or {},
        **settings,
        sweep=_sweep(where, given.get("dial")),
    )
    _check_table(where, table, arms, tasks)
    return table


def _check_table(where: str, table: PlannedTable, arms: Mapping[str, Arm], tasks: tuple[str, ...]) -> None:
    """Raises UserError for values that cannot be, and for names that the study does not have or the table has twice."""
    if "seeds" in table.varies:
        raise UserError(f"{where}.varies: arms are compared seed by seed, so that seeds cannot be varied")
    for key in SHOWN:
        if not isinstance(getattr(table, key), bool):
            raise UserError(f"{where}.{key}: expected true or false, found {getattr(table, key)!r}")
    for key, names in (("arms", table.arms), ("tasks", table.tasks), ("varies", table.varies)):
        refuse_twice(f"{where}.{key}", names)
    sides = tuple(name for claim in table.claims for name in claim.arms)
    swept = tuple(arm for series in (table.sweep.series.values() if table.sweep else ()) for arm in series)
    checked = (
        *(("arms", arms, table.arms), ("tasks", tasks, table.tasks)),
        *(("dial", table.arms, swept), ("claims", table.arms, sides)),
        ("published", table.arms, tuple(map(str, table.published))),
    )
    for key, known, found in checked:
        unknown = [one for one in found if one not in known]
        if unknown:
            raise UserError(f"{where}.{key}: {unknown[0]} is none of {', '.join(known)}")
    for name in table.arms:
        for key, chosen in (("seeds", table.seeds), ("pilot", table.pilot)):
            check_seeds(f"{where}.{key}", chosen, name, arms[name].seeds)


def _sweep(where: str, given: Any) -> Sweep | None:
    """Reads which arms are one setting at several values: the file's ``dial``."""
    if given is None:
        return None
    series = given.get("series") if isinstance(given, Mapping) else None
    if not isinstance(series, Mapping) or set(given) != {"label", "series"}:
        raise UserError(f"{where}.dial: expected a label, and series with the setting of each arm, found {given!r}")
    for name, settings in series.items():
        if not isinstance(settings, Mapping) or not settings:
            raise UserError(f"{where}.dial: {name}: expected arms and their settings, found {settings!r}")
        for arm, setting in settings.items():
            if isinstance(setting, bool) or not isinstance(setting, int | float):
                raise UserError(f"{where}.dial: {arm}: expected a number, found {setting!r}")
    drawn = {str(name): {str(arm): value for arm, value in settings.items()} for name, settings in series.items()}
    return Sweep(str(given["label"]), drawn)
