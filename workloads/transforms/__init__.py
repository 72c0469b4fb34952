"""Techniques that change a workload, one file each: a ModelSpec and a Scenario in, changed ones out."""

from __future__ import annotations

from difflib import get_close_matches

from ..scenario import Scenario
from ..spec import ModelSpec
from .allpairs import AllPairs
from .base import Transform
from .blocksparse import BlockSparse
from .cache import Evict, TopKeys
from .context import Context
from .decoding import AllAtOnce, BigLittle, Blockwise, MultiToken, Speculative
from .dropattention import DropAttention
from .elastic import EarlyExit, Elastic, ElasticDraft
from .expertparallel import ExpertParallel
from .factor import Factor
from .fourier import Fourier
from .globallocal import GlobalLocal
from .lazy import Lazy
from .linear import LinearAttention
from .linformer import LowRankKeys
from .lut import LookUp
from .monarch import Monarch
from .nearest import Nearest
from .norm import RmsNorm
from .pad import Pad
from .prune import Reduce
from .quantise import Quantise, SplitProducts
from .resize import Resize
from .shared import CacheOnce, Latent
from .shiftadd import ShiftAdd
from .statespace import StateSpace
from .unprojected import Unprojected
from .window import Window

__all__ = ["TRANSFORMS", "Transform", "applied", "parse"]

TRANSFORMS: dict[str, type[Transform]] = {kind.NAME: kind for kind in (
    Quantise, SplitProducts, Evict, TopKeys, CacheOnce, Latent, Speculative, BigLittle, Blockwise, MultiToken, AllAtOnce, Elastic,
    ElasticDraft, EarlyExit,
    Window, BlockSparse, Nearest, LowRankKeys, LinearAttention, StateSpace, Fourier, Monarch, AllPairs, Unprojected, DropAttention,
    GlobalLocal, Reduce, Pad, Lazy, LookUp, ShiftAdd, Factor, RmsNorm, Resize, Context, ExpertParallel,
)}
"""By the name that is written in scenarios and on the command line."""


def parse(text: str) -> Transform:
    """A transform from NAME or NAME:KEY=VALUE,KEY=VALUE. ValueError names what is unknown and what was wanted."""
    name, _, arguments = text.partition(":")
    if name not in TRANSFORMS:
        close = get_close_matches(name, TRANSFORMS, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(f"transform {name!r} is unknown. Expected one of {', '.join(TRANSFORMS)}.{hint}")
    return TRANSFORMS[name].parse(arguments)


def applied(spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario, tuple[Transform, ...]]:
    """The workload after the scenario's transforms, one after another in their order, without them in its scenario; and the transforms.

    ValueError for an unknown transform, for two that contradict each other, and for one that the workload has no use for.
    """
    transforms = tuple(parse(text) for text in scenario.transforms)
    groups: dict[str, str] = {}
    for transform in transforms:
        group = transform.GROUP or transform.NAME
        if group in groups:
            raise ValueError(f"transforms {groups[group]} and {transform.NAME} contradict each other. Expected one of the two.")
        groups[group] = transform.NAME
    scenario = scenario.but(transforms=())
    for transform in transforms:
        spec, scenario = transform.apply(spec, scenario)
    return spec, scenario, transforms
