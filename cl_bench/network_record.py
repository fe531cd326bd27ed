"""What is known of a network when a task begins, in its training and when it ends, class by class too; the numbers that
records have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

LARGEST = 1e30
"""What is beyond is no measurement, and its square would be no number."""

Accuracy = Annotated[float, Ge(0), Le(1)] | None
Measured = Annotated[float, Ge(-LARGEST), Le(LARGEST)] | None
Cost = Annotated[float, Ge(0), Le(LARGEST)]
Count = Annotated[int, Ge(0), Le(10**18)]


@dataclass(frozen=True)
class Evaluation:
    """How right a learner was, again and again, while it learned a task.

    on: test images, or validation images. tasks: which are looked at; None for the one test set that all tasks share.
    points: (steps of the phase that were done, accuracy on each of these tasks); of many points some.
    """

    on: str
    tasks: list[Count] | None
    points: Sequence[tuple[Count, Sequence[Accuracy]]]


@dataclass(frozen=True)
class Phase:
    """One training of one network.

    phase: its name. steps: mini-batches. optimizer_steps: of each optimizer. losses: the last value of each number that
    was logged. validation: (step, accuracy on validation images). online_accuracy: on the task's images, each before
    the step that learned it for the first time; None where no classifier was trained. stream: (images that came since
    the run began, accuracy on what came), where a stream is measured while it is learned. evaluation: of all tasks so
    far meanwhile, where that was asked for.
    """

    phase: str
    steps: Count
    optimizer_steps: list[Count]
    seconds: Cost
    losses: dict[str, float]
    validation: list[tuple[Count, float]]
    online_accuracy: Accuracy = None
    stream: list[tuple[Count, Measured]] | None = None
    evaluation: Evaluation | None = None

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Phase:
        """The phase that `dataclasses.asdict` was given."""
        found = fields.get("evaluation")
        return cls(**{**fields, "evaluation": found and Evaluation(**found)})


@dataclass(frozen=True)
class Capacity:
    """A network of which tasks reserve parts, when a task ends and before it grows. Lists have a value for each layer.

    of: what is counted, units or weights. new: reserved by this task. reused: of past tasks, open to this one too.
    reserved: by any task. size, size_worst: of all layers, and had every task added what there was at first.
    parameters: numbers of the network. weights, weights_used, weights_free: between units, of this task, of nobody.
    """

    layers: list[str]
    of: Literal["units", "weights"]
    total: list[Count]
    new: list[Count]
    reused: list[Count]
    reserved: list[Count]
    free: list[Count]
    size: Count
    size_worst: Count
    parameters: Count | None = None
    weights: list[Count] | None = None
    weights_used: list[Count] | None = None
    weights_free: list[Count] | None = None

    def __post_init__(self) -> None:
        values = (self.total, self.new, self.reused, self.reserved, self.free)
        if any(len(of_layers) != len(self.layers) for of_layers in values):
            raise ValueError("has not a value for each layer")


PLASTICITY = ("online_accuracy", "dead_units", "effective_rank", "weight_magnitude")
"""Numbers of each task that say how well a network still learns: see `TaskRecord.of_plasticity`."""


@dataclass(frozen=True)
class Plasticity:
    """What a network brings along for a task, looked at on images of it before it learns them. Lists have a value for
    each hidden layer, see `evaluation.plasticity`.

    images: looked at. units: of each layer. dead: those that give 0 for all of these images. effective_rank: of what
    the units give. weight_magnitude: mean |w| over the weights, without biases.
    """

    images: Count
    units: list[Count]
    dead: list[Count]
    effective_rank: list[Measured]
    weight_magnitude: Measured

    @property
    def dead_units(self) -> float | None:
        """The share of all hidden units that is dead."""
        return sum(self.dead) / sum(self.units) if sum(self.units) else None

    @property
    def mean_rank(self) -> float | None:
        """The mean effective rank of the hidden layers."""
        ranks = [rank for rank in self.effective_rank if rank is not None]
        return sum(ranks) / len(ranks) if ranks and len(ranks) == len(self.effective_rank) else None


@dataclass(frozen=True)
class Generated:
    """What generated images are worth, see `evaluation.judge`; lists have a value for each output.

    n: images asked of each class. images: that came. features: of which network FID is. judge_accuracy: on real images.
    """

    n: Count
    images: list[Count]
    FID: list[Measured]
    FID_mean: Measured
    features: str
    MeRGAN_score: list[Accuracy]
    MeRGAN_score_mean: Accuracy
    judge_accuracy: Accuracy
    seconds: Cost


@dataclass(frozen=True)
class MemoryUse:
    """What is kept of the past, comparable between methods: real images and their bytes, or the bytes of a generator,
    as many images as they would hold, and the bytes of the raw images of all tasks so far, in two types."""

    images: Count
    bytes: Count
    generator_bytes: Count | None = None
    raw_bytes_uint8: Count | None = None
    raw_bytes_float32: Count | None = None


@dataclass(frozen=True)
class ByClass:
    """What was answered to the test images of the tasks so far.

    accuracy: on the images of each output; None where there are none. confusion: how many images of each class (row)
    were taken for each class (column). per_row: neighboring classes that share a row and a column, 1 but for many.
    """

    accuracy: list[Accuracy]
    confusion: list[list[Count]] | None = None
    per_row: Count = 1
