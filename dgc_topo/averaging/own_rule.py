"""Rules of the user's own: one class in one Python file, with options as topologies have them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args, get_origin

from pydantic import PydanticUserError, ValidationError, create_model

from dgc_topo.averaging.rule import (
    ALL_REDUCE,
    Averaging,
    Every,
    LeftOut,
    Participation,
    RuleCode,
)
from dgc_topo.python_files import CodeError, LoadedFile, load_file
from dgc_topo.schedule import Goal
from dgc_topo.tables.explain import explain
from dgc_topo.text import name_of
from dgc_topo.topology_options import OptionValue

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Goals of topologies that a rule may be over.
_GOALS: tuple[Goal, ...] = ("all-reduce", "doubly-stochastic", "column-stochastic")


#: Types of the options that every rule has.
_COMMON: Mapping[str, Any] = {
    "every": Every,
    "participation": Participation,
    "left_out": LeftOut,
}
_RESERVED = frozenset({*dir(Averaging), *Averaging.__annotations__, "folder", "digest"})


class AveragingRule:
    """Base of an averaging rule of the user's own: one class in a file, found by the file's name.

    Options are class attributes with a type and a default; ``mine.py:pull=0.5`` sets one.  Every
    rank has an object of its own.  Its optimizer moves its `parameters`; in every H-th step
    (``every``), `send` is called, what it returns is averaged, and `receive` gets the average::

        class Pull(dt.AveragingRule):
            every: int = 10
            pull: float = 0.5

            def send(self):
                return self.parameters

            def receive(self, mean):
                for name, parameter in self.parameters.items():
                    parameter.lerp_(mean[name], self.pull)

    No gradients are recorded in these methods.  Facts of the class that are no options have no
    type: write ``moves_first = False``.

    Attributes:
        over: Goals of the topologies that it takes.  Over an all-reduce an average is the mean
            over the ranks that train, over gossip the mixture with the neighbours'.
        moves_first: True if the rank's own optimizer moves the parameters before `send`; False
            after `receive`, as in D-PSGD.
        alike: Kinds of the state that all ranks of an all-reduce hold alike, such as a
            centre.  Ranks that are left out of an exchange get them when they come back.
        compresses: True if it takes densities below 1: of the changes that `send` returns, by the
            parameters' names, the largest are sent, and what is left is added to the next ones.
            Over all-reduces only.
        vectors: Vectors of the model's size in what `send` returns, for predictions.
        extra_elements: Numbers beside them.
        parameters: The rank's own, by name; change them in place.
        num_workers: Ranks that train.
        state: What lasts: numbers, and tensors by name in a dictionary per kind, made in `start`.
            It is in checkpoints.  With another number of workers all begin with the mean of the
            parameters, and of each tensor in here.
    """

    over: ClassVar[tuple[Goal, ...]] = ("all-reduce", "doubly-stochastic")
    moves_first: ClassVar[bool] = True
    alike: ClassVar[tuple[str, ...]] = ()
    compresses: ClassVar[bool] = False
    vectors: ClassVar[int] = 1
    extra_elements: ClassVar[int] = 0

    # Set before `start`; no options, as they are those of the base class.
    parameters: Mapping[str, nn.Parameter]
    num_workers: int
    state: dict[str, Any]

    def start(self) -> None:
        """Make the state; the parameters are the same on all ranks now."""

    def send(self) -> Mapping[str, Tensor]:
        """Return the tensors to average, by name: the same names and shapes on all ranks."""
        raise NotImplementedError

    def receive(self, mean: Mapping[str, Tensor]) -> None:
        """Use the averages, by the names of `send`; float32, in memory of their own."""
        raise NotImplementedError

    def evaluated(self) -> Mapping[str, Tensor]:
        """Return the rank's part of the model that is evaluated: the mean over ranks of these."""
        return self.parameters

    def renew(self) -> None:
        """Forget what is known of other ranks: some were lost, or other parameters are trained."""


class OwnAveraging(Averaging):
    """Base of the values of rules that are in files of the user's own."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it; the class is found again by its file."""
        assert self.code is not None
        return own_averaging, (self.code.name, dict(self.options), self.code.folder)


def own_averaging(
    name: str, options: Mapping[str, object], folder: str | Path = "", digest: str | None = None
) -> Averaging:
    """Return the rule in the file *name*, with options.

    Args:
        name: Path of the file; a relative one begins in *folder*.
        options: The rule's own, and ``every``.
        folder: The current one by default.
        digest: Fingerprint that the file's text must have; any by default.

    Raises:
        CodeError: if there is no such file, no rule in it, or an option that it does not take.
    """
    what = f"averaging {name!r}"
    found = load_file(what, name, folder, digest=digest)
    kind = _rule_in(what, found)
    relative = "" if Path(name).is_absolute() else str(folder)
    value = _value_of(what, RuleCode(name, relative, found.digest, kind))
    try:
        return value.model_validate(dict(options))
    except ValidationError as error:
        said = explain(dict(error.errors()[0]), value)
        raise CodeError(f"{what}: {said}") from error


def found_anywhere(averaging: Averaging) -> Averaging:
    """Return an equal rule whose text form names its file in whatever folder one stands."""
    code = averaging.code
    if code is None:
        return averaging
    path = str(Path(code.folder, code.name).absolute())
    return own_averaging(path, averaging.options, digest=code.digest)


def identified(averaging: Averaging) -> str:
    """Return a rule's text form, with the fingerprint of its file if it is the user's own."""
    code = averaging.code
    return str(averaging) if code is None else f"{averaging} (text {code.digest})"


def place_of(kind: Any) -> str:
    """Return ``FILE:LINE`` of a class or function in a user's file."""
    return f"{inspect.getfile(kind)}:{inspect.getsourcelines(kind)[1]}"


def _rule_in(what: str, found: LoadedFile) -> type[AveragingRule]:
    """Return the one rule that a file defines."""
    own = [
        value
        for value in vars(found.module).values()
        if isinstance(value, type) and value.__module__ == found.module.__name__
    ]
    rules = [kind for kind in own if issubclass(kind, AveragingRule)]
    # A base of another rule in the file is none itself.
    rules = [kind for kind in rules if not any(kind in other.__mro__[1:] for other in rules)]
    if len(rules) != 1:
        listed = ", ".join(each.__name__ for each in rules or own) or "no classes"
        raise CodeError(
            f"{what}: {found.path} has {listed}, expected one class that derives from "
            "dgc_topo.AveragingRule"
        )
    return rules[0]


@lru_cache(maxsize=256)  # one class per file and text, so that equal rules are equal
def _value_of(what: str, code: RuleCode) -> type[OwnAveraging]:
    """Return the type of the values of a rule of the user's own."""
    kind, place = code.kind, f"{what}: {place_of(code.kind)}: class {code.kind.__name__}"
    goals = _checked_facts(place, kind)
    options: dict[str, Any] = {
        name: (_COMMON.get(name, hint), default)
        for name, (hint, default) in _options_of(place, kind).items()
    }
    facts = {
        "rule": code.name,
        "goals": goals,
        "sends": "changes" if kind.compresses else "parameters",
        "code": code,
        **{each: getattr(kind, each) for each in ("moves_first", "compresses")},
        **{each: getattr(kind, each) for each in ("vectors", "extra_elements")},
        "alike_vectors": len(kind.alike),
    }
    try:
        base = type("OwnFacts", (OwnAveraging,), {**facts, "__module__": __name__})
        make: Any = create_model  # of which type checkers make a class of their own
        value: type[OwnAveraging] = make("OwnRule", __base__=base, **options)
        value.model_validate({name: default for name, (_, default) in options.items()})
    except ValidationError as error:
        raise CodeError(f"{place}: default {explain(dict(error.errors()[0]), value)}") from error
    except (PydanticUserError, NameError, TypeError) as error:
        raise CodeError(
            f"{place}: its options cannot be read: {name_of(error)}, expected numbers, texts, "
            "true or false"
        ) from error
    return value


def _options_of(place: str, kind: type[AveragingRule]) -> dict[str, tuple[Any, OptionValue]]:
    """Return the types and defaults of a rule's options by name."""
    found: dict[str, tuple[Any, OptionValue]] = {}
    for each in reversed(kind.__mro__[: kind.__mro__.index(AveragingRule)]):
        try:
            hints = inspect.get_annotations(each, eval_str=True)
        except Exception as error:
            raise CodeError(
                f"{place}: its types cannot be read: {name_of(error)}, expected names that the "
                "file imports"
            ) from error
        for name, hint in hints.items():
            if ClassVar in {hint, get_origin(hint)}:
                continue
            if name in AveragingRule.__annotations__:
                raise CodeError(f"{place}: {name} has a type, expected {name} = ... without one")
            found[name] = hint, _default_of(place, each, name, hint)
    return found


def _default_of(place: str, kind: type, name: str, hint: Any) -> Any:
    """Return the default of an option, checked."""
    if name in _RESERVED - _COMMON.keys():
        raise CodeError(f"{place}: option {name}, which every rule has, expected another name")
    if name not in vars(kind):
        raise CodeError(f"{place}: option {name} has no default, expected one")
    default = vars(kind)[name]
    if type(default) not in {str, int, float, bool} and type(None) not in get_args(hint):
        raise CodeError(
            f"{place}: option {name} = {default!r}, expected a number, a text, True or False"
        )
    return default


def _checked_facts(place: str, kind: type[AveragingRule]) -> frozenset[Goal]:
    """Return the goals of the topologies that a rule takes; refuse facts that make no sense."""
    for name, arguments in (("send", "self"), ("receive", "self, mean")):
        if getattr(kind, name) is getattr(AveragingRule, name):
            raise CodeError(f"{place} has no method {name}, expected def {name}({arguments})")
    expected = {bool: "True or False", int: "a whole number from 0"}
    for name in ("moves_first", "compresses", "vectors", "extra_elements"):
        value, wanted = getattr(kind, name), type(getattr(AveragingRule, name))
        if type(value) is not wanted or value < 0:
            raise CodeError(f"{place}: {name} = {value!r}, expected {expected[wanted]}")
    given: Any = kind.over
    over = frozenset((given,) if isinstance(given, str) else given)
    if not over or over - set(_GOALS):
        listed = ", ".join(map(repr, _GOALS))
        raise CodeError(f"{place}: over = {kind.over!r}, expected some of {listed}")
    names: Any = kind.alike
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise CodeError(
            f"{place}: alike = {kind.alike!r}, expected names, as in alike = ('centre',)"
        )
    if kind.compresses:
        _check_compressed(place, kind, over)
    return over


def _check_compressed(place: str, kind: type[AveragingRule], over: frozenset[Goal]) -> None:
    if over != ALL_REDUCE:
        raise CodeError(
            f"{place}: compresses = True with over = {kind.over!r}, expected over = "
            "('all-reduce',): a part of a mixture has no meaning"
        )
    if (kind.vectors, kind.extra_elements) != (1, 0):
        raise CodeError(f"{place}: compresses = True, expected vectors = 1 and no extra_elements")
