"""The `Scenario`: all sections of a scenario file, and the checks that they fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from dgc_topo.experiments.scenario.lab import LabSection, ValidateSection
from dgc_topo.experiments.scenario.simulate import Claim, SimulateSection, refuse_idle_keys
from dgc_topo.experiments.scenario.variants import LadderSection, ThroughputSection
from dgc_topo.network.cluster import Cluster, load_cluster
from dgc_topo.network.fabrics import find_fabric, like_fabric
from dgc_topo.network.kinds import Networks
from dgc_topo.network.network_files import file_of, names_file
from dgc_topo.sizes import is_sparse
from dgc_topo.tables.keys import EachOnce, at_key
from dgc_topo.tables.places import AnyPath, Name
from dgc_topo.tables.table import Table
from dgc_topo.topology import Topology
from dgc_topo.training.compression import CompressionSection
from dgc_topo.training.settings import EMULATED, TrainSection


class Scenario(Table):
    """One experiment: all settings that decide its result."""

    name: Name
    folder: AnyPath | None = Field(
        default=None, description="where relative paths begin, absolute; by default this file's own"
    )
    description: str = ""
    seed: int = Field(default=0, ge=0, lt=2**31)
    topologies: Annotated[tuple[Topology, ...], EachOnce] = Field(
        min_length=1,
        description='tables, or texts such as "ring" and "gossip:graph=ring"; a relative path of a '
        ".py file begins in the scenario's folder",
    )
    train: TrainSection | None = None
    lab: LabSection | None = Field(default=None, description="where to train, else on loopback")
    compression: CompressionSection = CompressionSection()
    ladder: LadderSection | None = None
    throughput: ThroughputSection | None = Field(
        default=None, description="of training: for 'dgc-topo bench training'"
    )
    networks: Networks = ()
    simulate: SimulateSection | None = None
    validation: ValidateSection | None = Field(
        default=None, alias="validate", description="measured runs that check predictions"
    )
    claims: tuple[Claim, ...] = Field(
        default=(), description="of others, to be set beside the predictions"
    )

    @property
    def files(self) -> tuple[Path, ...]:
        """Paths of the files that the scenario's topologies and networks use."""
        topologies = [Path(each.folder, each.name) for each in self.topologies if each.is_file]
        networks = [network.file for network in self.networks if hasattr(network, "file")]
        if self.simulate is not None:
            folder = self.simulate.folder_of_networks
            networks += [
                Path(folder, file_of(name)) for name in self.simulate.networks if self._reads(name)
            ]
        return tuple(dict.fromkeys([*topologies, *networks]))

    def _reads(self, network: str) -> bool:
        """Return True if a name of ``[simulate] networks`` is that of a file."""
        return names_file(network) and network not in {table.name for table in self.networks}

    @property
    def names_files(self) -> bool:
        """True if a file may be named by a path relative to the scenario."""
        files = [topology.name for topology in self.topologies if topology.is_file]
        if self.train is not None and self.train.data_path is not None:
            files.append(str(self.train.data_path))
        read = any(network.kind in {"simgrid", "calibrated"} for network in self.networks)
        if self.simulate is not None:
            read = read or any(names_file(network) for network in self.simulate.networks)
        return read or not all(Path(file).is_absolute() for file in files)

    def cluster(self, network: str, world_size: int) -> Cluster:
        """Return a cluster of *world_size* ranks on a network of ``[simulate] networks``.

        Raises:
            ValueError: if there is no such network (the error lists all), or a key does not allow
                so many ranks (the error names it).
        """
        for index, table in enumerate(self.networks):
            if table.name == network:
                with at_key(f"networks[{index}] ({network}) with {world_size} ranks"):
                    return load_cluster(table, world_size)
        if find_fabric(network) is None and not names_file(network):
            listed = ", ".join(table.name for table in self.networks) or "none"
            raise ValueError(
                f"network {network!r}: unknown, expected one of [[networks]] ({listed}), a file "
                f"such as lab.toml, or a fabric ({like_fabric(network)})"
            )
        folder = self.simulate.folder_of_networks if self.simulate is not None else ""
        return load_cluster(network, world_size, folder=folder)

    @field_validator("folder")
    @classmethod
    def _folder_is_somewhere(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.is_absolute():
            raise ValueError(f"{str(folder)!r}: expected an absolute path")
        return folder

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        predicts = self.simulate is not None and self.simulate.workloads
        if not (self.train or predicts or self.validation):
            raise ValueError(
                "nothing to do: expected [train], or [[simulate.workloads]], or both, or [validate]"
            )
        return self

    @model_validator(mode="after")
    def _no_key_is_idle(self) -> Self:
        if self.simulate is not None:
            refuse_idle_keys(self.simulate, self.compression, trains=self.train is not None)
        return self

    @model_validator(mode="after")
    def _what_is_predicted_can_overlap(self) -> Self:
        """Refuse predictions of runs that could not be trained that way."""
        if self.train is None or self.simulate is None or not self.simulate.overlap:
            return self
        if self.train.clip_norm is not None:
            raise ValueError(
                "simulate.overlap = true with train.clip_norm: a gradient's norm is known only "
                "when the backward pass is over, expected overlap = false"
            )
        try:
            self.compression.check_buckets(self.simulate.bucket_mib)
        except ValueError as error:
            text = str(error).replace("train.overlap", "simulate.overlap")
            raise ValueError(f"compression: {text}") from error
        return self

    @model_validator(mode="after")
    def _lab_fits(self) -> Self:
        if self.lab is not None:
            if self.train is None:
                raise ValueError("[lab] without [train]: expected something to train there")
            self.lab.spec(self.train.world_size)
        return self

    @model_validator(mode="after")
    def _validation_measures_something(self) -> Self:
        trains = self.train is not None and self.lab is not None
        if self.validation is not None and not (self.validation.measures_collectives or trains):
            raise ValueError(
                "validate: nothing to measure: expected dense_bytes or sparse_densities, or "
                "training steps: [train] and [lab]"
            )
        if self.validation and self.lab and (self.lab.host_rates or self.lab.changes):
            raise ValueError(
                "validate: hosts are predicted as alike and links as steady, expected no "
                "host_rates and changes in [lab]"
            )
        return self

    @model_validator(mode="after")
    def _throughput_can_be_measured(self) -> Self:
        if self.throughput is None:
            return self
        if self.train is None or self.ladder is not None:
            raise ValueError("throughput: expected [train] as well, and no [ladder]")
        if self.train.workers != "processes":
            raise ValueError(
                f"throughput: train.workers = {self.train.workers!r} has no times of a cluster, "
                "expected 'processes'"
            )
        if self.lab is not None:
            self.lab.spec(max(self.throughput.world_sizes))
        there = {topology.name for topology in self.topologies}
        for index, way in enumerate(self.throughput.ways):
            unknown = sorted(set(way.over_topologies) - there)
            if unknown:
                raise ValueError(
                    f"throughput.ways.{index}.over_topologies: {', '.join(unknown)}, expected "
                    f"names under [[topologies]]: {', '.join(sorted(there))}"
                )
        return self

    @model_validator(mode="after")
    def _ladder_can_be_run(self) -> Self:
        if self.ladder is None:
            return self
        if self.train is None:
            raise ValueError("ladder: there is nothing to train, expected [train] as well")
        if self.train.emulates:
            raise ValueError(
                f"ladder: is about what is learnt, expected another dataset than {EMULATED!r}"
            )
        if self.simulate is not None:
            raise ValueError("ladder: is about what is learnt, expected no [simulate] beside it")
        if self.lab is not None:
            raise ValueError("ladder: is about what is learnt, expected no [lab] beside it")
        self.ladder.check_baseline(self.compression)
        whole = self.train.world_size * self.train.batch_size_per_worker
        for size in self.ladder.world_sizes:
            if whole % size:
                raise ValueError(
                    f"ladder.world_sizes: {size} workers cannot share a global batch of {whole} "
                    "(train.world_size x train.batch_size_per_worker), expected a divisor"
                )
        return self

    @model_validator(mode="after")
    def _variants_can_be_trained(self) -> Self:
        if self.train is None:
            return self
        if self.ladder is None:
            _check_trainable("compression", self.train, self.compression)
        for index, rung in enumerate(self.ladder.rungs if self.ladder else ()):
            where = f"ladder.rungs.{index}"
            _check_trainable(where, self.train, rung.over(self.compression, where))
        for index, way in enumerate(self.throughput.ways if self.throughput else ()):
            where = f"throughput.ways.{index}"
            compression = way.over(self.compression, where)
            _check_trainable(where, way.training(self.train, where), compression)
        return self

    @model_validator(mode="after")
    def _there_is_something_to_compress(self) -> Self:
        workloads = self.simulate.workloads if self.simulate else ()
        for index, workload in enumerate(workloads):
            if workload.compressible_elements == 0 and is_sparse(min(self.compression.densities)):
                raise ValueError(
                    f"simulate.workloads.{index}.compressible_elements = 0 with densities below "
                    "1: nothing to compress, expected 1 or more, or densities = [1.0]"
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


def _check_trainable(where: str, train: TrainSection, compression: CompressionSection) -> None:
    """Refuse a training that no worker could do."""
    try:
        compression.check_warm_up(train.epochs)
        if train.overlap:
            compression.check_buckets(train.bucket_mib)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if compression.uses_ddp and train.workers != "processes":
        raise ValueError(
            f"{where}: method {compression.method!r} with train.workers = {train.workers!r}: "
            "DistributedDataParallel needs real workers, expected 'processes'"
        )
