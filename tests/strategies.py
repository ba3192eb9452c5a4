"""What several tests draw from: every built-in topology with every kind of option."""

from typing import Any

import pytest
from hypothesis import settings

from dgc_topo.topology import Topology, load_topology

Case = tuple[str, dict[str, Any]]
ALL_REDUCE: list[Case] = [
    ("parameter-server", {}),
    ("parameter-server", {"server": "dedicated"}),
    ("sharded-parameter-server", {}),
    ("tree", {}),
    ("butterfly", {}),
    ("butterfly", {"order": "far"}),
    ("butterfly", {"algorithm": "doubling"}),
    ("butterfly", {"algorithm": "doubling", "order": "far"}),
    ("ring", {}),
    ("ring", {"segments": 3}),
    ("mesh", {}),
    ("hierarchical", {"group_size": 2}),
    ("hierarchical", {"group_size": 3, "leaders": "butterfly", "inside": "star"}),
    ("hierarchical", {"group_size": 4, "leaders": "mesh"}),
]
GRAPHS = ["ring", "torus", "complete", "exponential", "one-peer-exponential", "random-matching"]
GOSSIP: list[Case] = [("gossip", {"graph": graph}) for graph in GRAPHS]
PUSH: list[Case] = [("gossip", {"graph": "random-push"})]  # column-stochastic


def topologies(cases: list[Case]) -> list[Topology]:
    return [load_topology(name, options) for name, options in cases]


def smallest_world(topology: Topology) -> int:
    return 2 if topology.options.get("server") == "dedicated" else 1


def examples(usual: int) -> settings:
    """Settings for so many examples of 100 that the profile allows (``--hypothesis-profile``)."""
    profile = settings.get_profile(settings.get_current_profile_name())
    return settings(max_examples=max(1, usual * profile.max_examples // 100))


def parts(usual: int, all_of_them: int) -> list[Any]:
    """Return seeds: some for every run of the tests, and more of the same for the long one."""
    more = [pytest.param(part, marks=pytest.mark.long) for part in range(usual, all_of_them)]
    return [*range(usual), *more]
