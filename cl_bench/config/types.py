"""Numbers with their ranges, as constructors name them; the schema of the YAML files is made of these."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

Positive = Annotated[int, Gt(0), Le(10**9)]
Side = Annotated[int, Gt(0), Le(1024)]
Rate = Annotated[float, Gt(0), Le(1e30)]  # what is beyond no float32 holds
NonNegative = Annotated[float, Ge(0), Le(1e30)]
Share = Annotated[float, Ge(0), Le(1)]
Decay = Annotated[float, Ge(0), Lt(1)]
