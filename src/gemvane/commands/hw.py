"""gemvane hw"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from gemvane import output
from gemvane.sim import area, devices, hardware, policies
from gemvane.sim.hardware import Hardware
from gemvane.sim.mapping import choices
from gemvane.sim.schema import HardwareSpec
from gemvane.sim.units import show as shown
from gemvane.sim.yamlcheck import FaultyFileError
from gemvane.sim.yamltree import read_tree

PREFERRED = ("bf16", "fp16", "int8", "fp32")
"""The number type whose peak is shown in the list."""

NEW = """\
# {name}: what stands here replaces what {base} says; everything else stays as it is there.
# All numbers and their sources: gemvane hw show {file}        Is this file in order: gemvane hw check {file}
extends: {extends}
schema_version: 1
name: {name}
description: {base} with changes
sources:
  mine: {{cite: "say where your numbers come from", confidence: guess}}
memory:
{memory}
"""
MEMORY = ("capacity", "bandwidth", "pins", "pin_rate")
TOLD = {"source": "source code", "memory": "from memory"}
"""Confidences in more words than the files have."""


def list_all(json: bool) -> None:
    """Every bundled hardware."""
    devices = sorted((hardware.load(name) for name in hardware.names()), key=lambda d: (_order(d), d.name))
    rows = [_facts(device) for device in devices]
    if json:
        output.show_json({"hardware": rows})
        return
    from gemvane.render import glued, table

    out = table("kind", "name", "peak", "bandwidth", "memory", "TDP", "description", right=("peak", "bandwidth", "memory", "TDP"))
    out.columns[1].no_wrap = True
    for i, row in enumerate(rows):
        first = i == 0 or rows[i - 1]["kind"] != row["kind"]
        last = i + 1 == len(rows) or rows[i + 1]["kind"] != row["kind"]
        operation = "OP/s" if row["peak_dtype"].startswith("int") else "FLOP/s"
        written = devices[i].provenance
        texts = [written[key].text if key in written else "-" for key in ("memory.bandwidth", "memory.capacity", "power.tdp")]
        cells = (row["kind"] if first else "", row["name"], f"{shown(row['peak_op_s'], operation)} {row['peak_dtype']}", *texts,
                 row["description"])
        out.add_row(*map(glued, cells), end_section=last)
    output.show(out)


def _order(device: Hardware) -> int:
    return ("gpu", "tpu", "npu", "npu-pim", "gpu-pim", "cpu").index(device.spec.kind)


def _facts(device: Hardware) -> dict[str, Any]:
    spec = device.spec
    peaks: dict[str, int] = {}
    for unit in spec.units.values():
        for dtype, rate in (getattr(unit, "tensor_peak", None) or getattr(unit, "peak", None) or {}).items():
            peaks[dtype] = peaks.get(dtype, 0) + rate
    dtype = next((d for d in PREFERRED if d in peaks), next(iter(peaks), ""))
    return {"name": spec.name, "kind": spec.kind, "description": spec.description, "peak_op_s": peaks.get(dtype, 0), "peak_dtype": dtype,
            "peaks_op_s": peaks, "memory_bandwidth_bytes_s": spec.memory.bandwidth, "memory_capacity_bytes": spec.memory.capacity,
            "memory_technology": spec.memory.technology, "tdp_w": spec.power.tdp}


def show(name: str, json: bool) -> None:
    """Every number of one hardware."""
    device = hardware.load(name)
    numbers = _numbers(device)
    if json:
        output.show_json(_facts(device) | {"units": {unit: made.kind for unit, made in device.spec.units.items()},
                                           "mapping": choices(device), "policies": policies.named(device),
                                           "area_mm2": area.parts(device), "numbers": numbers})
        return
    from gemvane.render import facts, glued, table, trust

    spec = device.spec
    units = ", ".join(name if name == unit.kind else f"{name} ({unit.kind})" for name, unit in spec.units.items())
    open_to = {" or ".join(units): units for units in choices(device).values()}
    mapping = "; ".join(f"{', '.join(work for work, on in choices(device).items() if on == units)} on {names}"
                        for names, units in open_to.items())
    policy = f"sub-batches: {spec.schedule.sub_batches}, {spec.schedule.partition}"
    policy += "; stages end together" if spec.schedule.barriers == "stage" else ""
    policy += f"; PIM beside other traffic: {spec.schedule.contention}" if any(u.kind == "pim" for u in spec.units.values()) else ""
    policy += "".join(f"; only one at a time of {' and '.join(group)}" for group in spec.schedule.exclusive)
    out = table("number", "value", "trust", "source", right=("value",))
    group = ""
    for key, number in numbers.items():
        head = ".".join(key.split(".")[:2]) if key.startswith(("units.", "energy.")) else key.split(".")[0]
        if group and head != group:
            out.add_section()
        group = head
        trusted = TOLD.get(number["confidence"], number["confidence"] or "-")
        out.add_row(key, glued(number["value"]), trusted, glued(number["source"] or "-"))
    output.show(facts([("hardware", f"{spec.name} ({spec.kind}): {spec.description}"), ("units", units), ("mapping", mapping),
                       ("schedule", policy), *_area(device), ("numbers", trust(device))]), "", out)


def _area(device: Hardware) -> list[tuple[str, str]]:
    """The lines on area, where it can be told."""
    whole, dram = area.total(device), area.dram_share(device)
    if whole is None:
        return []
    parts = ", ".join(f"{name} {part.mm2:.0f}" for name, part in area.parts(device).items())
    more = f"; second row buffers add {100 * dram:.1f} % to the DRAM dies" if dram else ""
    return [("area", f"about {whole.mm2:.0f} mm2 ({whole.low:.0f} .. {whole.high:.0f}) without control and network: {parts}{more}")]


def _numbers(device: Hardware) -> dict[str, dict[str, Any]]:
    """Every number by its dotted key: as written, with source, confidence, file and line; prices of the energy table included."""
    out = {key: {"value": p.text, "source": p.cite, "confidence": p.confidence, "file": p.file, "line": p.line}
           for key, p in device.provenance.items()}
    where = f"hw_configs/energy/{device.spec.energy.table}.yaml"
    tree = read_tree((files("gemvane.hw_configs") / "energy" / f"{device.spec.energy.table}.yaml").read_text(encoding="utf-8"), where)
    sources = tree.data.get("sources", {})
    for action, price in tree.data["prices"].items():
        source = sources.get(price.get("source"), {})
        line = tree.mark(("prices", action))[1]
        out.setdefault(f"energy.prices.{action}", {
            "value": price["value"], "source": source.get("cite"), "confidence": price.get("confidence", source.get("confidence")),
            "file": where, "line": line})
    return out


def check(file: str, json: bool) -> None:
    """List every problem of a file, or say that there is none."""
    problems: tuple[str, ...] = ()
    device = None
    try:
        device = hardware.load(file)
        devices.check(device)
    except FaultyFileError as error:
        problems = error.problems
    except ValueError as error:
        problems = (str(error),)
    bare = [] if device is None else [key for key, number in device.provenance.items() if number.cite is None]
    count = 0 if device is None else len(device.provenance)
    if json:
        output.show_json({"file": file, "ok": not problems, "problems": list(problems), "numbers": count, "without_source": bare})
    if problems:
        raise ValueError("\nerror: ".join(problems))
    assert device is not None
    if not json:
        named = f": {', '.join(bare)}" if bare else ""
        output.show_text(f"ok: {count} numbers, {len(bare)} without a source{named}\n")


def diff(first: str, second: str, json: bool) -> None:
    """The fields in which two differ."""
    a, b = hardware.load(first), hardware.load(second)
    left, right = dict(_fields(a)), dict(_fields(b))
    keys = [key for key in dict.fromkeys([*left, *right]) if left.get(key) != right.get(key)]
    texts = [(key, _text(a, left, key), _text(b, right, key)) for key in keys]
    if json:
        output.show_json({"a": a.name, "b": b.name, "fields": {key: {"a": one, "b": two} for key, one, two in texts}})
        return
    from gemvane.render import glued, table

    if not texts:
        output.show_text(f"{a.name} and {b.name} have the same numbers\n")
        return
    out = table("field", a.name, b.name)
    for key, one, two in texts:
        out.add_row(key, glued(one or "-"), glued(two or "-"))
    output.show(out)


def _fields(device: Hardware) -> Iterator[tuple[str, Any]]:
    """Dotted key and checked value of everything but names, texts and sources."""
    def walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict):
            for key, value in node.items():
                yield from walk(value, f"{path}.{key}" if path else key)
        elif node is not None:
            yield path, node

    spec = device.spec.model_dump(exclude={"schema_version", "name", "description", "sources", "energy"})
    yield from walk(spec, "")
    yield from ((f"energy.prices.{action}", price) for action, price in device.prices.items())


def _text(device: Hardware, fields: dict[str, Any], key: str) -> str | None:
    """A value as it was written; where it is of the schema, as Python has it."""
    if key not in fields:
        return None
    if key in device.provenance:
        return device.provenance[key].text
    if key.startswith("energy.prices."):
        return f"{fields[key]:g} pJ{'/bit' if key.endswith('_bytes') else ''}"
    value = fields[key]
    return ", ".join(" and ".join(one) if isinstance(one, list) else str(one) for one in value) if isinstance(value, list) else str(value)


def new(name: str, base: str, file: Path | None) -> None:
    """Write a small file that extends another; never over one that is there."""
    file = Path(f"{name}.yaml") if file is None else file
    _check_new(name, file)
    output.check_file(file)
    device = hardware.load(base)
    extends = base if base in hardware.names() else os.path.relpath(Path(base).resolve(), file.resolve().parent)
    texts = {key: device.provenance[f"memory.{key}"].text for key in MEMORY if f"memory.{key}" in device.provenance}
    memory = "\n".join(f"  {key}: {{value: {_quoted(text)}, source: mine}}" for key, text in texts.items())
    if "pin_rate" in texts:
        memory = memory.replace("  pins:", "  # pins x pin_rate must give the bandwidth\n  pins:")
    text = NEW.format(name=name, base=device.name, file=file, extends=extends, memory=memory)
    with file.open("x", encoding="utf-8") as out:
        out.write(text)
    output.show_text(f"-> {file}: change its numbers, then `gemvane run MODEL --hw {file}`\n")


def _quoted(text: str) -> str:
    return text if text.isdigit() else f'"{text}"'


def _check_new(name: str, file: Path) -> None:
    pattern = next(m.pattern for m in HardwareSpec.model_fields["name"].metadata if hasattr(m, "pattern"))
    if not re.search(pattern, name):
        raise ValueError(f"{name!r} is no name for hardware. Expected small letters, digits, dots and dashes, as in my-gpu.")
    if name in hardware.names():
        raise ValueError(f"{name!r} is the name of a bundled hardware. Expected another one.")
    if file.exists():
        raise ValueError(f"{file} is there already and is not overwritten. Remove it, or name another with -o.")
