"""Advice: the ways to train a model on a network that are worth considering, with intervals."""

from dgc_topo.experiments.advice.advice import Advice
from dgc_topo.experiments.advice.advising import advice_for, advise
from dgc_topo.experiments.advice.sources import work_of
from dgc_topo.experiments.advice.ways import TrainingWay

__all__ = ["Advice", "TrainingWay", "advice_for", "advise", "work_of"]
