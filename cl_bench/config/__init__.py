"""From YAML to checked objects: the errors that a person sees and the types that a constructor names."""

from cl_bench.config.errors import InputError, KnownError, NotApplicable, Stopped
from cl_bench.config.types import Decay, NonNegative, Positive, Rate, Share, Side

__all__ = [
    "Decay",
    "InputError",
    "KnownError",
    "NonNegative",
    "NotApplicable",
    "Positive",
    "Rate",
    "Share",
    "Side",
    "Stopped",
]
