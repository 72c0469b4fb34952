"""YAML with a memory: plain data beside the file and line of every key, and files laid over one another."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Tree:
    """`data` as yaml reads it, and `marks`: path of keys -> (file, line)."""

    data: dict[str, Any]
    marks: dict[tuple[Any, ...], tuple[str, int]]

    def mark(self, path: tuple[Any, ...]) -> tuple[str, int]:
        """File and line of a path, or of the nearest mapping around it."""
        while path and path not in self.marks:
            path = path[:-1]
        return self.marks[path]

    def at(self, path: tuple[Any, ...]) -> str:
        """ "file:line" of a path; of a value that `replaced` put there, only "change of name"."""
        file, line = self.mark(path)
        return f"{file}:{line}" if line else file

    def replaced(self, path: tuple[str, ...], value: Any) -> Tree:
        """A copy with one value changed. ValueError where the path leads nowhere."""
        data = dict(self.data)
        node: Any = data
        for part in path[:-1]:  # copies the mappings on the way; no other can change
            if not isinstance(node.get(part), dict) or is_leaf(node[part]):
                raise ValueError(f"{'.'.join(path)}: no such field in {self.data.get('name')}: '{part}' is not there.")
            node[part] = dict(node[part])
            node = node[part]
        node[path[-1]] = value
        return Tree(data, {**self.marks, path: (f"change of {self.data.get('name')}", 0)})


def is_leaf(node: Any) -> bool:
    """Whether a mapping is one number with its origin: {value, source, confidence, note}."""
    return isinstance(node, dict) and "value" in node


def read_tree(text: str, file: str) -> Tree:
    """The YAML text of `file`; ValueError where it is no YAML, no mapping, or says a key twice."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{file}:{line}: is not YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: is not YAML: {error}.") from None
    if not isinstance(node, yaml.MappingNode):
        found = "empty" if node is None else "a list" if isinstance(node, yaml.SequenceNode) else "plain text"
        raise ValueError(f"{file}: is {found}. Expected a mapping of keys to values.")
    marks: dict[tuple[Any, ...], tuple[str, int]] = {(): (file, 1)}
    try:
        return Tree(_walk(node, (), file, marks), marks)
    except RecursionError:
        raise ValueError(f"{file}: holds an alias (*name) inside its own anchor. Expected a mapping that ends.") from None


def merge(under: Tree, over: Tree) -> Tree:
    """`over` laid on `under`: mappings are joined, everything else replaced."""
    return Tree(_merged(under.data, over.data), {**under.marks, **over.marks})


def _merged(under: Any, over: Any) -> Any:
    if not (isinstance(under, dict) and isinstance(over, dict)) or is_leaf(under) or is_leaf(over):
        return over
    return {**under, **{key: _merged(under[key], value) if key in under else value for key, value in over.items()}}


def _walk(node: Any, path: tuple[Any, ...], file: str, marks: dict[tuple[Any, ...], tuple[str, int]]) -> Any:
    if isinstance(node, yaml.MappingNode):
        data: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise ValueError(f"{file}:{key_node.start_mark.line + 1}: a key is a {key_node.id}. Expected text.")
            key = _scalar(key_node, file)
            if key in data:
                raise ValueError(f"{file}:{key_node.start_mark.line + 1}: key '{key}' stands here a second time.")
            marks[(*path, key)] = (file, key_node.start_mark.line + 1)
            data[key] = _walk(value_node, (*path, key), file, marks)
        return data
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            marks[(*path, i)] = (file, item.start_mark.line + 1)
        return [_walk(item, (*path, i), file, marks) for i, item in enumerate(node.value)]
    return _scalar(node, file)


def _scalar(node: Any, file: str) -> Any:
    if node.tag == "tag:yaml.org,2002:str":
        return node.value
    try:
        return yaml.constructor.SafeConstructor().construct_object(node, deep=True)
    except (ValueError, yaml.YAMLError):
        raise ValueError(f"{file}:{node.start_mark.line + 1}: {node.value!r} cannot be read as {node.tag}.") from None


class NotFoundError(ValueError):
    """No file and no bundled name; whoever asked for it adds where."""


def dotted(path: tuple[Any, ...]) -> str:
    """ "memory.bandwidth" of a path of keys."""
    return ".".join(str(part) for part in path)


def plain(tree: Tree, confidences: Collection[str], sources: Collection[str] | None = None) -> Any:
    """The data with every {value, source, ...} reduced to its value. `sources`: the names that a source may have, None for any.

    ValueError with file, line and key for a leaf that says anything else.
    """

    def walk(node: Any, path: tuple[Any, ...]) -> Any:
        if is_leaf(node):
            _check_leaf(tree, node, path, confidences, sources)
            return node["value"]
        if isinstance(node, dict):
            return {key: walk(value, (*path, key)) for key, value in node.items()}
        if isinstance(node, list):
            return [walk(value, (*path, i)) for i, value in enumerate(node)]
        return node

    return walk(tree.data, ())


def _check_leaf(tree: Tree, leaf: dict[str, Any], path: tuple[Any, ...], confidences: Collection[str],
                sources: Collection[str] | None) -> None:
    for key in leaf:
        if key not in ("value", "source", "confidence", "note"):
            raise ValueError(f"{tree.at((*path, key))}: {dotted(path)}: unknown field {key!r}. "
                             "Expected value, source, confidence or note.")
    confidence, source = leaf.get("confidence"), leaf.get("source")
    if confidence is not None and confidence not in confidences:
        raise ValueError(f"{tree.at((*path, 'confidence'))}: {dotted(path)}: confidence {confidence!r}. "
                         f"Expected one of {', '.join(confidences)}.")
    if source is not None and not isinstance(source, str):
        raise ValueError(f"{tree.at((*path, 'source'))}: {dotted(path)}: source {source!r} is not text.")
    if source and sources is not None and source not in sources:
        raise ValueError(f"{tree.at((*path, 'source'))}: {dotted(path)}: source {source!r} is not in sources.")


def extended(where: str, find: Callable[[str, Path | None], tuple[str, str, Path | None]], base: Path | None = None,
             chain: tuple[str, ...] = ()) -> Tree:
    """The tree of a file laid over what it extends. `find` gives text, name for messages and folder (None: bundled) of a name or path.

    NotFoundError where the chain closes on itself or `find` finds nothing; ValueError with file and line for the rest.
    """
    text, file, folder = find(where, base)
    identity = file if folder is None else str(Path(file).resolve())
    if identity in chain:
        loop = " -> ".join(Path(f).stem for f in (*chain, identity))
        raise NotFoundError(f"{where!r} extends itself ({loop}). Expected a chain that ends.")
    tree = read_tree(text, file)
    parent = tree.data.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise ValueError(f"{tree.at(('extends',))}: extends: {parent!r} is not text. Expected a bundled name or a path.")
    try:
        under = extended(parent, find, folder, (*chain, identity))
    except NotFoundError as error:
        raise ValueError(f"{tree.at(('extends',))}: extends: {error}") from None
    if "name" not in tree.data:
        raise ValueError(f"{tree.at(())}: name is missing. A file that extends another needs a name of its own.")
    return merge(under, tree)
