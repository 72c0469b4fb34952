"""A tree of YAML against a pydantic model: the checked object, or every fault in a sentence with file, line, key, value and wish."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from .yamltree import Tree, dotted


class FaultyFileError(ValueError):
    """A file that does not say what it should; `problems` has every fault, one sentence each."""

    def __init__(self, message: str, problems: tuple[str, ...]) -> None:
        super().__init__(message)
        self.problems = problems


def validated(model: Any, tree: Tree, data: Any, what: str, more: str) -> Any:
    """`data`, which is the tree or a plainer form of it, as an instance of the pydantic model.

    Raises FaultyFileError; `what` is what such a file is called, `more` says where to find the faults beyond the first.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = sorted((_problem(model, tree, what, e) for e in error.errors()), key=lambda p: p[0])
        others = f" ({len(problems) - 1} more like this{more})" if len(problems) > 1 else ""
        raise FaultyFileError(problems[0][1] + others, tuple(text for _, text in problems)) from None


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """" (did you mean 'x'?)", or nothing where nothing is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _problem(model: Any, tree: Tree, what: str, error: Any) -> tuple[tuple[bool, str, int], str]:
    """Sort key (a misspelt key comes before the missing one that it causes) and sentence of one pydantic error."""
    path, siblings = _path_in_file(tree, error["loc"])
    file, line = tree.mark(path)
    where, key = tree.at(path), dotted(path)
    kind, got = error["type"], error.get("input")
    if kind == "extra_forbidden":
        known = _known_keys(model, error["loc"])
        wish = "" if nearest(str(path[-1]), known) else f" Known fields: {', '.join(known)}."
        text = f"{where}: {key}: unknown field '{path[-1]}'{nearest(str(path[-1]), known)}.{wish}"
    elif kind == "missing":
        near = nearest(path[-1], [s for s in siblings if s not in _known_keys(model, error["loc"])])
        text = f"{where}: {key} is missing{near}. Every {dotted(path[:-1]) or what} needs it."
    elif kind in ("literal_error", "union_tag_invalid"):
        expected = error["ctx"].get("expected") or error["ctx"].get("expected_tags")
        value = got.get("kind") if kind == "union_tag_invalid" and isinstance(got, dict) else got
        text = f"{where}: {key}: {value!r} is not known here. Expected one of {expected}."
    elif kind == "union_tag_not_found":
        text = f"{where}: {key}.kind is missing. Expected one of {', '.join(_tags(model, error['loc']))}."
    elif kind == "value_error":
        said = error["msg"].removeprefix("Value error, ")
        inner = (*path, *said.split()[0].rstrip(":").split("."))
        if inner in tree.marks:  # a check of several fields begins with the one that is at fault
            file, line = tree.marks[inner]
            text = f"{tree.at(inner)}: {dotted((*path, said))}"
        else:
            text = f"{where}: {key}: {said}"
    else:
        text = f"{where}: {key}: {got!r}: {error['msg'][0].lower()}{error['msg'][1:]}."
    return (kind == "missing", file, line), text


def _path_in_file(tree: Tree, loc: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[str]]:
    """The keys of an error as they stand in the file (pydantic adds the tag of a union and [key])."""
    node, path = tree.data, []
    for part in loc:
        if part == "[key]":
            break
        inside = (isinstance(node, dict) and part in node) or (isinstance(node, list) and isinstance(part, int))
        if not inside and isinstance(node, dict) and node.get("kind") == part:
            continue
        path.append(part)
        if not inside:
            break
        node = node[part]
    parent: Any = tree.data
    for part in path[:-1]:
        parent = parent[part]
    return tuple(path), list(parent) if isinstance(parent, dict) else []


def _known_keys(model: Any, loc: tuple[Any, ...]) -> list[str]:
    """Fields of the mapping in which an unknown or missing key was met."""
    found = _inside(model, loc[:-1])
    return list(found.model_fields) if isinstance(found, type) and issubclass(found, BaseModel) else []


def _tags(model: Any, loc: tuple[Any, ...]) -> list[str]:
    """The kinds among which a union chooses."""
    return [tag for member in _members(_inside(model, loc)) for tag in _kinds(member)]


def _inside(annotation: Any, loc: tuple[Any, ...]) -> Any:
    """The type that stands at the end of a path of keys and union tags."""
    for part in loc:
        members = _members(annotation)
        tagged = [member for member in members if part in _kinds(member)]
        if tagged:
            annotation = tagged[0]
            continue
        inner = next((m for m in members if m is not type(None)), None)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            field = inner.model_fields.get(str(part))
            annotation = field.annotation if field else None
        else:
            annotation = get_args(inner)[-1] if get_origin(inner) in (dict, list) else None
    present = [m for m in _members(annotation) if m is not type(None)]
    return present[0] if len(present) == 1 else annotation


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, and of anything else itself."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    is_plain = isinstance(annotation, type) or get_origin(annotation) in (dict, list, Literal, None)
    return (annotation,) if is_plain else get_args(annotation)


def _kinds(member: Any) -> tuple[str, ...]:
    """The words that `kind` may say in a member of a union."""
    is_model = isinstance(member, type) and issubclass(member, BaseModel) and "kind" in member.model_fields
    return get_args(member.model_fields["kind"].annotation) if is_model else ()
