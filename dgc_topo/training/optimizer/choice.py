"""Choice of the rule for an optimizer, and refusal of what cannot work."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from pydantic_core import to_jsonable_python
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Optimizer

from dgc_topo.averaging import DPSGD, Averaging
from dgc_topo.compression.config import DGCConfig, config_of
from dgc_topo.sizes import is_sparse
from dgc_topo.training.in_steps import in_steps
from dgc_topo.training.optimizer.averaged import AveragedRule
from dgc_topo.training.optimizer.compressing import MomentumCorrectionRule
from dgc_topo.training.optimizer.hyperparameters import hyperparameters
from dgc_topo.training.optimizer.rules import AverageRule, Rule
from dgc_topo.training.optimizer.updates_rule import UpdateRule
from dgc_topo.training.own_group import OwnGroup

#: Settings of `DGCConfig` that have another place here, and that place.
_ELSEWHERE = {
    "momentum": "the optimizer's own momentum",
    "nesterov": "the optimizer's own nesterov",
    "weight_decay": "the optimizer's own weight_decay",
    "weight_decay_mode": "its 'local' mode",
    "warm_up_epochs": "warm_up_steps",
}

#: Optimizers that cannot work, by name (some torch versions do not have all), and the reason.
_HOPELESS = {
    "LBFGS": "it evaluates the loss several times in a step, and ranks would choose other steps",
    "SparseAdam": "it needs sparse gradients, which are summed dense here: Adam or Adagrad do not",
    "DistributedOptimizer": "it averages already",
    "ZeroRedundancyOptimizer": "it has ranks share out the parameters; give its inner optimizer",
}


def config_of_steps(
    where: str,
    density: float | str,
    warm_up_steps: int,
    clip_norm: float | None,
    settings: Mapping[str, Any],
) -> DGCConfig:
    """Return DGC's settings, with a warm-up in steps instead of epochs.

    Raises:
        ValueError: if one is unknown, out of range, or has another place.
    """
    for name in settings:
        if name in _ELSEWHERE:
            raise ValueError(f"{where}: setting {name!r}, expected {_ELSEWHERE[name]} instead")
    settings = in_steps(where, warm_up_steps, settings, elsewhere=_ELSEWHERE)
    own = {"density": density, "momentum": 0.0, "clip_norm": clip_norm}
    return config_of(None, {**settings, **own})


def refuse_optimizer(where: str, optimizer: Optimizer) -> None:
    """Refuse an optimizer that cannot work over several ranks.

    Raises:
        ValueError: with the reason.
    """
    kind = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer):
        raise ValueError(  # noqa: TRY004  a wrong argument is a wrong value, as everywhere here
            f"{where}: optimizer is {kind}, expected a torch.optim.Optimizer"
        )
    for each in type(optimizer).__mro__:
        if each.__name__ in _HOPELESS:
            raise ValueError(f"{where}: {kind} cannot be used: {_HOPELESS[each.__name__]}")


class Choice(NamedTuple):
    """Settings that decide the rule, beside optimizer and topology.

    Attributes:
        config: Settings of the compression.
        averaging: The averaging rule; None is the usual one.
        look_ahead: See `UpdateRule`.
        given: Names of the settings that the user gave.
    """

    config: DGCConfig
    averaging: Averaging | None
    look_ahead: float
    given: Container[str]


def rule_for(where: str, optimizer: Optimizer, own: OwnGroup, choice: Choice) -> Rule:
    """Return the rule that fits optimizer, topology and density.

    Args:
        where: Name of the owner in errors.
        optimizer: The user's own.
        own: The ranks, and the topology between them.
        choice: The user's settings.

    Raises:
        ValueError: if none does, or the rule does not have a setting.
    """
    averaging, config = choice.averaging, choice.config
    if averaging is None and own.gossips:
        averaging = DPSGD()
    if averaging is not None:
        _check_averaging(where, averaging, optimizer, own, config)
    is_sparse_now = is_sparse(config.density)
    updates = averaging is None and is_sparse_now and type(optimizer) is not SGD
    if updates:  # a subclass of SGD may do anything in its step
        if "warm_up" in choice.given:
            raise ValueError(
                f"{where}: warm_up with {type(optimizer).__name__}, expected warm_up_steps alone: "
                "the density of updates falls in equal ratios"
            )
        return UpdateRule(where, optimizer, own, config, choice.look_ahead)
    if choice.look_ahead:
        raise ValueError(
            f"{where}: look_ahead {choice.look_ahead}, expected 0: it is for compressed updates, "
            "as of AdamW below density 1; averaging rules have one of their own"
        )
    if averaging is not None and averaging.is_local:
        return AveragedRule(where, optimizer, own, config, averaging)
    kind = MomentumCorrectionRule if is_sparse_now else AverageRule
    return kind(where, optimizer, own, config)


def _check_averaging(
    where: str, averaging: Averaging, optimizer: Optimizer, own: OwnGroup, config: DGCConfig
) -> None:
    """Refuse a rule that does not go with the topology, the density or the optimizer."""
    refusal = averaging.refusal_of(own.topology)
    if refusal is not None:
        raise ValueError(f"{where}: averaging {refusal}")
    if not is_sparse(config.density):
        return
    if not averaging.compresses:
        raise ValueError(
            f"{where}: density {config.density:g} over {own.topology.label}, expected 1: what "
            "gossip mixes are whole parameters, and a part of them has no meaning"
        )
    if not averaging.is_local and type(optimizer) is not SGD:
        raise ValueError(
            f"{where}: averaging gradients below density 1 with {type(optimizer).__name__}, "
            "expected updates or sparse-loco: only SGD learns from compressed gradients"
        )


def names_of(where: str, optimizer: Optimizer, model: nn.Module) -> dict[Tensor, str]:
    """Return the name of each of the model's parameters.

    Raises:
        ValueError: if the model is wrapped, or the optimizer has a parameter that is not its.
    """
    if isinstance(model, DistributedDataParallel):
        raise ValueError(  # noqa: TRY004  a wrong argument is a wrong value, as everywhere here
            f"{where}: the model is in DistributedDataParallel, which averages gradients itself, "
            "expected the model alone, or dt.hook registered with DistributedDataParallel"
        )
    if not isinstance(model, nn.Module):
        raise ValueError(  # noqa: TRY004  as above
            f"{where}: model is {type(model).__name__}, expected a torch.nn.Module"
        )
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    for group in optimizer.param_groups:
        check_names(where, group["params"], names)
    return names


def check_names(where: str, parameters: Iterable[Tensor], names: Mapping[Tensor, str]) -> None:
    """Refuse parameters that have no name in the model.

    Raises:
        ValueError: saying how many, and the first one's shape.
    """
    strangers = [p for p in parameters if p not in names]
    if strangers:
        raise ValueError(
            f"{where}: {len(strangers)} of the optimizer's parameters are not those of the model, "
            f"as it was at first (one has shape {tuple(strangers[0].shape)}), expected some of "
            "model.parameters(): layers that are to be trained later have to be in the model before"
        )


def trained_groups(
    optimizer: Optimizer, names: Mapping[Tensor, str]
) -> Sequence[dict[str, nn.Parameter]]:
    """Return those parameters of each group that are not frozen, by name."""
    return [
        {names[p]: p for p in group["params"] if p.requires_grad}
        for group in optimizer.param_groups
    ]


def shared_settings(
    optimizer: Optimizer, rule: str, model: nn.Module, choice: Choice
) -> dict[str, Any]:
    """Return the settings that must be equal on every rank, as JSON values by key."""
    named = [*model.named_parameters(), *model.named_buffers()]
    tensors: dict[Tensor, str] = {tensor: name for name, tensor in named}
    own = {"optimizer": type(optimizer).__name__, "rule": rule, "look_ahead": choice.look_ahead}
    config: dict[str, Any] = to_jsonable_python(asdict(choice.config))
    return {**own, **config, **described(optimizer, tensors)}


def described(optimizer: Optimizer, names: Mapping[Tensor, str]) -> dict[str, Any]:
    """Return what tensors are, by name, and the optimizer's hyper-parameters.

    A tensor is a shape and a type, and the word that the optimizer trains it now, in which group.
    """
    groups = optimizer.param_groups
    found = {id(p): n for n, each in enumerate(groups) for p in each["params"] if p.requires_grad}

    def words(tensor: Tensor) -> str:
        text = f"{tuple(tensor.shape)} {tensor.dtype}"
        if id(tensor) not in found:
            return text
        where = f" in parameter group {found[id(tensor)]}" if len(groups) > 1 else ""
        return f"{text}, trained{where}"

    return {**hyperparameters(optimizer), **{name: words(t) for t, name in names.items()}}
