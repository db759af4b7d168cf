"""`params.yaml`: the one place where it is read, checked and turned into typed settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttl.data.fields import build, parse
from ttl.data.spec import DatasetSpec
from ttl.errors import ParamsError
from ttl.intake.spec import IntakeSpec
from ttl.models.names import Granularity, Head, Strategy
from ttl.search.rule import SelectionRule
from ttl.training.recipe import Optimizer, Recipe, make_recipe, with_optimizer
from ttl.training.trial import Resplit

FILE = Path("params.yaml")

RUNNING = ("executor", "busy", "slots", "resource")
"""Settings of a sweep that say where and how its jobs run: its results do not depend on them."""

PLANNERS = ("exhaustive", "two-stage", "race")
EXECUTORS = ("local", "ray")
BUSY = ("wait", "skip")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepParams:
    """What a sweep runs. `datasets` are names under `prepare` and `intake`; None takes all of them.

    `cuts` are the only ones looked at; None looks at all of them. `sources` are `imagenet`, `kinetics` (for
    networks of volumes), `random` or weights files; a backbone is trained with those of its kind. `recipe` is
    a recipe's name, or a mapping with a `base` and changes. `processes` is per trial; `slots` limits how many
    jobs run at once, None takes what the machine has. `executor` runs jobs on this machine or on a Ray
    cluster, where a process of a trial takes a GPU, or one of a `resource` of that name where there are no
    GPUs. Devices that others use are waited for, or skipped, as `busy` says.

    Ablations: `optimizers` in the place of the recipe's, `heads`, `shares` of the training samples, and
    `resplit`: whether each seed divides the samples anew, `val` all but the test split's, or `all` of them.
    """

    datasets: tuple[str, ...] | None = None
    backbones: tuple[str, ...] = ("efficientnet_lite0",)
    sources: tuple[str, ...] = ("imagenet",)
    strategies: tuple[Strategy, ...] = ("ftl", "ttl", "lwft", "tf")
    granularity: Granularity = "stage"
    cuts: tuple[str, ...] | None = None
    planner: str = "race"
    seeds: tuple[int, ...] = (0,)
    recipe: Any = "fast"
    optimizers: tuple[Optimizer, ...] | None = None
    heads: tuple[Head, ...] = ("pooled",)
    shares: tuple[float, ...] = (1.0,)
    resplit: Resplit = "none"
    image_size: int = 64
    processes: int = 1
    slots: int | None = None
    executor: str = "local"
    busy: str = "wait"
    resource: str = "ttl_slot"

    def __post_init__(self) -> None:
        """Refuse values that no sweep can run with."""
        several = ("backbones", "sources", "strategies", "seeds", "optimizers", "heads", "shares")
        for name in several:
            values = getattr(self, name)
            if values is None:
                continue
            if not values:
                raise ParamsError(f"sweep.{name} is empty; give at least one")
            if len(set(values)) < len(values):
                raise ParamsError(f"sweep.{name} is {list(values)}; each may stand there once")
        if self.cuts is not None and not self.cuts:
            raise ParamsError("sweep.cuts is empty; give at least one, or leave it out for all")
        for name, low in (("image_size", 16), ("processes", 1), ("slots", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ParamsError(f"sweep.{name} is {value}; it must be at least {low}")
        for share in self.shares:
            if not 0 < share <= 1:
                raise ParamsError(f"sweep.shares has {share:g}; a share is over 0, at most 1")
        for name, known in (("planner", PLANNERS), ("executor", EXECUTORS), ("busy", BUSY)):
            if getattr(self, name) not in known:
                raise ParamsError(
                    f"sweep.{name} is {getattr(self, name)!r}; it must be one of: {', '.join(known)}"
                )
        if min(self.seeds) < 0:
            raise ParamsError(f"sweep.seeds has {min(self.seeds)}; a seed is not negative")
        self.made_recipes()

    def made_recipes(self) -> tuple[Recipe, ...]:
        """Return the recipe itself, once for each optimizer where several are compared."""
        if not isinstance(self.recipe, str | Mapping):
            raise ParamsError(f"sweep.recipe is {self.recipe!r}; it must be a name or a mapping with `base`")
        made = make_recipe(self.recipe if isinstance(self.recipe, str) else dict(self.recipe))
        if self.optimizers is None:
            return (made,)
        return tuple(with_optimizer(made, one) for one in self.optimizers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """All of `params.yaml`; a section is a stage of `dvc.yaml`, and `selection` belongs to its sweep.

    Datasets under `prepare` are made of what lies somewhere, those under `intake` grow by drops.
    """

    prepare: Mapping[str, DatasetSpec]
    intake: Mapping[str, IntakeSpec] = field(default_factory=dict)
    sweep: SweepParams = field(default_factory=SweepParams)
    selection: SelectionRule = field(default_factory=SelectionRule)

    def __post_init__(self) -> None:
        """Refuse a sweep over a dataset that is not described, and one described twice."""
        known = [*self.prepare, *self.intake]
        for name in self.sweep.datasets or ():
            if name not in known:
                raise ParamsError(
                    f"params.yaml describes no dataset {name!r} under `prepare` or `intake` "
                    f"(it has: {', '.join(known) or 'none'}); add it"
                )
        for name in set(self.prepare) & set(self.intake):
            raise ParamsError(f"{name} stands under `prepare` and under `intake`; one of them makes it")

    @property
    def datasets(self) -> tuple[str, ...]:
        """The names of the datasets to sweep over."""
        return (*self.prepare, *self.intake) if self.sweep.datasets is None else self.sweep.datasets

    def spec(self, dataset: str) -> DatasetSpec:
        """Return what `prepare` says of a dataset."""
        if dataset not in self.prepare:
            known = ", ".join(self.prepare) or "none"
            raise ParamsError(
                f"params.yaml describes no dataset {dataset!r} under `prepare` (it has: {known}); add it"
            )
        return self.prepare[dataset]

    def intake_name(self, given: str | None) -> str:
        """Return the dataset under `intake` that is meant: the one `given`, or the only one there is.

        Raises `ParamsError` for one that is not there: names become folders and refs.
        """
        if given is None and len(self.intake) != 1:
            known = ", ".join(self.intake) or "none"
            raise ParamsError(f"name the dataset: params.yaml has under `intake`: {known}")
        name = next(iter(self.intake)) if given is None else given
        self.intake_spec(name)
        return name

    def intake_spec(self, dataset: str) -> IntakeSpec:
        """Return what `intake` says of a dataset."""
        if dataset not in self.intake:
            known = ", ".join(self.intake) or "none"
            raise ParamsError(
                f"params.yaml describes no dataset {dataset!r} under `intake` (it has: {known}); add it"
            )
        return self.intake[dataset]


def changes_results(overrides: Mapping[str, Any]) -> bool:
    """Return whether settings of `sweep` make it another sweep, and not only run it in another way."""
    return bool(set(overrides) - set(RUNNING))


def load_params(path: Path = FILE, overrides: Mapping[str, Any] | None = None) -> Params:
    """Read `params.yaml`. `overrides` are settings of `sweep` for this run; None values are left as they are.

    Raises `ParamsError` naming the setting and its value.
    """
    try:
        values = parse(path.read_text(encoding="utf-8"), where=str(path)) or {}
    except FileNotFoundError as error:
        raise ParamsError(f"{path.absolute()} does not exist; run ttl in the project's folder") from error
    if not isinstance(values, Mapping):
        raise ParamsError(f"{path} holds {type(values).__name__}; it must be a mapping of sections")
    unknown = sorted(set(values) - {"prepare", "intake", "sweep", "selection"})
    if unknown:
        raise ParamsError(
            f"{path} has a section {unknown[0]!r}; it may have: prepare, intake, sweep, selection"
        )
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    return Params(
        prepare={
            str(name): _watched(DatasetSpec.from_dict(spec, name=str(name)), str(name))
            for name, spec in (values.get("prepare") or {}).items()
        },
        intake={
            str(name): build(IntakeSpec, spec, where=f"intake.{name}")
            for name, spec in (values.get("intake") or {}).items()
        },
        sweep=build(SweepParams, {**(values.get("sweep") or {}), **given}, where="sweep"),
        selection=build(SelectionRule, values.get("selection") or {}, where="selection"),
    )


def _watched(spec: DatasetSpec, name: str) -> DatasetSpec:
    if spec.input is None:
        raise ParamsError(
            f"prepare.{name}.input is not set; name the file or folder that DVC watches: your images, or for "
            f"a source without any of yours, ttl/data/sources/{spec.source}.py"
        )
    return spec
