"""Checks that averaging rules, compression, optimizer and topologies go together."""

from __future__ import annotations

from collections.abc import Sequence

from dgc_topo.averaging import Averaging
from dgc_topo.sizes import is_sparse
from dgc_topo.topology import Topology
from dgc_topo.training.compression import CompressionSection
from dgc_topo.training.settings import TrainSection


def check_averaging(
    where: str,
    rules: Sequence[Averaging],
    topologies: Sequence[Topology],
    train: TrainSection,
    compression: CompressionSection,
) -> None:
    """Refuse rules that fit no topology, topologies that no rule fits, and idle settings.

    Args:
        where: Key of the rules.
        rules: Those that are given; without any there is nothing to refuse.
        topologies: Those that are trained over.
        train: Section of the training.
        compression: Section of the compression.

    Raises:
        ValueError: naming the rule, and what was expected.
    """
    if not rules:
        return
    for rule in rules:
        nearest = sorted(topologies, key=lambda topology: topology.goal not in rule.goals)
        refusals = [rule.refusal_of(topology) for topology in nearest]
        if refusals and all(refusals):
            raise ValueError(f"{where}: {refusals[0]}")
        check_sections(where, rule, train, compression)
    for topology in topologies:
        refusals = [rule.refusal_of(topology) for rule in rules]
        if all(refusals):
            raise ValueError(f"{where}: {refusals[0]}")


def check_sections(
    where: str, rule: Averaging, train: TrainSection, compression: CompressionSection
) -> None:
    """Refuse a rule beside settings that it cannot honour.

    Args:
        where: Key of the rule.
        rule: The rule.
        train: Section of the training.
        compression: Section of the compression.

    Raises:
        ValueError: naming the setting, and what was expected.
    """
    where = f"{where}: {rule.label}"
    if compression.look_ahead != type(compression).model_fields["look_ahead"].default:
        raise ValueError(
            f"{where} with compression.look_ahead = {compression.look_ahead:g}, expected it among "
            "the rule's own options, as in updates:look_ahead=0.5"
        )
    compresses = compression.method == "dgc" and is_sparse(min(compression.densities))
    if not rule.is_local:
        if compresses and not train.is_sgd:
            raise ValueError(
                f"{where} with train.optimizer = {train.optimizer!r} below density 1: only SGD "
                "learns from compressed gradients, expected updates or sparse-loco"
            )
        return
    if train.overlap:
        raise ValueError(
            f"{where} with train.overlap = true: a rank's own optimizer has to be done with its "
            "step before anything is sent, expected overlap = false"
        )
    if compression.method != "dgc":
        raise ValueError(
            f"{where} with compression.method = {compression.method!r}, which compresses "
            "gradients, expected 'dgc'"
        )
    if not rule.compresses and all(map(is_sparse, compression.densities)):
        raise ValueError(
            f"{where} with densities {list(compression.densities)}: it sends whole parameters, "
            "expected 1 among them"
        )
    if compresses:
        compression.check_no_gradients(where)


def check_trainable(where: str, train: TrainSection, compression: CompressionSection) -> None:
    """Refuse a training that no worker could do.

    Args:
        where: Key of the settings.
        train: Section of the training.
        compression: Section of the compression.

    Raises:
        ValueError: naming what does not go together.
    """
    try:
        compression.check_warm_up(train.epochs)
        compression.check_optimizer(train)
        if train.overlap:
            compression.check_buckets(train.bucket_mib)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if compression.uses_ddp and train.workers != "processes":
        raise ValueError(
            f"{where}: method {compression.method!r} with train.workers = {train.workers!r}: "
            "DistributedDataParallel needs real workers, expected 'processes'"
        )
