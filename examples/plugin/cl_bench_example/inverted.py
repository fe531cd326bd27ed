"""A scenario of two tasks: the images, and then their negatives."""

import torch
from torch import Tensor

from cl_bench.data.batches import Data
from cl_bench.data.datasets import Dataset
from cl_bench.data.problem import Problem, Task
from cl_bench.data.scenarios import Scenario


def inverted(dataset: Dataset) -> Scenario:
    """Domain-incremental: both tasks have all classes, on the same outputs."""
    outputs = tuple(range(dataset.n_classes))
    shape = tuple(dataset.x_train.shape[1:])
    problem = Problem("domain", shape, (outputs, outputs), class_names=dataset.class_names)
    tasks, tests = [], []
    for index, view in enumerate((Tensor.clone, Tensor.bitwise_not)):  # 255 - x, of bytes
        train = Data(view(dataset.x_train), dataset.y_train, _all(index, dataset.y_train))
        tasks.append(Task(index, dataset.class_names, train, val=train[torch.arange(0)]))
        tests.append(Data(view(dataset.x_test), dataset.y_test, _all(index, dataset.y_test)))
    return Scenario(problem, tasks, tests)


def _all(index: int, labels: Tensor) -> Tensor:
    """The task of each image."""
    return torch.full_like(labels, index, dtype=torch.int16)
