"""A network with frozen, pretrained features. Only its head is trained."""

from __future__ import annotations

from cl_bench.config import InputError, Side
from cl_bench.networks.backbones import Backbone
from cl_bench.networks.base import Network


class Pretrained(Network):
    """head(frozen features). The features are computed in every step, so images may be augmented.

    Args:
        image_shape: (C, H, W); gray or color.
        n_outputs: see `Network`. mean and std of a data set are not used: the backbone has its own.
        backbone, weights, size: see `Backbone`.

    Raises InputError for images with other channels than 1 or 3, and as `Backbone`.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        n_outputs: int,
        *,
        backbone: str,
        weights: str | None = None,
        size: Side | None,
    ) -> None:
        if image_shape[0] not in (1, 3):
            raise InputError(
                f"network=pretrained: needs gray or color images, and these have {image_shape[0]} channels; on "
                "features choose network=linear or network=mlp"
            )
        features = Backbone("network", backbone, weights, size)
        super().__init__([features], features.try_out(image_shape), n_outputs)
