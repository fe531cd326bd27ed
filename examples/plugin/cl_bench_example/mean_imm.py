"""Mean-IMM (Lee et al., 2017): the weights after a task are a mean of the old and the new ones."""

import torch

from cl_bench.config import Share
from cl_bench.data.problem import Problem, Task
from cl_bench.methods.base import Classifier, Fit
from cl_bench.networks.base import Network
from cl_bench.networks.optimizers import Optimizer


class MeanIMM(Classifier):
    """theta_t = (1 - share) theta_{t-1} + share theta*_t, theta*_t the weights that training on task t ends with.

    Args:
        share: of the new weights, in [0, 1]; higher learns more and forgets more, 1 is fine-tuning.
    """

    def __init__(self, problem: Problem, network: Network, optimizer: Optimizer, *, share: Share) -> None:
        super().__init__(problem, network, optimizer)
        self.share = share

    def learn(self, task: Task, fit: Fit) -> None:
        before = [weight.detach().clone() for weight in self.weights.values()]
        super().learn(task, fit)
        if task.index > 0:
            with torch.no_grad():
                for weight, old in zip(self.weights.values(), before, strict=True):
                    weight.lerp_(old, 1 - self.share)
