"""A recording folded into a Trace: one row a matrix product, attention call, norm, rotary embedding or chain of element-wise work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..ops import CODE, SHAPE, derive
from ..trace import Block, Requests, Trace
from .emit import Asked, Group, Row, emit
from .graph import BOOKKEEPING, Graph, Node

LAYER = re.compile(r"(?:^|(?<=\.))\d+(?=\.|$)")


def fold(graph: Graph, asked: Asked, requests: Requests) -> Trace:
    """The rows in the order of the recording, each after those that wrote what it reads. Products of one input by several weights
    of one module are one product; what nothing reads is left out."""
    nodes = join_appends(merge_siblings(routed(graph.nodes)))
    readers = _readers(nodes)
    op = {node.numbers[0]: node.work if node.work in ("vector", "move") else node.op for node in nodes}
    sums = _Rows(asked)
    for members in runs(nodes):
        escaping = _escaping(members, readers, graph.results)
        outside = {number for node in escaping for n in node.numbers for number in readers.get(n, ())}
        sums.add(Group(members, escaping, frozenset(map(op.__getitem__, outside))))
    return sums.trace(requests)


def routed(nodes: list[Node]) -> list[Node]:
    """Grouped products with the number of experts that the router before them chose for each token."""
    out, top_k = [], 1
    for node in nodes:
        if node.op == "topk":
            top_k = node.writes[0].width
        out.append(replace(node, facts={**node.facts, "top_k": top_k}) if node.op == "_grouped_mm" else node)
    return out


def merge_siblings(nodes: list[Node]) -> list[Node]:
    """Products of the same input by weights that differ in n alone, in children of one module, as one: query, key and value; gate
    and up. They stand where the first one stood."""
    first: dict[Any, int] = {}
    out: list[Node | None] = list(nodes)
    for i, node in enumerate(nodes):
        key = _sibling_key(node)
        if key is None:
            continue
        if key not in first:
            first[key] = i
            continue
        leader = out[first[key]]
        assert leader is not None
        x, w = leader.facts["operands"]
        n = w.shape[-1] + node.facts["operands"][1].shape[-1]
        out[first[key]] = replace(leader, path=f"{leader.path}+{node.path.rpartition('.')[2]}", writes=leader.writes + node.writes,
                                  numbers=leader.numbers + node.numbers, facts={"operands": (x, w._replace(shape=(*w.shape[:-1], n)))})
        out[i] = None
    return [node for node in out if node is not None]


def _sibling_key(node: Node) -> tuple[Any, ...] | None:
    if node.work != "product" or node.op == "_grouped_mm":
        return None
    x, w = node.facts["operands"]
    parent = node.path.rpartition(".")[0]
    return (parent, x.id, x.source, x.shape, w.shape[:-1]) if w.static and not x.static and parent else None


def join_appends(nodes: list[Node]) -> list[Node]:
    """Keys and values that one module appends one after the other, as one append."""
    out: list[Node] = []
    for node in nodes:
        last = out[-1] if out else None
        if last is not None and node.work == last.work == "append" and node.path == last.path and node.op == last.op:
            out[-1] = replace(last, reads=last.reads + node.reads, writes=last.writes + node.writes, numbers=last.numbers + node.numbers)
        else:
            out.append(node)
    return out


def runs(nodes: list[Node]) -> Iterator[list[Node]]:
    """Element-wise work that follows on one another in one module, and every other operator by itself. Work that only makes indices
    and masks is left out."""
    run: list[Node] = []
    for node in nodes:
        chained = node.work in ("vector", "move")
        countable = node.op in ("topk", "argmax") or any(t.dtype not in BOOKKEEPING for t in node.writes)
        if not countable and (chained or node.work == "moved"):
            continue
        if run and not (chained and run[-1].path == node.path):
            yield run
            run = []
        if chained:
            run.append(node)
        else:
            yield [node]
    if run:
        yield run


def _readers(nodes: list[Node]) -> dict[int, set[int]]:
    """Number of a node -> numbers of the nodes that read what it wrote."""
    out: dict[int, set[int]] = {}
    for node in nodes:
        for tensor in node.reads:
            out.setdefault(tensor.source, set()).add(node.numbers[0])
    return out


def _escaping(members: list[Node], readers: dict[int, set[int]], results: frozenset[int]) -> tuple[Node, ...]:
    """Members whose result is read outside the group, or is the model's."""
    own = {number for node in members for number in node.numbers}
    return tuple(node for node in members if any(n in results or readers.get(n, own) - own for n in node.numbers))


class _Rows:
    """The rows so far, and who wrote what."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.rows: list[Row] = []
        self.names: dict[str, int] = {}
        self.preds: list[list[int]] = []
        self.behind: dict[int, list[int]] = {}
        """Number of a node -> rows that its result waits for: its own, or where it has none, those before it."""
        self.layers: dict[str, int] = {}
        self.layer = -1

    def add(self, group: Group) -> None:
        numbers = [number for node in group.members for number in node.numbers]
        sources = {t.source for node in group.members for t in node.reads} - set(numbers)
        before = sorted({row for source in sources for row in self.behind.get(source, ())})
        made = emit(group, self.asked)
        if made is None:
            self.behind.update({number: before for number in numbers})
            return
        suffix, kind, row = made
        path = group.members[0].path
        name = LAYER.sub("*", ".".join(part for part in (path, suffix) if part), count=1) or group.members[0].module
        self.rows.append({**Block.DEFAULTS, **row, "kind": CODE[kind], "layer": self._layer(path),
                          "name": self.names.setdefault(name, len(self.names))})
        self.preds.append(before)
        self.behind.update({number: [len(self.rows) - 1] for number in numbers})

    def _layer(self, path: str) -> int:
        """Layers are counted in the order in which they run; what runs between layers belongs to the next, as -1 does to the first."""
        found = LAYER.search(path)
        if found is None:
            return len(self.layers) if self.layers else -1
        return self.layers.setdefault(path[: found.end()], len(self.layers))

    def trace(self, requests: Requests) -> Trace:
        table = np.array([[row[c] for c in SHAPE] for row in self.rows], np.int64).reshape(-1, len(SHAPE))
        ptr = np.cumsum([0, *map(len, self.preds)])
        idx = np.array([row for before in self.preds for row in before], np.int64)
        rows = derive({c: np.ascontiguousarray(table[:, i]) for i, c in enumerate(SHAPE)})
        return Trace(rows, tuple(self.names), ptr, idx, requests)

