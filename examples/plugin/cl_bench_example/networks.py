"""torchvision's residual networks, with a first layer for small images."""

from collections.abc import Sequence

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from cl_bench.config import Positive
from cl_bench.networks.base import Network


class TorchvisionResNet(Network):
    """A ResNet of two-layer blocks (He et al., 2016) whose first convolution keeps the side.

    Args:
        image_shape: (C, H, W).
        n_outputs, mean, std: see `Network`.
        blocks: residual blocks in each of the four stages; 2 each make ResNet-18.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_outputs: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        *,
        blocks: tuple[Positive, Positive, Positive, Positive],
    ) -> None:
        resnet = ResNet(BasicBlock, list(blocks))
        width = resnet.fc.in_features
        resnet.conv1 = nn.Conv2d(image_shape[0], 64, 3, padding=1, bias=False)
        resnet.maxpool, resnet.fc = nn.Identity(), nn.Identity()
        super().__init__([resnet], width, n_outputs, mean, std)
