"""Scenario files: what to train, over which topologies, and for which networks to predict.

A scenario is one TOML file.  Units are in the keys; an unknown key, a bad value, an unknown
topology or network, or an impossible world size is an error that names file and key and lists what
is valid.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from dgc_topo.claims import Claim
from dgc_topo.scenario_step import Name, Section, StepKeys, WireDtype, WorkloadChoice
from dgc_topo.simulate.fabrics import load_fabric
from dgc_topo.topology import OptionValue, Topology, load_topology

DatasetName = Literal[
    "fashion-mnist-subset", "fashion-mnist", "austen", "cifar10", "cifar100", "image-folder"
]
ModelName = Literal["cnn", "mlp", "resnet20", "resnet56", "resnet110", "char-lstm"]
Density = Annotated[float, Field(gt=0, le=1)]


class ScenarioError(ValueError):
    """A scenario file that says something impossible; the text names file and key."""


class TopologyChoice(Section):
    """A topology and its options."""

    name: str = Field(description="an installed topology, or the path of a .py file")
    options: dict[str, OptionValue] = Field(default_factory=dict)

    def load(self) -> Topology:
        """Return the topology with its options checked."""
        return load_topology(self.name, self.options)


class TrainSection(Section):
    """What is trained, on how many worker processes."""

    dataset: DatasetName
    data_path: Path | None = Field(default=None, description="folder of a data set of your own")
    model: ModelName
    options: dict[str, OptionValue] = Field(
        default_factory=dict, description="of model and task, such as hidden_size, augment, bptt"
    )
    world_size: int = Field(ge=1, le=1024, description="processes, dedicated servers included")
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
    timeout_s: float = Field(default=60.0, gt=0, description="a silent peer is an error after this")

    @model_validator(mode="after")
    def _dataset_fits_model(self) -> Self:
        if (self.dataset == "austen") != (self.model == "char-lstm"):
            raise ValueError(
                f"model {self.model!r} cannot learn {self.dataset!r}: 'char-lstm' is for text "
                "('austen'), the other models are for images"
            )
        return self


class CompressionSection(Section):
    """Deep Gradient Compression; density 1 is dense momentum SGD without it."""

    densities: tuple[Density, ...] = Field(default=(1.0,), min_length=1)
    wire_dtype: WireDtype = Field(default="float32", description="of dense values on the wire")
    warm_up: Literal["none", "paper", "geometric"] = "paper"
    warm_up_epochs: float = Field(default=4.0, gt=0, description="length of the density warm-up")
    masking: bool = Field(default=True, description="momentum factor masking")
    weight_decay_mode: Literal["local", "separate", "decoupled"] = "local"


class SimulateSection(StepKeys):
    """For which networks and sizes to predict."""

    networks: tuple[str, ...] = Field(min_length=1)
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
    compression: CompressionSection = CompressionSection()
    simulate: SimulateSection | None = None
    claims: tuple[Claim, ...] = Field(
        default=(), description="of others, to be set beside the predictions"
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.train is None and (self.simulate is None or not self.simulate.workloads):
            raise ValueError("nothing to do: expected [train], or [[simulate.workloads]], or both")
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
    return parse_scenario(text, str(path))


def parse_scenario(text: str, where: str = "scenario") -> Scenario:
    """Return the scenario that *text* (TOML) describes; *where* names it in errors.

    Raises:
        ScenarioError: as `load_scenario`.
    """
    try:
        scenario = Scenario.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{where}: not valid TOML: {error}") from error
    except ValidationError as error:
        lines = [f"{where}: {_explain(dict(problem))}" for problem in error.errors()]
        raise ScenarioError("\n".join(lines)) from error
    _check_topologies(scenario, where)
    _check_networks(scenario, where)
    return scenario


def _check_topologies(scenario: Scenario, where: str) -> None:
    sizes: dict[str, tuple[int, ...]] = {}
    if scenario.train:
        sizes["train.world_size"] = (scenario.train.world_size,)
    if scenario.simulate:
        sizes["simulate.world_sizes"] = scenario.simulate.world_sizes
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


def _check_networks(scenario: Scenario, where: str) -> None:
    for index, name in enumerate(scenario.simulate.networks if scenario.simulate else ()):
        try:
            load_fabric(name)
        except ValueError as error:
            raise ScenarioError(f"{where}: simulate.networks[{index}]: {error}") from error


def _explain(problem: dict[str, Any]) -> str:
    """Say in one line which key is wrong, and what was expected there."""
    location = problem["loc"]
    key = ".".join(str(part) for part in location) or "the file as a whole"
    match problem["type"]:
        case "extra_forbidden":
            valid = ", ".join(_keys_at(location[:-1]))
            return f"{key}: unknown key; valid here: {valid}"
        case "missing":
            return f"{key}: missing, expected a value"
        case "value_error":
            return f"{key}: {problem['ctx']['error']}"
    message = problem["msg"].replace("Input should be", "expected")
    return f"{key} = {problem['input']!r}: {message[0].lower()}{message[1:]}"


def _keys_at(location: tuple[str | int, ...]) -> list[str]:
    """Return the valid keys of the section at *location*."""
    section: type[BaseModel] = Scenario
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            section = _model_in(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the section type inside an annotation such as ``tuple[TopologyChoice, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inside = (_model_in(part) for part in getattr(annotation, "__args__", ()))
    return next((model for model in inside if model), None)
