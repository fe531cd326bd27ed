"""Images that are computed: nothing to download."""

import torch
from torch import Tensor

from cl_bench.config import Positive
from cl_bench.data.datasets import Dataset


def stripes(*, per_class: Positive) -> Dataset:
    """Noisy gray 8x8 images of four classes: stripes of two widths, across and down.

    Args:
        per_class: training images of each class; a quarter as many to test on, one at least.
    """
    generator = torch.Generator().manual_seed(0)  # the same images in every run
    x_train, y_train = _images(per_class, generator)
    x_test, y_test = _images(max(1, per_class // 4), generator)
    names = ("thin, across", "thin, down", "wide, across", "wide, down")
    return Dataset("stripes", x_train, y_train, x_test, y_test, n_classes=4, class_names=names)


def _images(per_class: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    labels = torch.arange(4).repeat(per_class)
    rows = torch.arange(8).view(1, 8, 1).expand(len(labels), 8, 8)
    rows = torch.where((labels % 2 == 0).view(-1, 1, 1), rows, rows.transpose(1, 2))
    width = (1 + labels // 2).view(-1, 1, 1)
    shift = torch.randint(0, 4, (len(labels), 1, 1), generator=generator)
    noise = torch.randint(0, 100, rows.shape, generator=generator)
    bright = (rows + shift) // width % 2
    return (noise + 150 * bright).to(torch.uint8).unsqueeze(1), labels
