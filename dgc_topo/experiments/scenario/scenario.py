"""The `Scenario`: all sections of a scenario file, and the checks that they fit together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from dgc_topo.averaging import Averaging, Averagings
from dgc_topo.experiments.scenario.averaging import check_averaging, check_trainable
from dgc_topo.experiments.scenario.lab import LabSection, ValidateSection
from dgc_topo.experiments.scenario.simulate import (
    Claim,
    SimulateSection,
    check_claims,
    refuse_idle_keys,
)
from dgc_topo.experiments.scenario.sweep import SweepSection
from dgc_topo.experiments.scenario.variants import LadderSection, ThroughputSection
from dgc_topo.network.cluster import Cluster, load_cluster
from dgc_topo.network.fabrics import find_fabric, like_fabric
from dgc_topo.network.kinds import Networks
from dgc_topo.network.network_files import file_of, names_file, names_others
from dgc_topo.network.tables import NetworkTable
from dgc_topo.records.room import FILES
from dgc_topo.sizes import is_sparse
from dgc_topo.tables.keys import EachOnce, at_key
from dgc_topo.tables.places import AnyPath, Name
from dgc_topo.tables.table import Table
from dgc_topo.topology import Topology
from dgc_topo.training.compression import CompressionSection
from dgc_topo.training.settings import TrainSection


class Scenario(Table):
    """One experiment: all settings that decide its result."""

    name: Name = Field(description="of the experiment, and of its results folder")
    folder: AnyPath | None = Field(
        default=None,
        description="where relative paths begin: an absolute path, or 'files', the copies in a "
        "results folder; by default this file's own folder",
    )
    description: str = Field(default="", description="in reports")
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="of weights, data, and random topologies"
    )
    topologies: Annotated[tuple[Topology, ...], EachOnce] = Field(
        default=(),
        description='tables, or texts such as "ring" and "gossip:graph=ring"; a relative path of a '
        ".py file begins in the scenario's folder; needed unless [sweep] has its own",
    )
    train: TrainSection | None = Field(default=None, description="what is trained, and how")
    lab: LabSection | None = Field(default=None, description="where to train, else on loopback")
    compression: CompressionSection = Field(
        default=CompressionSection(), description="of what is sent"
    )
    averaging: Averagings = Field(
        default=(),
        description='rules, as tables or texts such as "diloco:every=50" or, for one of your own, '
        '"mine.py:every=50", each over the topologies that it fits; by default gradients over an '
        "all-reduce, d-psgd over gossip, and updates for optimizers other than sgd below density 1",
    )
    ladder: LadderSection | None = Field(
        default=None, description="variants of the compression, over seeds"
    )
    throughput: ThroughputSection | None = Field(
        default=None, description="of training: for 'dgc-topo bench training'"
    )
    networks: Networks = Field(default=(), description="that are described here")
    simulate: SimulateSection | None = Field(
        default=None, description="networks and world sizes to predict for"
    )
    sweep: SweepSection | None = Field(
        default=None, description="many predictions, for 'dgc-topo sweep'"
    )
    validation: ValidateSection | None = Field(
        default=None, alias="validate", description="measured runs that check predictions"
    )
    claims: tuple[Claim, ...] = Field(
        default=(), description="of others, to be set beside the predictions"
    )

    @property
    def files(self) -> tuple[Path, ...]:
        """Paths of the files that the scenario's topologies, networks and training use."""
        own = self.topologies if self.sweep is None else (*self.topologies, *self.sweep.topology)
        topologies = [Path(each.folder, each.name) for each in own if each.is_file]
        networks = [network.file for network in self.networks if hasattr(network, "file")]
        networks += [Path(folder, file_of(name)) for name, folder in self._network_files()]
        code = (
            [Path(self.train.folder, file) for file in self.train.own_files] if self.train else []
        )
        code += [Path(rule.code.folder, rule.code.name) for rule in self.rules if rule.code]
        return tuple(dict.fromkeys([*topologies, *networks, *code]))

    @property
    def rules(self) -> list[Averaging]:
        """The averaging rules that are given, those of variants and of a sweep as well."""
        rungs = self.ladder.rungs if self.ladder else ()
        variants = [*rungs, *(self.throughput.ways if self.throughput else ())]
        own = [each.averaging for each in variants if each.averaging]
        return [*self.averaging, *own, *(self.sweep.averaging if self.sweep else ())]

    def _network_files(self) -> Iterator[tuple[str, str]]:
        """Yield the names of networks that are those of files, and where relative ones begin."""
        named: list[tuple[str, str]] = []
        if self.simulate is not None:
            folder = self.simulate.folder_of_networks
            named += [(name, folder) for name in self.simulate.networks]
        if self.sweep is not None:
            texts = map(str, self.sweep.network)
            named += [(name, self.sweep.folder_of_files) for name in texts]
        tables = {table.name for table in self.networks}
        return (each for each in named if names_file(each[0]) and each[0] not in tables)

    @property
    def names_files(self) -> bool:
        """True if a file may be named by a path relative to the scenario."""
        own = self.topologies if self.sweep is None else (*self.topologies, *self.sweep.topology)
        files = [topology.name for topology in own if topology.is_file]
        files += [rule.code.name for rule in self.rules if rule.code]
        if self.train is not None:
            files += self.train.own_files
            if self.train.data_path is not None:
                files.append(str(self.train.data_path))
        read = any(network.kind in {"simgrid", "calibrated"} for network in self.networks)
        read = read or any(True for _ in self._network_files())
        return read or not all(Path(file).is_absolute() for file in files)

    @property
    def names_uncopied(self) -> bool:
        """True if a relative path leads to something of which results folders have no copy."""
        data = self.train.data_path if self.train else None
        files = (Path(folder, file_of(name)) for name, folder in self._network_files())
        return (data is not None and not data.is_absolute()) or any(map(names_others, files))

    def network(self, name: str) -> NetworkTable | str:
        """Return the table of ``[[networks]]`` that has a name; a fabric or a file as it is.

        Raises:
            ValueError: if there is no such network; the error lists all.
        """
        for table in self.networks:
            if table.name == name:
                return table
        if find_fabric(name) is None and not names_file(name):
            listed = ", ".join(table.name for table in self.networks) or "none"
            raise ValueError(
                f"network {name!r}: unknown, expected one of [[networks]] ({listed}), a file "
                f"such as lab.toml, or a fabric ({like_fabric(name)})"
            )
        return name

    def cluster(self, network: str, world_size: int) -> Cluster:
        """Return a cluster of *world_size* ranks on a network of ``[simulate] networks``.

        Raises:
            ValueError: if there is no such network (the error lists all), or a key does not allow
                so many ranks (the error names it).
        """
        found = self.network(network)
        if isinstance(found, NetworkTable):
            index = self.networks.index(found)
            with at_key(f"networks[{index}] ({network}) with {world_size} ranks"):
                return load_cluster(found, world_size)
        folder = self.simulate.folder_of_networks if self.simulate is not None else ""
        return load_cluster(found, world_size, folder=folder)

    @field_validator("folder")
    @classmethod
    def _folder_is_somewhere(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.is_absolute() and folder != Path(FILES):
            raise ValueError(
                f"{str(folder)!r}: expected an absolute path, or {FILES!r} for copies beside the "
                "file"
            )
        return folder

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        predicts = self.simulate is not None and self.simulate.workloads
        if not (self.train or predicts or self.validation or self.sweep):
            raise ValueError(
                "nothing to do: expected [train], or [[simulate.workloads]], or both, or "
                "[validate], or [sweep]"
            )
        return self

    @model_validator(mode="after")
    def _topologies_are_said_where_they_are_used(self) -> Self:
        only_sweeps = not (self.train or self.simulate or self.validation)
        sweeps_its_own = self.sweep is not None and bool(self.sweep.topology)
        if not self.topologies and not (only_sweeps and sweeps_its_own):
            raise ValueError("topologies: missing, expected at least one")
        if self.topologies and only_sweeps and sweeps_its_own:
            raise ValueError("sweep.topology: takes the place of topologies, expected one of both")
        if only_sweeps and self.compression != CompressionSection():
            raise ValueError(
                "compression: nothing is trained, and [sweep] has density, wire_dtype and "
                "index_encoding of its own; expected no such section"
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
    def _local_steps_are_predicted_without_overlap(self) -> Self:
        local = [rule for rule in self.averaging if rule.is_local]
        if local and self.simulate is not None and self.simulate.overlap:
            raise ValueError(
                f"simulate.overlap = true with averaging {local[0].label}: what is sent is known "
                "only when a rank's own optimizer is done, expected overlap = false"
            )
        return self

    @model_validator(mode="after")
    def _what_is_predicted_has_a_share_each(self) -> Self:
        if self.train is None or self.simulate is None or self.simulate.workloads:
            return self
        others = set(self.simulate.world_sizes) - {self.train.world_size}
        if self.train.batch_shares and others:
            raise ValueError(
                f"simulate.world_sizes: {min(others)} with train.batch_shares, which are those of "
                f"{self.train.world_size} ranks; expected only these"
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
        self.throughput.check_training(self.train, self.topologies)
        if self.lab is not None:
            self.lab.spec(max(self.throughput.world_sizes))
        return self

    @model_validator(mode="after")
    def _ladder_can_be_run(self) -> Self:
        if self.ladder is None:
            return self
        if self.train is None:
            raise ValueError("ladder: there is nothing to train, expected [train] as well")
        self.ladder.check_training(self.train, self.compression)
        for key, section in (("simulate", self.simulate), ("lab", self.lab)):
            if section is not None:
                raise ValueError(f"ladder: is about what is learnt, expected no [{key}] beside it")
        return self

    @model_validator(mode="after")
    def _variants_can_be_trained(self) -> Self:
        if self.train is None:
            return self
        topologies, rules = self.topologies, self.averaging
        if self.ladder is None:
            check_trainable("compression", self.train, self.compression)
            check_averaging("averaging", rules, topologies, self.train, self.compression)
        for index, rung in enumerate(self.ladder.rungs if self.ladder else ()):
            where = f"ladder.rungs.{index}"
            compression = rung.over(self.compression, where)
            check_trainable(where, self.train, compression)
            own = rung.averagings(rules)
            check_averaging(f"{where}.averaging", own, topologies, self.train, compression)
        for index, way in enumerate(self.throughput.ways if self.throughput else ()):
            where = f"throughput.ways.{index}"
            compression = way.over(self.compression, where)
            train = way.training(self.train, where)
            check_trainable(where, train, compression)
            some, own = way.topologies(topologies), way.averagings(rules)
            check_averaging(f"{where}.averaging", own, some, train, compression)
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
        check_claims(self.claims, self.simulate)
        return self
