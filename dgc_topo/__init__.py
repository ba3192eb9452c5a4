"""dgc-topo: one schedule per topology, proved, run on real wires, and predicted at any scale.

    import dgc_topo as dt

Topologies: what is sent to whom, in which step
    load_topology     a Topology by name or file: "ring", "gossip:graph=torus", "mine.py"
    known_topologies  names of all installed topologies
    Topology          a topology's name and options; it builds schedules
    Schedule          steps of transfers between ranks
    reduce, copy      transfers of all-reduces: add to what the receiver has, or replace it
    mix, gather       transfers of gossip: weigh what arrives; several arrivals at one rank
    without           gossip among the ranks that are left when others are lost
    weighted          all-reduces in which contributions count unequally, as unequal batches do
    animate           a schedule's steps, played in a notebook or in a page
    prove             a Proof of what a topology computes, or an error that says where it goes wrong

Networks and predictions
    load_cluster      a Cluster by name or file: "1gbe", "lab.toml", "file.toml:name"
    known_fabrics     names of all fabrics
    simulate          a Simulation: the time of one collective on a cluster
    load_workload     a Workload by a model's name or from a module: a worker's training step
    known_models      names of all models in the zoo
    simulate_step     a StepSimulation: the time of one training step on a cluster

    advise            Advice: the ways to train a model on a network, and which to choose

Many predictions
    sweep             a Sweep: all combinations of lists and ranges of settings, as one frame
    spread            a range of numbers, such as bandwidths from 100 Mbit/s to 100 Gbit/s
    Sweep             its records, with pictures and findings; Sweep.load reads them from a folder

Training
    DGC               Deep Gradient Compression of a module's gradients
    DGCConfig         its settings
    TernGrad          another compressor: three values per element
    RandomK           another compressor: random elements
    all_reduce        the sum of a tensor or a payload over all ranks, over any topology
    load_averaging    an Averaging rule by its text form: "diloco:every=50"
    known_averagings  names of all averaging rules
    Averaging         a rule and its options: what is averaged, and how often
    AveragingRule     base of a rule of one's own, one class in a file: "mine.py:every=50"
    launch            a function on N workers of this machine, from a notebook or a script
    DistributedOptimizer  any torch.optim.Optimizer, made to train together with other ranks
    compress_fsdp     shards inside a machine (FSDP2), DGC between machines
    save, load        checkpoints of one's own loop: models, optimizers, compressors, values
    has_checkpoint    True if there is one to load
    hook              DDP's gradients over any topology, compressed by DGC: a communication hook
    HookState         its settings and state, for model.register_comm_hook(state, dt.hook)

    open_logs         callbacks that log every step: CSV, TensorBoard, Weights & Biases
    StepInfo          facts about a step, for them

Experiments
    run               a scenario: train, predict and report
    load_scenario     a Scenario from its file
    load_results      the Results in a folder, as tables and pandas frames
    Measurement       one record of results, measured or predicted

Each name is loaded when it is first used; torch, pandas and matplotlib come only with names that
need them.  The command line is ``dgc-topo``.  ``help(dt.simulate)`` and the like say the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from dgc_topo import old_names

if TYPE_CHECKING:
    from dgc_topo.averaging import Averaging, AveragingRule, known_averagings, load_averaging
    from dgc_topo.compression.config import DGCConfig
    from dgc_topo.compression.dgc import DGC
    from dgc_topo.compression.random_k import RandomK
    from dgc_topo.compression.terngrad import TernGrad
    from dgc_topo.experiments.advice import Advice, advise
    from dgc_topo.experiments.scenario import Scenario, load_scenario
    from dgc_topo.experiments.sweep import spread
    from dgc_topo.logs.callbacks import StepInfo
    from dgc_topo.logs.opening import open_logs
    from dgc_topo.network import known_fabrics
    from dgc_topo.network.cluster import Cluster, load_cluster
    from dgc_topo.proof import Proof, prove
    from dgc_topo.records.measurement import Measurement
    from dgc_topo.report.animation import animate
    from dgc_topo.report.results import Results, load_results, run
    from dgc_topo.report.sweep.results import Sweep, sweep
    from dgc_topo.runtime import all_reduce
    from dgc_topo.schedule import Schedule, copy, gather, mix, reduce, weighted
    from dgc_topo.simulation import Simulation, Workload, load_workload, simulate
    from dgc_topo.simulation.training import StepSimulation, simulate_step
    from dgc_topo.survivors import without
    from dgc_topo.topology import Topology, known_topologies, load_topology
    from dgc_topo.training.checkpoints.objects import has_checkpoint, load, save
    from dgc_topo.training.hooks.ddp.hook import hook
    from dgc_topo.training.hooks.ddp.hook_state import HookState
    from dgc_topo.training.hooks.fsdp.compress import compress_fsdp
    from dgc_topo.training.optimizer.distributed import DistributedOptimizer
    from dgc_topo.workers.launching import launch
    from dgc_topo.zoo import known_models

    __version__: str

#: Module of each name of the front door.
_HOMES = {
    "Averaging": "dgc_topo.averaging",
    "AveragingRule": "dgc_topo.averaging",
    "Advice": "dgc_topo.experiments.advice",
    "Cluster": "dgc_topo.network.cluster",
    "DGC": "dgc_topo.compression.dgc",
    "DGCConfig": "dgc_topo.compression.config",
    "DistributedOptimizer": "dgc_topo.training.optimizer.distributed",
    "HookState": "dgc_topo.training.hooks.ddp.hook_state",
    "Measurement": "dgc_topo.records.measurement",
    "Proof": "dgc_topo.proof",
    "RandomK": "dgc_topo.compression.random_k",
    "Results": "dgc_topo.report.results",
    "Scenario": "dgc_topo.experiments.scenario",
    "Schedule": "dgc_topo.schedule",
    "Simulation": "dgc_topo.simulation",
    "StepInfo": "dgc_topo.logs.callbacks",
    "StepSimulation": "dgc_topo.simulation.training",
    "Sweep": "dgc_topo.report.sweep.results",
    "TernGrad": "dgc_topo.compression.terngrad",
    "Topology": "dgc_topo.topology",
    "Workload": "dgc_topo.simulation",
    "advise": "dgc_topo.experiments.advice",
    "all_reduce": "dgc_topo.runtime",
    "animate": "dgc_topo.report.animation",
    "compress_fsdp": "dgc_topo.training.hooks.fsdp.compress",
    "copy": "dgc_topo.schedule",
    "gather": "dgc_topo.schedule",
    "has_checkpoint": "dgc_topo.training.checkpoints.objects",
    "hook": "dgc_topo.training.hooks.ddp.hook",
    "known_averagings": "dgc_topo.averaging",
    "known_fabrics": "dgc_topo.network",
    "known_models": "dgc_topo.zoo",
    "known_topologies": "dgc_topo.topology",
    "launch": "dgc_topo.workers.launching",
    "load": "dgc_topo.training.checkpoints.objects",
    "load_averaging": "dgc_topo.averaging",
    "load_cluster": "dgc_topo.network.cluster",
    "load_results": "dgc_topo.report.results",
    "load_scenario": "dgc_topo.experiments.scenario",
    "load_topology": "dgc_topo.topology",
    "load_workload": "dgc_topo.simulation",
    "mix": "dgc_topo.schedule",
    "open_logs": "dgc_topo.logs.opening",
    "prove": "dgc_topo.proof",
    "reduce": "dgc_topo.schedule",
    "run": "dgc_topo.report.results",
    "save": "dgc_topo.training.checkpoints.objects",
    "simulate": "dgc_topo.simulation",
    "simulate_step": "dgc_topo.simulation.training",
    "spread": "dgc_topo.experiments.sweep",
    "sweep": "dgc_topo.report.sweep.results",
    "weighted": "dgc_topo.schedule",
    "without": "dgc_topo.survivors",
}

__all__ = [
    "DGC",
    "Advice",
    "Averaging",
    "AveragingRule",
    "Cluster",
    "DGCConfig",
    "DistributedOptimizer",
    "HookState",
    "Measurement",
    "Proof",
    "RandomK",
    "Results",
    "Scenario",
    "Schedule",
    "Simulation",
    "StepInfo",
    "StepSimulation",
    "Sweep",
    "TernGrad",
    "Topology",
    "Workload",
    "advise",
    "all_reduce",
    "animate",
    "compress_fsdp",
    "copy",
    "gather",
    "has_checkpoint",
    "hook",
    "known_averagings",
    "known_fabrics",
    "known_models",
    "known_topologies",
    "launch",
    "load",
    "load_averaging",
    "load_cluster",
    "load_results",
    "load_scenario",
    "load_topology",
    "load_workload",
    "mix",
    "open_logs",
    "prove",
    "reduce",
    "run",
    "save",
    "simulate",
    "simulate_step",
    "spread",
    "sweep",
    "weighted",
    "without",
]

old_names.install()


def __getattr__(name: str) -> object:
    """Load a name of the front door when it is first used (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - takes a while

        found: object = version("dgc-topo")
    elif name in _HOMES:
        found = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'dgc_topo' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the names of the front door."""
    return sorted([*__all__, "__version__"])
