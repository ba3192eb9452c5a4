"""Calibrated networks: the fitted parameters of the model, and the probes behind them."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path

import tomli_w
from pydantic import Field, NonNegativeFloat, ValidationError

from dgc_topo.files import write_whole
from dgc_topo.network.costs import Cost, EndCosts
from dgc_topo.network.network import Network, star
from dgc_topo.tables.table import Table

#: Bandwidth of an unlimited link.
_NO_LIMIT_BYTES_PER_S = 1e18
_BITS = 8
#: Costs that are higher for bytes outside the caches.
_UNCACHED = ("reduce_s_per_byte", "scale_s_per_byte", "send_s_per_byte", "receive_s_per_byte")


class Parameters(EndCosts):
    """Parameters of links, processes and machines, fitted to point-to-point measurements.

    A link of rate R carries ``goodput * R`` bytes of payload.  The first byte of a message takes
    ``latency_s`` plus the time of *latency_bytes* on the link, because every switch waits for whole
    frames.  After a pause a link passes at once ``burst_bytes``, plus the bytes that it carries in
    ``burst_s``.

    A byte costs less CPU time if it comes from a cache.  The costs of sending, receiving and adding
    given here are for bytes in a cache; others cost *uncached_factor* times as much.  If the
    processes of a machine touch f bytes in their buffers, a fraction ``1 - cache_bytes / f`` is not
    cached.

    If there are more processes than cores, the cores never sleep and no process waits to be woken:
    the latency is *crowded_latency_s*.  But the cores have to switch between processes: each step
    of a rank costs *crowded_overhead_s* more CPU time.

    A rank works for ``start_overhead_s`` before the first step of a run, and for *step_overhead_s*
    before each step: in a run of many steps, a step costs less than in a run of few.

    Cores that are all busy slow each other down, because they share the memory or are threads of
    one physical core: together they work like *busy_core_speed* times as many cores.

    Other costs are those of `EndCosts`.
    """

    goodput: float = Field(default=1.0, gt=0, description="payload bytes per byte of a link's rate")
    latency_s: Cost = 0.0
    latency_bytes: Cost = 0.0
    burst_s: Cost = 0.0
    uncached_factor: float = Field(default=1.0, ge=1)
    cache_bytes: float = Field(default=8e6, gt=0)
    crowded_latency_s: Cost | None = Field(default=None, description="as latency_s")
    crowded_overhead_s: Cost = 0.0
    busy_core_speed: float = Field(default=1.0, gt=0, le=1)

    def network(
        self,
        num_hosts: int,
        rate_bits_per_s: float | None,
        touched_bytes: float = float("inf"),
    ) -> Network:
        """Return a star of hosts.

        Args:
            num_hosts: Number of hosts.
            rate_bits_per_s: Rate of every link; None is unlimited.
            touched_bytes: Bytes of the buffers of all hosts; by default far more than any cache
                holds.
        """
        on_machine = min(num_hosts, self.hosts_per_machine)
        costs = self.costs(touched_bytes * on_machine / num_hosts)
        bandwidth, latency_s = _NO_LIMIT_BYTES_PER_S, self.latency_s
        if self.cores_per_machine is not None and on_machine > self.cores_per_machine:
            latency_s = latency_s if self.crowded_latency_s is None else self.crowded_latency_s
            crowded_s = costs.step_overhead_s + self.crowded_overhead_s
            costs = costs.model_copy(update={"step_overhead_s": crowded_s})
        if rate_bits_per_s is not None:
            bandwidth = self.goodput * rate_bits_per_s / _BITS
            latency_s += self.latency_bytes / bandwidth
            burst_bytes = self.burst_bytes + self.burst_s * bandwidth
            costs = costs.model_copy(update={"burst_bytes": burst_bytes})
        return star(num_hosts, bandwidth, latency_s / 2, costs=costs)

    def costs(self, touched_bytes: float = float("inf")) -> EndCosts:
        """Return the costs of messages at their ends.

        Args:
            touched_bytes: Bytes that all processes of a machine touch in their buffers.
        """
        uncached = max(0.0, 1 - self.cache_bytes / touched_bytes) if touched_bytes else 0.0
        factor = 1 + (self.uncached_factor - 1) * uncached
        costs = {name: getattr(self, name) for name in EndCosts.model_fields}
        costs |= {name: factor * costs[name] for name in _UNCACHED}
        return EndCosts(**costs | {"cores_per_machine": self._cores_at_once(), "burst_bytes": 0.0})

    def _cores_at_once(self) -> float | None:
        """Return the number of processes that a machine runs at full speed at once, at least 1."""
        cores = self.cores_per_machine
        return None if cores is None else max(self.busy_core_speed * cores, min(cores, 1.0))


class ProbeRow(Table):
    """One probe: its measured time, and its time by the fitted model."""

    probe: str
    world_size: int
    rate_bits_per_s: float | None = None
    num_bytes: int
    measured_s: float = Field(gt=0, description="of one run; median of the rounds")
    spread: NonNegativeFloat = Field(description="between the quartiles of the rounds, relative")
    fitted_s: float = Field(gt=0)

    @property
    def error(self) -> float:
        """Signed relative error of the fit."""
        return self.fitted_s / self.measured_s - 1


class CalibratedNetwork(Table):
    """Content of a calibrated network file: parameters, and the probes that they were fitted to."""

    name: str
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    machine: str = Field(description="hardware and software that was measured")
    rate_bits_per_s: float | None = Field(
        default=None, gt=0, description="of every link, unless a scenario says another"
    )
    parameters: Parameters
    median_fit_error: NonNegativeFloat = Field(description="of the probes, absolute and relative")
    worst_fit_error: NonNegativeFloat
    reference_s: float | None = Field(
        default=None, gt=0, description="of what tells the machine's state; see measure.Reference"
    )
    probes: tuple[ProbeRow, ...] = ()

    def network(self, num_hosts: int) -> Network:
        """Return the network of *num_hosts* hosts."""
        return self.parameters.network(num_hosts, self.rate_bits_per_s)

    def at_rate(self, rate_bits_per_s: float) -> CalibratedNetwork:
        """Return the same network with links of another rate."""
        return self.model_copy(update={"rate_bits_per_s": rate_bits_per_s})

    @classmethod
    def check_place(cls, path: Path) -> None:
        """Refuse to replace a file at *path* that is not a calibrated network file.

        Raises:
            ValueError: if there is any other file.
        """
        if path.is_file() and path.stat().st_size:
            cls.load(path)

    def save(self, path: Path) -> Path | None:
        """Write the file (TOML); an earlier one is renamed.

        Returns:
            New path of the earlier file: ``lab.toml`` becomes ``lab-20260131-174502.toml``, after
            the time it was made.  None if there was none.
        """
        self.check_place(path)
        earlier = None
        if path.is_file() and path.stat().st_size:
            made = self.load(path).created.astimezone()
            earlier = path.with_stem(f"{path.stem}-{made:%Y%m%d-%H%M%S}")
            write_whole(earlier, path.read_bytes())
        values = self.model_dump(mode="json", exclude_none=True)
        write_whole(path, tomli_w.dumps(values))
        return earlier

    @classmethod
    def load(cls, path: Path) -> CalibratedNetwork:
        """Return the calibrated network in a file.

        Raises:
            ValueError: naming the file and the key, if it is not a network file.
            OSError: if it cannot be read.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not TOML ({error}), expected a network file") from error
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(str(part) for part in problem["loc"]) or "the file"
            raise ValueError(
                f"{path}: {key}: {problem['msg']}; expected a network file, as 'dgc-topo "
                "calibrate' writes it"
            ) from error
