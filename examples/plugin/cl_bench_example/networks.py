"""torchvision's residual networks, with a first layer for small images."""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from cl_bench.config import Positive


class TorchvisionResNet(nn.Module):
    """A ResNet of two-layer blocks (He et al., 2016) whose first convolution keeps the side.

    Args:
        image_shape: (C, H, W) of the images, in [0, 1].
        n_outputs: logits.
        blocks: residual blocks in each of the four stages; 2 each make ResNet-18.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_outputs: int,
        *,
        blocks: tuple[Positive, Positive, Positive, Positive],
    ) -> None:
        super().__init__()
        self.features = ResNet(BasicBlock, list(blocks))
        width = self.features.fc.in_features
        self.features.conv1 = nn.Conv2d(image_shape[0], 64, 3, padding=1, bias=False)
        self.features.maxpool, self.features.fc = nn.Identity(), nn.Identity()
        self.head = nn.Linear(width, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))
