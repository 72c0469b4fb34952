"""gemvane models"""

from __future__ import annotations

import json as jsonlib
from importlib.resources import files
from typing import Any

from gemvane import output
from gemvane.workloads import catalog
from gemvane.workloads.ops import DTYPE_BITS, DTYPES
from gemvane.workloads.spec import MLA, Attention, Chain, ModelSpec, MoE, Sublayer

SHOWN_DTYPES = ("fp32", "bf16", "fp8", "fp4")


def list_all(dtype: str, json: bool) -> None:
    """Every bundled model."""
    _check(dtype)
    rows = [facts_of(catalog.load(name), dtype) for name in catalog.names()]
    if json:
        output.show_json({"dtype": dtype, "models": rows})
        return
    from gemvane.render import glued, parameters, table
    from gemvane.sim.units import show

    numbers = ("parameters", "active", "layers", "positions", f"{dtype} weights", "KV/token")
    out = table("name", "family", *numbers[:2], "attention", *numbers[2:], right=numbers)
    for row in rows:
        active = parameters(row["active_parameters"]) if row["active_parameters"] != row["parameters"] else ""
        positions = f"{row['positions']:,}" if row["positions"] else "-"
        cache = show(row["kv_bytes_per_token"], "B") if row["kv_bytes_per_token"] else "-"
        cells = (row["name"], row["family"], parameters(row["parameters"]), active, row["attention"], str(row["layers"]), positions,
                 show(row["weights_bytes"], "B"), cache)
        out.add_row(*map(glued, cells))
    output.show(out)


def show(model: str, dtype: str, json: bool) -> None:
    """One model."""
    _check(dtype)
    spec = catalog.load(model)
    row = facts_of(spec, dtype) | {"source": _source(model)}
    if json:
        output.show_json(row)
        return
    from gemvane.render import facts, parameters, plural
    from gemvane.sim.units import show as shown

    sizes = ", ".join(f"{shown(row['weights_bytes_by_dtype'][name], 'B')} in {name}" for name in dict.fromkeys((*SHOWN_DTYPES, dtype)))
    active = "" if row["active_parameters"] == row["parameters"] else f"; {parameters(row['active_parameters'])} meet one token"
    cache = "none: an encoder keeps no cache" if spec.encoder else f"{shown(row['kv_bytes_per_token'], 'B')} a token in {dtype}"
    output.show(facts([
        ("model", f"{spec.name} ({spec.family})"),
        ("parameters", f"{parameters(spec.parameters)} ({spec.parameters:,}){active}"),
        ("weights", sizes),
        ("KV cache", cache),
        *([("state", f"{shown(row['state_bytes'], 'B')} a request in {dtype}")] if row["state_bytes"] else []),
        ("hidden", str(spec.hidden)),
        *_layer_lines(spec),
        ("vocabulary", f"{spec.vocab:,}{', embedding and head tied' if spec.tied_embeddings else ''}" if spec.vocab else "none"),
        ("positions", plural(spec.positions, "token") if spec.positions else "no limit stated"),
        ("source", row["source"]),
    ]))


def facts_of(spec: ModelSpec, dtype: str) -> dict[str, Any]:
    """The JSON object of a model; bytes at `dtype`."""
    return {
        "name": spec.name, "family": spec.family, "parameters": spec.parameters, "active_parameters": spec.active_parameters,
        "weights_bytes": _bytes(spec.parameters, dtype), "kv_bytes_per_token": _bytes(spec.kv_elements_per_token, dtype),
        "state_bytes": _bytes(spec.state_elements, dtype),
        "dtype": dtype, "layers": len(spec.layers), "hidden": spec.hidden, "attention": spec.attention_label, "vocab": spec.vocab,
        "positions": spec.positions, "encoder": spec.encoder,
        "weights_bytes_by_dtype": {name: _bytes(spec.parameters, name) for name in DTYPES},
    }


def _layer_lines(spec: ModelSpec) -> list[tuple[str, str]]:
    """The different layers, with how many there are of each; the encoders' first."""
    lines = [(tower.name.removeprefix(spec.name).strip() if label else "", text) for tower in spec.towers
             for label, text in _layer_lines(tower)]
    for number, layer in enumerate(dict.fromkeys(spec.layers)):
        width = f" (width {layer.hidden:,})" if layer.hidden not in (0, spec.hidden) else ""
        parts = "; ".join(_part_text(part) for part in layer.sublayers)
        lines.append(("" if number else "layers", f"{spec.layers.count(layer)} x {parts}{width}"))
    return lines


def _part_text(part: Sublayer) -> str:
    if isinstance(part, Chain):
        return part.label
    if isinstance(part, (Attention, MLA)):
        window = f", window {part.window:,}" if part.window else ""
        head_dim = f", head width {part.head_dim}" if isinstance(part, Attention) else ""
        other = f"{part.source}-attention " if isinstance(part, Attention) and part.source != "self" else ""
        return f"{other}{part.label}{head_dim}{window}"
    gated = f"{'gated ' if part.gated else ''}{part.activation}"
    if isinstance(part, MoE):
        shared = f" + a shared one of {part.shared.width:,}" if part.shared else ""
        return f"{part.top_k} of {part.experts} experts of width {part.width:,}{shared}, {gated}"
    return f"feed-forward width {part.width:,}, {gated}"


def _bytes(elements: int, dtype: str) -> int:
    return -(-elements * DTYPE_BITS[dtype] // 8)


def _check(dtype: str) -> None:
    if dtype not in DTYPE_BITS:
        raise ValueError(f"--dtype {dtype}: no such number type. Expected one of {', '.join(DTYPES)}.")


def _source(model: str) -> str:
    """Where the shape of a model comes from: what the bundled file says, or the path."""
    name = model.lower()
    if name not in catalog.names():
        return model
    text = (files("gemvane.workloads") / "models" / f"{name}.json").read_text(encoding="utf-8")
    return str(jsonlib.loads(text).get("_source", "not stated"))
