"""gemvane: latency and energy of transformer inference on hardware that exists, or does not exist yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Hardware", "Result", "Scenario", "Trace", "__version__", "compare", "estimate_kernel", "estimate_kernels", "frame",
           "hardware", "record", "run", "search", "sweep", "trace"]

if TYPE_CHECKING:
    from gemvane.api import (
        Hardware,
        Result,
        Scenario,
        Trace,
        compare,
        estimate_kernel,
        estimate_kernels,
        frame,
        hardware,
        record,
        run,
        search,
        sweep,
        trace,
    )


def __getattr__(name: str) -> Any:
    """Load the interface on first use, so that `gemvane --help` starts without numpy."""
    if name in __all__:
        from gemvane import api

        return getattr(api, name)
    raise AttributeError(f"module 'gemvane' has no attribute {name!r}")
