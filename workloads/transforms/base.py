"""What a transform is, and how it is written on the command line: NAME or NAME:KEY=VALUE,KEY=VALUE."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import Field, dataclass, fields
from difflib import get_close_matches
from typing import ClassVar, Self

from ..scenario import Scenario
from ..spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Transform(ABC):
    """A technique that changes what is computed. Subclasses are frozen dataclasses whose fields are the technique's parameters."""

    NAME: ClassVar[str]
    SOURCE: ClassVar[str]
    """The paper that describes the technique."""
    GROUP: ClassVar[str] = ""
    """Transforms of one group say different things of the same matter, so a workload takes one of them."""

    @abstractmethod
    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        """The changed workload. ValueError, one sentence, for a model or scenario without what the technique changes."""

    def __str__(self) -> str:
        """As it is written, every parameter said."""
        said = ",".join(f"{field.name}={str(getattr(self, field.name)).lower()}" for field in fields(self))
        return f"{self.NAME}:{said}" if said else self.NAME

    @property
    @abstractmethod
    def changes(self) -> str:
        """What it changes, with its numbers."""

    @property
    def assumes(self) -> str:
        """What no model can tell and is taken for given, with its numbers; empty for nothing."""
        return ""

    @classmethod
    def parse(cls, arguments: str) -> Self:
        """From "keep=0.1,layers=2". ValueError names the parameter, its value and what was wanted."""
        known = {field.name: field for field in fields(cls)}
        given: dict[str, int | float | str | bool] = {}
        for item in filter(None, arguments.split(",")):
            key, equals, text = item.partition("=")
            if not equals or key not in known:
                close = get_close_matches(key, known, 1)
                hint = f" Did you mean {close[0]}?" if close else ""
                raise ValueError(f"{cls.NAME}: parameter {key!r} is unknown. Expected {cls.usage()}.{hint}")
            if key in given:
                raise ValueError(f"{cls.NAME}: parameter {key} is given twice.")
            given[key] = _value(f"{cls.NAME}: {key}", text, known[key])
        return cls(**given)

    @classmethod
    def usage(cls) -> str:
        """The transform with its parameters and their defaults, as it is written."""
        parameters = ",".join(f"{field.name}={field.default}" for field in fields(cls))
        return f"{cls.NAME}:{parameters}" if parameters else cls.NAME

    def wrong(self, parameter: str, wanted: str) -> ValueError:
        """The error for a parameter out of its range."""
        return ValueError(f"{self.NAME}: {parameter} is {getattr(self, parameter)!r}. Expected {wanted}.")


def _value(where: str, text: str, field: Field[object]) -> int | float | str | bool:
    """`text` as what the field's default is. Every parameter has a default, so that its name alone can be written."""
    default = field.default
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ValueError(f"{where} is {text!r}. Expected true or false.")
        return text == "true"
    if isinstance(default, str):
        return text
    kind, wish = (int, "a whole number") if isinstance(default, int) else (float, "a number")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{where} is {text!r}. Expected {wish}.") from None
