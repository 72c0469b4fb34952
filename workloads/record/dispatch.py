"""The recorder: every operator that torch runs on meta tensors, with the module in which it ran and who wrote what it reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from . import aten
from .graph import BOOKKEEPING, DTYPES, Graph, Node, Tensor

OURS = torch.library.Library("gemvane", "FRAGMENT")
OURS.define("attention(Tensor q, Tensor k, Tensor v, bool causal, int window) -> Tensor")
OURS.define("append(Tensor keys, Tensor values) -> ()")
OURS.define("mixer(Tensor x, str kind, int[] numbers, int width) -> Tensor")
OURS.impl("attention", lambda q, k, v, causal, window: q.new_empty((*q.shape[:-1], v.shape[-1])), "Meta")
OURS.impl("append", lambda keys, values: None, "Meta")
OURS.impl("mixer", lambda x, kind, numbers, width: x.new_empty((*x.shape[:-1], width)), "Meta")
"""Operators that stand for many: attention on [batch, heads, tokens, width], an append to a cache, the inside of a mixer."""


def sentence(error: Exception) -> str:
    """The first sentence of an error that another library raised, with its type."""
    text = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
    return f"{type(error).__name__}{': ' + text if text else ''}."


class RecordingError(ValueError):
    """One sentence: which operator, where, and why."""


class Recorder(TorchDispatchMode):
    """Records the operators that run inside it. `paused` lets operators run unseen."""

    def __init__(self, name: str, weights: list[torch.Tensor]) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.paused = False
        self._where: list[tuple[str, str]] = [("", name)]
        """Module paths and classes from the outermost in; an activation has its parent's, whose chain of work it belongs to."""
        self._places = [name]
        self._alive: dict[int, torch.Tensor] = {}
        self._ids: dict[int, int] = {}
        self._source: dict[int, int] = {}
        self._whole: dict[int, int] = {}
        self._static: set[int] = set()
        self._state: set[int] = set()
        self._next = 0
        for tensor in weights:
            ident = self._name(tensor)
            self._static.add(ident)
            self._state.add(ident)

    @property
    def place(self) -> str:
        """The module that runs now, and its class."""
        return self._places[-1]

    def given(self, tensors: list[torch.Tensor]) -> None:
        """These tensors come from outside: a copy into one of them is an append to what the model keeps."""
        self._state.update(self._name(tensor) for tensor in tensors)

    def graph(self, results: list[torch.Tensor]) -> Graph:
        """What was recorded, of a pass that gave back `results`."""
        return Graph(self.nodes, frozenset(self._see(tensor).source for tensor in results))

    @contextmanager
    def hooked(self, model: torch.nn.Module) -> Iterator[None]:
        """Module paths follow the model's forward calls while this lasts."""
        with ExitStack() as stack:
            for path, module in model.named_modules():
                pre, post = self._hooks(path, module)
                stack.callback(module.register_forward_pre_hook(pre).remove)
                stack.callback(module.register_forward_hook(post).remove)
            yield

    def _hooks(self, path: str, module: torch.nn.Module) -> tuple[Any, Any]:
        name = type(module).__name__
        leaf = not any(True for _ in module.children()) and not any(True for _ in module.parameters())
        here = None if leaf and "norm" not in name.lower() else (path, name)

        def pre(module: torch.nn.Module, args: Any) -> None:
            self._where.append(here or self._where[-1])
            self._places.append(f"{path} ({name})" if path else name)

        def post(module: torch.nn.Module, args: Any, out: Any) -> None:
            self._where.pop()
            self._places.pop()

        return pre, post

    @contextmanager
    def inside(self, path: str, module: str) -> Iterator[None]:
        """Operators run in this module while this lasts (for graphs whose modules are gone)."""
        self._where.append((path, module))
        self._places.append(f"{path} ({module})" if path else module)
        try:
            yield
        finally:
            self._where.pop()
            self._places.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.paused:
            return func(*args, **(kwargs or {}))
        packet = func._overloadpacket.__name__
        try:
            out = func(*args, **(kwargs or {}))
        except (RuntimeError, NotImplementedError) as error:
            raise RecordingError(f"operator {func.namespace}.{packet} in {self.place} does not run on shapes alone: "
                               f"{sentence(error)}") from error
        if func.namespace == "prim":
            return out
        self._record(func, packet, args, kwargs or {}, out)
        return out

    def _record(self, func: Any, packet: str, args: Any, kwargs: Any, out: Any) -> None:
        reads = _tensors(args) + (_tensors(tuple(kwargs.values())) if kwargs else [])
        writes = [out] if isinstance(out, torch.Tensor) else _tensors(out)
        in_place = packet.endswith("_") and not packet.endswith("__")
        op = packet.rstrip("_") if in_place else packet
        work = op if func.namespace == "gemvane" else aten.work(op, torch.Tag.pointwise in func.tags)
        if work is None and all(_dtype(t) in BOOKKEEPING for t in (*reads, *writes)):
            work = "vector"
        if work is None and any(not self._see(t).static for t in reads):
            raise RecordingError(f"operator {func.namespace}.{packet} in {self.place} is none that the recorder knows.")
        if work in ("alias", "part") and reads:
            self._view(reads[0], writes, work == "part")
            return
        seen = tuple(map(self._see, reads))
        if all(t.static for t in seen) and work != "append":
            for tensor in writes:
                self._static.add(self._name(tensor))
            return
        if in_place and op in ("copy", "index_copy", "index_put") and self._kept(reads[0]):
            self._append(op, seen[1:], [reads[0]])
            return
        if op == "cat" and self._lengthens(args, kwargs, reads):
            self._append(op, tuple(t for t, read in zip(seen, reads, strict=True) if not self._kept(read)), writes)
            return
        self._write(work or "vector", op, seen, writes, self._facts(work, op, args, kwargs, seen))

    def _facts(self, work: str | None, op: str, args: Any, kwargs: Any, seen: tuple[Tensor, ...]) -> dict[str, Any]:
        if work == "attention":
            return {"causal": args[3], "window": args[4]}
        if work == "mixer":
            return {"kind": args[1], "numbers": tuple(args[2])}
        if work == "conv":
            return {"groups": args[8], "transposed": args[6]}
        if work == "product":
            first, second = aten.PRODUCTS[op]
            return {"operands": tuple(self._see(args[i]) for i in (first, second))}
        if work == "fft":
            return {"dims": tuple(args[1])}
        return {}

    def _lengthens(self, args: Any, kwargs: Any, reads: list[torch.Tensor]) -> bool:
        """Whether a concatenation adds tokens to a cache [.., tokens, width] that the model was given."""
        dim, rank = (args[1] if len(args) > 1 else kwargs.get("dim", 0)), reads[0].dim()
        kept = [self._kept(tensor) and not self._see(tensor).static for tensor in reads]
        return rank > 2 and dim % rank == rank - 2 and any(kept) and not all(kept)

    def _append(self, op: str, seen: tuple[Tensor, ...], into: list[torch.Tensor]) -> None:
        """A copy into what the model keeps: what is written is what was computed, not the whole cache."""
        written = tuple(t for t in seen if not t.static and t.dtype not in BOOKKEEPING)
        if written:
            self._write("append", op, written, into, {})

    def _write(self, work: str, op: str, seen: tuple[Tensor, ...], writes: list[torch.Tensor], facts: dict[str, Any]) -> None:
        number = len(self.nodes)
        for tensor in writes:
            ident: int | None = self._name(tensor)
            while ident is not None:  # a part that is written changes the whole
                self._source[ident] = number
                self._static.discard(ident)
                ident = self._whole.get(ident)
        path, module = self._where[-1]
        self.nodes.append(Node(work, op, path, module, seen, tuple(map(self._see, writes)), (number,), facts))

    def cached(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """These hold what was appended last."""
        for tensor in (keys, values):
            self._source[self._name(tensor)] = len(self.nodes) - 1

    def _kept(self, tensor: torch.Tensor) -> bool:
        ident: int | None = self._name(tensor)
        while ident is not None:
            if ident in self._state:
                return True
            ident = self._whole.get(ident)
        return False

    def _view(self, base: torch.Tensor, views: list[torch.Tensor], part: bool) -> None:
        ident = self._name(base)
        for view in views:
            if not part or view.numel() == base.numel():
                self._alive[id(view)] = view
                self._ids[id(view)] = ident
                continue
            mine = self._name(view)
            self._whole[mine] = ident
            self._source[mine] = self._source.get(ident, -1)
            if ident in self._static:
                self._static.add(mine)

    def _name(self, tensor: torch.Tensor) -> int:
        """Number of a tensor, which is kept alive so that Python gives its address to no other."""
        key = id(tensor)
        if key not in self._ids:
            self._alive[key] = tensor
            self._ids[key] = self._next
            self._next += 1
        return self._ids[key]

    def _see(self, tensor: torch.Tensor) -> Tensor:
        ident = self._name(tensor)
        return Tensor(ident, self._source.get(ident, -1), tuple(tensor.shape), _dtype(tensor), ident in self._static)


class Attention(TorchFunctionMode):
    """Turns torch's scaled_dot_product_attention into our operator, before torch takes it apart."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "").partition(".")[0] == "scaled_dot_product_attention":
            return attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None, dropout_p: float = 0.0,
           is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> torch.Tensor:
    """scaled_dot_product_attention as one operator. A mask that is a tensor hides nothing: its values are not known here."""
    lead, batch = query.shape[:-3], query.shape[:-3].numel()
    q, k, v = (t.reshape(batch, *t.shape[-3:]) for t in (query, key.expand(*lead, *key.shape[-3:]), value.expand(*lead, *value.shape[-3:])))
    out: torch.Tensor = torch.ops.gemvane.attention(q, k, v, is_causal, 0)
    return out.reshape(*lead, *out.shape[-3:])


def _tensors(args: Any) -> list[torch.Tensor]:
    out = []
    for value in args if isinstance(args, (tuple, list)) else ():
        if isinstance(value, torch.Tensor):
            out.append(value)
        elif isinstance(value, (tuple, list)):
            out.extend(_tensors(value))
    return out


def _dtype(tensor: torch.Tensor) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    return DTYPES.get(name, name)
