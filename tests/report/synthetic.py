"""Test data shaped like a real comparison; invented numbers, never to be reported as results."""

from collections.abc import Iterator
from datetime import UTC, datetime
from math import log2

from dgc_topo.records.measurement import Measurement, Phases, SparseSizes
from dgc_topo.records.quality import Quality, QualityPoint

SCENARIO = "synthetic-test-data"
MACHINE = "invented numbers for tests, measured nowhere"
NETWORKS = {"1gbe": (112e6, 50e-6), "ib-edr": (12e9, 2e-6)}  # bytes per second, latency
WORLD_SIZES = (4, 8, 16, 32, 64)
TOPOLOGIES: tuple[tuple[str, dict[str, str | int | float | bool]], ...] = (
    ("parameter-server", {"server": "dedicated"}),
    ("sharded-parameter-server", {}),
    ("tree", {}),
    ("butterfly", {}),
    ("butterfly", {"algorithm": "doubling", "order": "far"}),
    ("ring", {}),
    ("mesh", {}),
    ("hierarchical", {"group_size": 2}),
    ("gossip", {"graph": "one-peer-exponential"}),
)
GRADIENT_BYTES = 1_313_064
COMPUTE_S = 0.012
CREATED = datetime(2026, 1, 31, 12, tzinfo=UTC)


def measurements(epochs: int = 4) -> list[Measurement]:
    """Return what a comparison on 4 workers with 2 networks would record."""
    return [*_measured(epochs), *_predicted()]


def _measured(epochs: int) -> Iterator[Measurement]:
    for index, (topology, options) in enumerate(TOPOLOGIES):
        for density in (1.0, 0.001):
            wire = _wire_bytes(topology, 4, density)
            phases = Phases(
                compute_s=COMPUTE_S,
                compress_s=0.0 if density == 1 else 0.0042,
                communicate_s=0.004 + wire / 1e9,
                wait_s=0.003 + 0.001 * index,
                update_s=0.0006,
            )
            yield _record(topology, options, density, 4, "loopback", phases).model_copy(
                update={
                    "kind": "measured",
                    "num_steps": 188 * epochs,
                    "quality": _quality(topology, density, epochs),
                }
            )


def _predicted() -> Iterator[Measurement]:
    for topology, options in TOPOLOGIES:
        for density in (1.0, 0.001):
            for network, (bandwidth, latency) in NETWORKS.items():
                for world_size in WORLD_SIZES:
                    latency_s = _messages(topology, world_size) * latency
                    phases = Phases(
                        compute_s=COMPUTE_S,
                        compress_s=0.0 if density == 1 else 0.0042,
                        communicate_s=0.0005,
                        wait_s=latency_s + _wire_bytes(topology, world_size, density) / bandwidth,
                        update_s=0.0006,
                    )
                    yield _record(topology, options, density, world_size, network, phases)


def _record(
    topology: str,
    options: dict[str, str | int | float | bool],
    density: float,
    world_size: int,
    network: str,
    phases: Phases,
) -> Measurement:
    step_time_s = sum(phases.model_dump().values())
    num_workers = world_size - (options.get("server") == "dedicated")
    return Measurement(
        kind="predicted",
        scenario=SCENARIO,
        created=CREATED,
        machine=MACHINE,
        topology=topology,
        options=options,
        world_size=world_size,
        num_workers=num_workers,
        network=network,
        workload="cnn on fashion-mnist (invented)",
        compression="dense" if density == 1 else "dgc",
        density=density,
        seed=1,
        batch_size_per_worker=32,
        num_steps=0,
        step_time_s=step_time_s,
        phases=phases,
        samples_per_s=32 * num_workers / step_time_s,
        gradient_bytes=GRADIENT_BYTES,
        compressed_bytes=GRADIENT_BYTES * (1 if density == 1 else 2.05 * density),
        wire_bytes_per_step=_wire_bytes(topology, world_size, density),
        messages_per_step=_messages(topology, world_size),
        sparse=None if density == 1 else _sparse(world_size),
        solo_phases=phases.model_copy(update={"communicate_s": 0.0, "wait_s": 0.0}),
        speedup=num_workers * (COMPUTE_S + 0.0006) / step_time_s,
    )


def _sparse(world_size: int) -> SparseSizes:
    return SparseSizes(
        length=GRADIENT_BYTES // 4 - 266,
        dense_elements=266,
        entries=328,
        merged_entries=328 * world_size / 2,
    )


def _messages(topology: str, world_size: int) -> float:
    linear = topology in {"ring", "mesh", "parameter-server", "sharded-parameter-server"}
    return 1 if topology == "gossip" else 2 * (world_size - 1 if linear else log2(world_size))


def _wire_bytes(topology: str, world_size: int, density: float) -> float:
    own = GRADIENT_BYTES * (1 if density == 1 else 2.05 * density)
    factor = {
        "parameter-server": world_size - 1,
        "tree": log2(world_size),
        "mesh": world_size - 1,
        "gossip": 1,
    }.get(topology, 2 * (world_size - 1) / world_size)
    union = 1 if density == 1 or topology in {"mesh", "gossip"} else world_size / 2
    return own * factor * union


def _quality(topology: str, density: float, epochs: int) -> Quality:
    # All-reduce topologies add the same numbers, so that their dense curves coincide.
    end = 0.885 if topology != "gossip" else 0.868
    lag = 0.0 if density == 1 else 0.011
    points = tuple(
        QualityPoint(
            epoch=epoch,
            step=188 * epoch,
            value=end - 0.17 / epoch**1.3 - lag / epoch,
            train_loss=0.3 + 0.5 / epoch,
        )
        for epoch in range(1, epochs + 1)
    )
    return Quality(metric="accuracy", points=points)
