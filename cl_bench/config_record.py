"""What results.json holds of a configuration: the keys that are read by name, and what they may be."""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict  # pydantic asks for it below Python 3.12

from cl_bench.network_record import Count


class Choices(TypedDict):
    """The names that were chosen for the groups of the configuration."""

    method: str
    dataset: str
    scenario: str
    experiment: NotRequired[str | None]


class CameFrom(TypedDict):
    """The run that another one continues, see `config.came_from`."""

    dataset: str
    key: str
    tasks: Count
    digest: str
    seed: NotRequired[Count]


Group = dict[str, Any] | None


class Config(TypedDict):
    """What is read of a configuration by name; the rest of it may be anything that JSON can hold."""

    seed: Count
    choices: Choices
    method: dict[str, Any]
    scenario: dict[str, Any]
    dataset: NotRequired[dict[str, Any]]
    features: NotRequired[Group]
    network: NotRequired[Group]
    optimizer: NotRequired[Group]
    scheduler: NotRequired[Group]
    trainer: NotRequired[dict[str, Any]]
    memory: NotRequired[Group]
    content: NotRequired[str | list[Any]]
    weights: NotRequired[dict[str, str]]
    came_from: NotRequired[CameFrom]
    continue_from: NotRequired[str | None]
    reference: NotRequired[str | list[str] | None]
