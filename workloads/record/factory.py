"""What is recorded by its name: package.module:factory, a saved program, an ONNX file."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from ..scenario import Scenario
from . import FILES, check, record
from .recorded import Recording

FACTORY = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")


def is_recorded(model: Any) -> bool:
    """Whether a model is one to record: a name of a factory or file, or an object that is no name at all."""
    if isinstance(model, Path):
        return model.suffix in FILES
    return not isinstance(model, str) or Path(model).suffix in FILES or FACTORY.fullmatch(model) is not None


def recorded(model: Any, inputs: Any, scenario: Scenario) -> Recording:
    """The recording of a model that `is_recorded`."""
    found = FACTORY.fullmatch(model) if isinstance(model, str) else None
    if found is None:
        return record(model, inputs, scenario)
    check(scenario)
    made = _called(model, found[1], found[2])
    built, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    return record(built, example, scenario, name=model)


def _called(text: str, module: str, name: str) -> Any:
    """What the factory returns, called where new tensors have shapes only; modules are looked for in the current folder too."""
    try:
        import torch

        from .dispatch import sentence
    except ModuleNotFoundError:
        raise ValueError(f"model {text!r} is recorded with torch. Say `pip install 'gemvane[record]'`.") from None
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(module), name, None)
        if not callable(factory):
            raise ValueError(f"model {text!r}: {module} has no function {name}.")
        with torch.device("meta"):
            return factory()
    except ModuleNotFoundError as error:
        raise ValueError(f"model {text!r}: there is no module {error.name}, neither installed nor in {here}.") from None
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"model {text!r}: {name}() fails: {sentence(error)}") from error
    finally:
        sys.path.remove(here)
