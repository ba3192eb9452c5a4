"""Agreement of ranks: the model that they share and evaluate, and the check that they are equal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dgc_topo.compression.layout import FlatLayout
from dgc_topo.training.checks import TrainingError, fingerprint
from dgc_topo.training.evaluation import flat_statistics, set_parameters, with_average_statistics
from dgc_topo.training.models import running_statistics
from dgc_topo.training.rank import TrainingRank
from dgc_topo.training.world import World


def shared_model(
    world: World, ranks: Sequence[TrainingRank], contributors: Sequence[int], what: str
) -> nn.Module:
    """Return a model with what the ranks share, and with their average running statistics.

    Args:
        world: All ranks.
        ranks: Those of this process.
        contributors: The ranks that train.
        what: Purpose, for errors.
    """
    first = ranks[0]
    if not first.rule.is_local and not running_statistics(first.model):
        return first.model
    flats = world.gather_tensors([flat_statistics(rank.model).cpu() for rank in ranks], what)
    workers = [flats[rank] for rank in contributors]
    model = with_average_statistics(first.task, first.model, workers)
    if first.rule.is_local:
        set_parameters(model, shared_parameters(world, ranks, contributors, what))
    return model


def shared_parameters(
    world: World, ranks: Sequence[TrainingRank], contributors: Sequence[int], what: str
) -> dict[str, Tensor]:
    """Return the parameters that the ranks share, or the mean of their parts; see `Averager`."""
    first = ranks[0]
    if first.averager.agrees:
        return first.averager.shared()
    layout = FlatLayout.of(first.parameters)
    # float64 holds sums of float32 exactly, unless they are some 10**8 apart: whatever order the
    # collective adds in, real and virtual workers get the same bits.
    total = torch.zeros(layout.length, dtype=torch.float64, device=world.device)
    for rank in ranks:
        if rank.trains:
            own = layout.flatten(rank.averager.shared(), world.device)
            total.add_(own, alpha=rank.averager.counts)
    mean = world.sum(total, what) / len(contributors)
    return layout.views(mean.to(torch.float32))


def check_agreement(world: World, ranks: Sequence[TrainingRank], what: str) -> str | None:
    """Check that all ranks hold alike, bit for bit, what their rule keeps alike.

    Returns:
        Its fingerprint; None where nothing is, as in gossip.

    Raises:
        TrainingError: naming *what*, and the ranks that differ from rank 0.
    """
    own: list[str] = []
    for rank in ranks:
        common = rank.averager.common()
        if common is None:
            return None
        # Those that sum gradients share their parameters here.
        own.append(fingerprint(common) if rank.rule.is_local or not own else own[0])
    prints = world.gather(str, own, what)
    odd = [number for number, value in enumerate(prints) if value != prints[0]]
    if odd:
        raise TrainingError(
            f"{what}: parameters of ranks {odd} differ from those of rank 0 after training, "
            "expected all bit-identical"
        )
    return prints[0]
