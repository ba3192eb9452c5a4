"""What is trained, and how: ``[train]``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from dgc_topo.scenario.step import Section
from dgc_topo.topology import OptionValue

DatasetName = Literal[
    "fashion-mnist-subset", "fashion-mnist", "austen", "cifar10", "cifar100", "image-folder"
]
ModelName = Literal["cnn", "mlp", "resnet20", "resnet56", "resnet110", "char-lstm"]


class TrainSection(Section):
    """What is trained, on how many worker processes."""

    dataset: DatasetName
    data_path: Path | None = Field(default=None, description="folder of a data set of your own")
    model: ModelName
    options: dict[str, OptionValue] = Field(
        default_factory=dict, description="of model and task, such as hidden_size, augment, bptt"
    )
    world_size: int = Field(ge=1, le=1024, description="ranks, dedicated servers included")
    batch_size_per_worker: int = Field(ge=1)
    epochs: int = Field(ge=1)
    max_steps_per_epoch: int | None = Field(default=None, ge=1, description="for quick trials")
    learning_rate: float = Field(gt=0)
    learning_rate_decay: Literal["constant", "cosine"] = "constant"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float | None = Field(default=None, gt=0, description="L2 norm of the gradient")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    workers: Literal["processes", "virtual"] = Field(
        default="processes",
        description="virtual: all in one process, with the same results but no times of a cluster",
    )
    timeout_s: float = Field(default=60.0, gt=0, description="a silent peer is an error after this")

    @model_validator(mode="after")
    def _dataset_fits_model(self) -> Self:
        if (self.dataset == "austen") != (self.model == "char-lstm"):
            raise ValueError(
                f"model {self.model!r} cannot learn {self.dataset!r}: 'char-lstm' is for text "
                "('austen'), the other models are for images"
            )
        return self
