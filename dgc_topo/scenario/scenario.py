"""Scenario files: what to train, over which topologies, and for which networks to predict.

A scenario is one TOML file.  Units are in the keys; an unknown key, a bad value, an unknown
topology or network, or an impossible world size is an error that names file and key and lists what
is valid.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from dgc_topo.scenario.claims import Claim
from dgc_topo.scenario.compression import CompressionSection, LadderSection
from dgc_topo.scenario.lab import LabSection
from dgc_topo.scenario.networks import NetworkChoice, build_network
from dgc_topo.scenario.step import Name, Section, StepKeys, WorkloadChoice
from dgc_topo.scenario.validate import ValidateSection
from dgc_topo.topology import OptionValue, Topology, load_topology

DatasetName = Literal[
    "fashion-mnist-subset", "fashion-mnist", "austen", "cifar10", "cifar100", "image-folder"
]
ModelName = Literal["cnn", "mlp", "resnet20", "resnet56", "resnet110", "char-lstm"]


class ScenarioError(ValueError):
    """A scenario file that says something impossible; the text names file and key."""


class TopologyChoice(Section):
    """A topology and its options."""

    name: str = Field(description="an installed topology, or the path of a .py file")
    options: dict[str, OptionValue] = Field(default_factory=dict)

    def load(self) -> Topology:
        """Return the topology with its options checked."""
        return load_topology(self.name, self.options)

    @property
    def gossips(self) -> bool:
        """Whether it mixes parameters, which are never compressed, instead of an all-reduce."""
        return self.load().schedule(2).goal != "all-reduce"


class TrainSection(Section):
    """What is trained, on how many worker processes."""

    dataset: DatasetName
    data_path: Path | None = Field(default=None, description="folder of a data set of your own")
    model: ModelName
    options: dict[str, OptionValue] = Field(
        default_factory=dict, description="of model and task, such as hidden_size, augment, bptt"
    )
    world_size: int = Field(ge=1, le=1024, description="ranks, dedicated servers included")
    batch_size_per_worker: int = Field(ge=1)
    epochs: int = Field(ge=1)
    max_steps_per_epoch: int | None = Field(default=None, ge=1, description="for quick trials")
    learning_rate: float = Field(gt=0)
    learning_rate_decay: Literal["constant", "cosine"] = "constant"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float | None = Field(default=None, gt=0, description="L2 norm of the gradient")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    workers: Literal["processes", "virtual"] = Field(
        default="processes",
        description="virtual: all in one process, with the same results but no times of a cluster",
    )
    timeout_s: float = Field(default=60.0, gt=0, description="a silent peer is an error after this")

    @model_validator(mode="after")
    def _dataset_fits_model(self) -> Self:
        if (self.dataset == "austen") != (self.model == "char-lstm"):
            raise ValueError(
                f"model {self.model!r} cannot learn {self.dataset!r}: 'char-lstm' is for text "
                "('austen'), the other models are for images"
            )
        return self


class SimulateSection(StepKeys):
    """For which networks and sizes to predict."""

    networks: tuple[str, ...] = Field(min_length=1, description="fabrics, or of [[networks]]")
    world_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    workloads: tuple[WorkloadChoice, ...] = Field(
        default=(), description="without these, what [train] measured is scaled"
    )
    overlap_exponent: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="growth of sparse unions for [[simulate.workloads]]: c workers' entries merge "
        "into c**exponent times one worker's (1: disjoint, 0: identical)",
    )


class Scenario(Section):
    """One experiment: everything that decides its result."""

    name: Name
    description: str = ""
    seed: int = Field(default=0, ge=0, lt=2**31)
    topologies: tuple[TopologyChoice, ...] = Field(min_length=1)
    train: TrainSection | None = None
    lab: LabSection | None = Field(default=None, description="where to train, else on loopback")
    compression: CompressionSection = CompressionSection()
    ladder: LadderSection | None = None
    networks: tuple[NetworkChoice, ...] = ()
    simulate: SimulateSection | None = None
    validation: ValidateSection | None = Field(
        default=None, alias="validate", description="measured runs that check predictions"
    )
    claims: tuple[Claim, ...] = Field(
        default=(), description="of others, to be set beside the predictions"
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        predicts = self.simulate is not None and self.simulate.workloads
        if not (self.train or predicts or self.validation):
            raise ValueError(
                "nothing to do: expected [train], or [[simulate.workloads]], or both, or [validate]"
            )
        return self

    @model_validator(mode="after")
    def _lab_fits(self) -> Self:
        if self.lab is not None:
            if self.train is None:
                raise ValueError("[lab] without [train]: expected something to train there")
            self.lab.spec(self.train.world_size)
        return self

    @model_validator(mode="after")
    def _ladder_can_be_run(self) -> Self:
        if self.ladder is None:
            return self
        if self.train is None:
            raise ValueError("ladder: there is nothing to train, expected [train] as well")
        if self.simulate is not None:
            raise ValueError("ladder: is about what is learnt, expected no [simulate] beside it")
        if self.lab is not None:
            raise ValueError("ladder: is about what is learnt, expected no [lab] beside it")
        whole = self.train.world_size * self.train.batch_size_per_worker
        for size in self.ladder.world_sizes:
            if whole % size:
                raise ValueError(
                    f"ladder.world_sizes: {size} workers cannot share a global batch of {whole} "
                    "(train.world_size x train.batch_size_per_worker), expected a divisor"
                )
        return self

    @model_validator(mode="after")
    def _claims_are_about_this(self) -> Self:
        simulate = self.simulate
        for index, claim in enumerate(self.claims):
            offered: dict[str, tuple[set[str], set[str]]] = {
                "workloads": (set(claim.workloads), set()),
                "network": ({claim.network}, set()),
                "world sizes": ({str(claim.world_size), str(claim.baseline_world_size)}, set()),
            }
            if simulate is not None:
                offered["workloads"][1].update(each.label for each in simulate.workloads)
                offered["network"][1].update(simulate.networks)
                offered["world sizes"][1].update(str(size) for size in simulate.world_sizes)
            for what, (wanted, there) in offered.items():
                if not wanted <= there:
                    missing = ", ".join(sorted(wanted - there))
                    raise ValueError(
                        f"claims.{index}: {what} {missing}: not among those of [simulate]"
                    )
        return self


def load_scenario(path: Path) -> Scenario:
    """Return the scenario in the file *path*, checked as a whole.

    Raises:
        ScenarioError: naming the file, the key and what was expected there.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: cannot be read: {error}") from error
    return parse_scenario(text, str(path), path.parent)


def parse_scenario(text: str, where: str = "scenario", folder: Path = Path()) -> Scenario:
    """Return the scenario that *text* (TOML) describes.

    Args:
        text: Contents of a scenario file.
        where: Names it in errors.
        folder: Where files are that it names.

    Raises:
        ScenarioError: as `load_scenario`.
    """
    try:
        scenario = Scenario.model_validate(tomllib.loads(text), context={"folder": folder})
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{where}: not valid TOML: {error}") from error
    except ValidationError as error:
        lines = [f"{where}: {_explain(dict(problem))}" for problem in error.errors()]
        raise ScenarioError("\n".join(lines)) from error
    _check_topologies(scenario, where)
    _check_networks(scenario, where)
    return scenario


def _check_topologies(scenario: Scenario, where: str) -> None:
    sizes = _world_sizes(scenario)
    for index, choice in enumerate(scenario.topologies):
        try:
            topology = choice.load()
        except ValueError as error:
            raise ScenarioError(f"{where}: topologies[{index}]: {error}") from error
        for key, world_sizes in sizes.items():
            for world_size in world_sizes:
                try:
                    topology.schedule(world_size)
                except ValueError as error:
                    raise ScenarioError(f"{where}: {key}: {error}") from error


def _world_sizes(scenario: Scenario) -> dict[str, tuple[int, ...]]:
    """Return all world sizes that the topologies must take, by key."""
    sizes: dict[str, tuple[int, ...]] = {}
    if scenario.train:
        sizes["train.world_size"] = (scenario.train.world_size,)
    if scenario.ladder:
        sizes["ladder.world_sizes"] = scenario.ladder.world_sizes
    if scenario.simulate:
        sizes["simulate.world_sizes"] = scenario.simulate.world_sizes
    return sizes


def _check_networks(scenario: Scenario, where: str) -> None:
    names = [network.name for network in scenario.networks]
    for index, name in enumerate(names):
        if name in names[:index]:
            first = names.index(name)
            raise ScenarioError(
                f"{where}: networks[{index}].name: {name!r} is that of networks[{first}], too"
            )
    if scenario.simulate is None:
        return
    for index, name in enumerate(scenario.simulate.networks):
        for world_size in scenario.simulate.world_sizes:
            try:
                build_network(name, scenario, world_size)
            except ValueError as error:
                key = "" if name in names else f"simulate.networks[{index}]: "
                raise ScenarioError(f"{where}: {key}{error}") from error


def _explain(problem: dict[str, Any]) -> str:
    """Say in one line which key is wrong, and what was expected there."""
    parts, valid = _look_up(problem["loc"])
    key = ".".join(parts) or "the file as a whole"
    match problem["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key; valid here: {', '.join(valid)}"
        case "missing":
            return f"{key}: missing, expected a value"
        case "union_tag_not_found":
            return f"{key}.kind: missing, expected one of {', '.join(valid)}"
        case "union_tag_invalid":
            return f"{key}.kind = {problem['ctx']['tag']!r}: expected one of {', '.join(valid)}"
        case "value_error":
            return f"{key}: {problem['ctx']['error']}"
    message = problem["msg"].replace("Input should be", "expected")
    return f"{key} = {problem['input']!r}: {message[0].lower()}{message[1:]}"


def _look_up(location: tuple[str | int, ...]) -> tuple[list[str], list[str]]:
    """Return the keys to a place, and what is valid there: keys, or kinds where it may be several.

    Pydantic puts the kind of a table into its location, though it is no key.
    """
    keys: list[str] = []
    sections: list[type[BaseModel]] = [Scenario]
    for part in location:
        if len(sections) > 1 and not isinstance(part, int):
            sections = [section for section in sections if _kind_of(section) == part]
            continue
        keys.append(str(part))
        for name, field in sections[0].model_fields.items():
            if part in {name, field.alias}:
                sections = list(_models_in(field.annotation)) or sections
                break
    if len(sections) > 1:
        return keys, [_kind_of(section) for section in sections]
    return keys, [field.alias or name for name, field in sections[0].model_fields.items()]


def _kind_of(section: type[BaseModel]) -> str:
    return str(get_args(section.model_fields["kind"].annotation)[0])


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the section types inside an annotation such as ``tuple[TopologyChoice, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
