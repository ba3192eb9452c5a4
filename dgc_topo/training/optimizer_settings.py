"""Keys of ``[train]`` for the optimizer and its learning rates."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from dgc_topo.tables.keys import in_one_line
from dgc_topo.training.learning_rates import (
    DECAYS,
    TORCH_DECAYS,
    OptionValue,
    check_decay,
)
from dgc_topo.training.own_code import TableOfCode, check_of, schema_of

SGD = "sgd"

#: Optimizers by name, and their classes in torch.optim.
OPTIMIZERS = {
    SGD: "SGD",
    "adadelta": "Adadelta",
    "adafactor": "Adafactor",
    "adagrad": "Adagrad",
    "adam": "Adam",
    "adamax": "Adamax",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "radam": "RAdam",
    "rmsprop": "RMSprop",
}

_Option = Annotated[
    OptionValue, in_one_line("a number, a text, true or false, or a list of numbers")
]

_OF_SGD = ("momentum", "nesterov", "weight_decay")
_DECAY_NAMES = (*DECAYS, *TORCH_DECAYS)


def _one_of_the_decays(name: str) -> str:
    if name not in _DECAY_NAMES:
        raise ValueError(f"{name!r}: expected one of {', '.join(_DECAY_NAMES)}")
    return name


class OptimizerKeys(TableOfCode):
    """The optimizer, its options, and learning rates over the steps."""

    optimizer: Annotated[
        str,
        AfterValidator(check_of(tuple(OPTIMIZERS))),
        Field(json_schema_extra=schema_of(tuple(OPTIMIZERS))),
    ] = Field(
        default=SGD,
        description="sgd: with momentum, as DGC has it; others are torch.optim's, or file.py:NAME, "
        "a class; below density 1 each worker takes its own step, which is compressed",
    )
    optimizer_options: dict[str, _Option] = Field(
        default_factory=dict,
        description="of the optimizer's class, such as betas and weight_decay; of sgd: none, its "
        "keys are momentum, nesterov and weight_decay",
    )
    learning_rate: float = Field(gt=0, description="before warm-up and decay")
    learning_rate_decay: Annotated[
        str,
        AfterValidator(_one_of_the_decays),
        Field(json_schema_extra={"enum": list(_DECAY_NAMES)}),
    ] = Field(
        default="constant",
        description="torch's schedulers advance once per training step; a length that is missing "
        "is that of the training",
    )
    learning_rate_options: dict[str, _Option] = Field(
        default_factory=dict,
        description="of the decay: final_factor of cosine and linear, every_epochs and factor of "
        "step, or what torch's scheduler takes",
    )
    learning_rate_warm_up_epochs: float = Field(
        default=0.0, ge=0, description="over which the rate rises linearly to what the decay says"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(default=False, description="of sgd: look ahead by the momentum")
    weight_decay: float = Field(default=0.0, ge=0, description="of sgd")
    clip_norm: float | None = Field(default=None, gt=0, description="L2 norm of the gradient")

    @property
    def is_sgd(self) -> bool:
        """True for momentum SGD, which DGC has built in."""
        return self.optimizer == SGD

    @model_validator(mode="after")
    def _options_fit_optimizer(self, info: ValidationInfo) -> Self:
        if self.is_sgd:
            if self.optimizer_options:
                raise ValueError(
                    "optimizer_options with optimizer = 'sgd': expected the keys momentum, "
                    "nesterov and weight_decay"
                )
            return self
        written = info.context is not None  # from a file: defaults were not written down
        for key in _OF_SGD:
            is_default = getattr(self, key) == type(self).model_fields[key].default
            if not is_default or (written and key in self.model_fields_set):
                raise ValueError(
                    f"{key} with optimizer = {self.optimizer!r}: is of 'sgd', expected it in "
                    "optimizer_options, if the optimizer has such an option"
                )
        if "lr" in self.optimizer_options:
            raise ValueError("optimizer_options.lr: expected the key learning_rate instead")
        return self

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov = true with momentum = 0: expected momentum above 0")
        return self

    @model_validator(mode="after")
    def _decay_has_options(self) -> Self:
        check_decay(self.learning_rate_decay, self.learning_rate_options)
        return self
