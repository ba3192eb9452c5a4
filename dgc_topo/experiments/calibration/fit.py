"""Fit of the model's parameters to measured probes, by the simulator that also predicts.

Every probe's time is simulated with trial parameters.  Bounded least squares (scipy) minimise the
squared logarithms of simulated over measured times.  The parameters describe links, processes and
cores; none belongs to a topology.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from dgc_topo.arrays import FloatArray
from dgc_topo.experiments.calibration.cases import DenseBuffer, Probe, ProbeKind
from dgc_topo.experiments.calibration.times import predict_case
from dgc_topo.experiments.calibration.trials import Observation, Trials, simulating
from dgc_topo.network.calibrated import Parameters

_BITS = 8
#: Ridge weight: a parameter e times its prior costs as much as a 1 % error in one probe.  It hardly
#: moves parameters that the probes determine; the others (such as the cost of a byte where links
#: are slow) stay near their priors.
_RIDGE_WEIGHT = 0.01
#: Buffers that pass one after the other in a run: two of a ping-pong, half of one of an exchange.
_BUFFERS_IN_A_ROW: dict[ProbeKind, float] = {"ping-pong": 2, "exchange": 0.5}

#: Change of a parameter's logarithm from which a derivative is taken; the model has kinks, so that
#: a far smaller one would tell of a kink's side only.
_CHANGE = 0.01

#: Steps for which derivatives by the parameters, not by their logarithms, stay as they are.  Times
#: are sums of costs: their slopes change only where another cost begins to decide.
_REUSED = 3
_MOST_STARTS = 4  #: of the solver, which stops early if its derivatives were old ones

MOST_STEPS = 30  #: of the solver, in all


@dataclass(frozen=True, slots=True)
class _Free:
    """Fitted parameter, and the range of its values."""

    name: str
    start: float
    lowest: float
    highest: float


_LINK = (
    _Free("goodput", 0.95, 0.3, 1.2),
    _Free("latency_bytes", 1500.0, 1.0, 20_000.0),
    _Free("reverse_share", 0.03, 1e-4, 0.3),
    _Free("burst_bytes", 500.0, 1.0, 1e6),
    _Free("burst_s", 1e-4, 1e-9, 1e-2),
)
_ENDS = (
    _Free("latency_s", 30e-6, 1e-7, 5e-3),
    _Free("overhead_s", 30e-6, 1e-7, 5e-3),
    _Free("receive_overhead_s", 30e-6, 1e-7, 5e-3),
    _Free("step_overhead_s", 30e-6, 1e-7, 5e-3),
    _Free("start_overhead_s", 30e-6, 1e-7, 5e-3),
    _Free("send_s_per_byte", 0.3e-9, 1e-12, 1e-7),
    _Free("receive_s_per_byte", 0.3e-9, 1e-12, 1e-7),
    _Free("reduce_s_per_byte", 0.2e-9, 1e-12, 1e-7),
    _Free("scale_s_per_byte", 0.2e-9, 1e-12, 1e-7),
    _Free("joint_merge_s", 5e-5, 1e-7, 5e-3),
    _Free("uncached_factor", 1.5, 1.0, 5.0),
    _Free("cache_bytes", 3e6, 1e5, 1e9),
    _Free("crowded_latency_s", 3e-5, 1e-7, 5e-3),
    _Free("crowded_overhead_s", 3e-5, 1e-7, 5e-3),
    _Free("busy_core_speed", 0.8, 0.3, 1.0),
    _Free("code_s_per_message", 1e-4, 1e-6, 1e-2),
    _Free("cold_code_s", 3e-4, 1e-6, 1e-2),
    _Free("cooling_s", 2e-3, 1e-4, 1e-1),
    _Free("merge_s_per_message", 1e-3, 1e-6, 1e-1),
    _Free("code_s_per_byte", 2e-9, 1e-12, 1e-6),
    _Free("merge_s_per_byte", 3e-9, 1e-12, 1e-6),
    _Free("sort_s_per_byte", 5e-9, 1e-12, 1e-6),
)


def fit_parameters(
    observations: Sequence[Observation], fixed: Parameters, *, most_steps: int = MOST_STEPS
) -> Parameters:
    """Return the parameters under which the simulated times are closest to the measured ones.

    Args:
        observations: Measured probes; several rates separate costs that depend on the rate from
            costs that do not.
        fixed: Values of all parameters that are not fitted: of cores and machines and, if no
            link is shaped, of links.
        most_steps: Steps of the solver, at most.

    Raises:
        ValueError: if there are no observations.
    """
    if not observations:
        raise ValueError("calibration: no probes, expected at least one")
    has_rate = any(each.rate_bits_per_s is not None for each in observations)
    free = (*_LINK, *_ENDS) if has_rate else _ENDS
    with simulating(observations) as simulate:
        misfits = _Misfits(free, observations, fixed, Trials(observations, simulate))
        logarithms = misfits.usual
        for _ in range(_MOST_STARTS):
            misfits.forget_derivatives()
            before = misfits.num_steps
            logarithms = _improved(misfits, logarithms, most_steps - before)
            if misfits.num_steps - before <= _REUSED or misfits.num_steps >= most_steps:
                break
    return misfits.parameters(logarithms)


def _improved(misfits: _Misfits, logarithms: FloatArray, most_steps: int) -> FloatArray:
    """Return better logarithms of the parameters, as far as the solver finds any."""
    solution = least_squares(
        misfits,
        logarithms,
        jac=misfits.derivatives,
        bounds=(misfits.lowest, misfits.highest),
        loss="soft_l1",  # a disturbed probe counts less
        f_scale=0.05,
        ftol=1e-4,
        xtol=1e-3,
        max_nfev=most_steps,
    )
    return np.asarray(solution.x, np.float64)


class _Misfits:
    """Residuals of the fit: log(simulated / measured) of each observation, then the ridge's.

    The ridge's residuals are the weighted distances of the parameters from the usual ones.

    Args:
        free: Fitted parameters.
        observations: Measured probes.
        fixed: Values of the other parameters.
        trials: Simulated times of the probes.

    Attributes:
        usual: Logarithms of the starting values, shape (num_free,).
        lowest: Logarithms of the lowest values, same shape.
        highest: Logarithms of the highest values, same shape.
        num_steps: Number of times that residuals were asked for.
    """

    def __init__(
        self,
        free: Sequence[_Free],
        observations: Sequence[Observation],
        fixed: Parameters,
        trials: Trials,
    ) -> None:
        self._free, self._fixed, self._trials = free, fixed, trials
        self._measured = np.log([each.time_s for each in observations])
        self.usual = np.log(_starts(free, observations))
        self.lowest = np.log([each.lowest for each in free])
        self.highest = np.log([each.highest for each in free])
        self.num_steps = 0
        self.forget_derivatives()

    def forget_derivatives(self) -> None:
        """Take the next derivatives from simulations."""
        self._by_values: FloatArray | None = None
        self._reused = 0

    def parameters(self, logarithms: FloatArray) -> Parameters:
        """Return the parameters with these logarithms, shape (num_free,)."""
        values = np.exp(logarithms).tolist()
        named = {each.name: value for each, value in zip(self._free, values, strict=True)}
        return self._fixed.model_copy(update=named)

    def __call__(self, logarithms: FloatArray) -> FloatArray:
        """Return the residuals, shape (num_observations + num_free,)."""
        self.num_steps += 1
        times_s = self._times_s([logarithms])[0]
        ridge = _RIDGE_WEIGHT * (logarithms - self.usual)
        return np.concatenate([np.log(times_s) - self._measured, ridge])

    def derivatives(self, logarithms: FloatArray) -> FloatArray:
        """Return the residuals' derivatives, shape (num_observations + num_free, num_free)."""
        values, times_s = np.exp(logarithms), self._times_s([logarithms])[0]
        if self._by_values is None or self._reused == _REUSED:
            slopes = self._slopes(logarithms)
            self._by_values, self._reused = slopes * times_s[:, None] / values, 0
        else:
            slopes = self._by_values * values / times_s[:, None]
            self._reused += 1
        return np.concatenate([slopes, _RIDGE_WEIGHT * np.eye(len(values))])

    def _slopes(self, logarithms: FloatArray) -> FloatArray:
        """Return the derivatives of the times' logarithms, shape (num_observations, num_free)."""
        change = np.where(logarithms + _CHANGE > self.highest, -_CHANGE, _CHANGE)
        times_s = self._times_s([logarithms, *(logarithms + np.diag(change))])
        slopes = (np.log(times_s[1:]) - np.log(times_s[0])) / change[:, None]
        return np.asarray(slopes.T, np.float64)

    def _times_s(self, trials: Sequence[FloatArray]) -> FloatArray:
        return self._trials.times_s([self.parameters(each) for each in trials])


def _starts(free: Sequence[_Free], observations: Sequence[Observation]) -> list[float]:
    """Return starting values; those of the links come from the largest messages.

    The model has kinks, and a solver that starts far away stops at one of them.
    """
    starts = {each.name: each.start for each in free}
    one_way = _largest("ping-pong", observations)
    if one_way is not None and "goodput" in starts:
        starts["goodput"] = min(1.0, _wire_s(one_way) / one_way.time_s)
        both_ways = _largest("exchange", observations)
        if both_ways is not None:
            slower = starts["goodput"] * both_ways.time_s / _wire_s(both_ways)
            starts["reverse_share"] = min(max(slower - 1, 1e-3), 0.3)
    return [starts[each.name] for each in free]


def _largest(kind: ProbeKind, observations: Sequence[Observation]) -> Observation | None:
    """Return the dense probe of *kind* with the most bytes at the lowest rate, or None."""
    found = [
        each
        for each in observations
        if isinstance(each.case.pattern, Probe)
        and isinstance(each.case.buffer, DenseBuffer)
        and each.case.pattern.kind == kind
        and each.rate_bits_per_s is not None
    ]
    return max(found, key=_wire_s, default=None)


def _wire_s(observation: Observation) -> float:
    """Return the seconds that the messages of one direction take on an otherwise idle link."""
    case, rate = observation.case, observation.rate_bits_per_s
    assert isinstance(case.pattern, Probe)
    assert isinstance(case.buffer, DenseBuffer)
    assert rate is not None
    return _BUFFERS_IN_A_ROW[case.pattern.kind] * case.buffer.num_bytes * _BITS / rate


def fitted_s(parameters: Parameters, observation: Observation) -> float:
    """Return the simulated seconds of an observation."""
    case, rate = observation.case, observation.rate_bits_per_s
    return predict_case(case, parameters, rate, observation.coding)
