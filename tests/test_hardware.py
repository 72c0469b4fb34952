"""Hardware files: every bundled number has a unit and a source, files extend files, and each fault has its sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from gemvane.sim import hardware, yamlcheck
from gemvane.sim.costs import ACTIONS
from gemvane.sim.hardware import FAMILIES, load, price_table
from gemvane.sim.quantity import CONFIDENCES
from gemvane.sim.schema import HardwareSpec
from gemvane.sim.yamltree import Tree, is_leaf, read_tree

ROOT = resources.files("gemvane.hw_configs")
FILES = {f"{folder}/{file.name}": file.read_text(encoding="utf-8") for folder in (*FAMILIES, "energy", "calibration")
         for file in (ROOT / folder).glob("*.yaml") if folder != "calibration" or file.name == "spec-only.yaml"}
DEVICES = [where for where in FILES if where.split("/")[0] in FAMILIES]
NUMBERS = ("memory", "units", "power", "prices", "node", "bands")
"""Parts of a file in which every number describes silicon (or measures a model of it)."""
COUNTS = {
    "pins", "num_sms", "tensor_macs_per_sm", "num_arrays", "rows", "cols", "macs_per_cell", "num_lanes", "channels", "operands",
    "num_cores", "macs_per_core", "max_devices", "axes", "wraps_from",
}
WORDS = {"technology", "part", "topology", "kind", "dataflow", "buffers", "placement", "level", "whole", "algorithm",
         "weight_double_buffer", "matrix_unit", "calibration"}
"""Fields that are words, not numbers."""


def sections(data: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield from (((key,), data[key]) for key in NUMBERS if key in data)
    if "prices" in (data.get("energy") or {}):
        yield ("energy", "prices"), data["energy"]["prices"]


def numbers(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every leaf mapping and every bare value under `node`, by its keys."""
    if isinstance(node, dict) and not is_leaf(node):
        for key, value in node.items():
            yield from numbers(value, (*path, key))
    elif path[-1] not in WORDS:
        yield path, node


def ancestry(where: str) -> list[dict[str, Any]]:
    """The raw mapping of a file and of all that it extends, nearest first."""
    data = yaml.safe_load(FILES[where])
    if "extends" not in data:
        return [data]
    return [data, *ancestry(next(other for other in DEVICES if other.endswith(f"/{data['extends']}.yaml")))]


@pytest.mark.parametrize("where", FILES)
def test_every_number_has_a_unit_or_is_a_count_and_a_source_with_cite_and_confidence(where: str) -> None:
    family = ancestry(where) if where in DEVICES else [yaml.safe_load(FILES[where])]
    sources = {name: source for data in reversed(family) for name, source in data.get("sources", {}).items()}
    assert all(source["cite"].strip() and source["confidence"] in CONFIDENCES for source in sources.values())
    found = [item for path, node in sections(family[0]) for item in numbers(node, path)]
    assert found or "extends" in family[0]
    for path, leaf in found:
        assert is_leaf(leaf), f"{'.'.join(path)}: {leaf!r} has no source"
        assert leaf["source"] in sources, f"{'.'.join(path)}: source {leaf['source']!r} is not in the table"
        value = leaf["value"]
        if isinstance(value, str):
            assert re.fullmatch(r"\d[\d.]* [A-Za-z%/2]+", value), f"{'.'.join(path)}: {value!r} is no number with a unit"
        else:
            assert type(value) is int and COUNTS & set(path), f"{'.'.join(path)}: {value!r} has no unit"


@pytest.mark.parametrize("where", DEVICES)
def test_a_child_never_gives_its_parents_source_another_meaning(where: str) -> None:
    own, *parents = ancestry(where)
    for data in parents:
        for name, source in data.get("sources", {}).items():
            assert own.get("sources", {}).get(name, source) == source


def test_names_are_file_names_and_loading_gives_every_file() -> None:
    assert {f"{load(name).name}.yaml" for name in hardware.names()} == {where.split("/")[1] for where in DEVICES}
    assert all(load(name).name == name for name in hardware.names())


@pytest.mark.parametrize("name", hardware.names())
def test_every_number_of_a_loaded_device_knows_its_file_line_cite_and_confidence(name: str) -> None:
    origin = load(name).provenance
    assert {"memory.bandwidth", "power.static"} <= set(origin)
    for key, number in origin.items():
        line = FILES[number.file.removeprefix("hw_configs/")].splitlines()[number.line - 1]
        assert number.text in line and f"{key.split('.')[-1]}:" in line
        if key.split(".")[0] != "schedule" and key.split(".")[-1] not in WORDS:
            assert number.cite and number.confidence in CONFIDENCES


@pytest.mark.parametrize("name", hardware.names())
def test_every_action_of_a_device_has_a_price(name: str) -> None:
    assert set(load(name).prices) == set(ACTIONS)


def test_a_price_of_a_device_replaces_the_one_of_its_table_and_leaves_the_others() -> None:
    cpu, table = load("cpu-server").prices, price_table("7nm").prices
    assert (cpu["dram_tsv_bytes"], table["dram_tsv_bytes"]) == (0.0, 0.5)
    assert {action for action in ACTIONS if cpu[action] != table[action]} == {"dram_tsv_bytes", "dram_io_bytes"}


def test_a_loaded_hardware_loads_as_itself() -> None:
    h100 = load("h100-sxm")
    assert load(h100) is h100


# Files over files

def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_child_replaces_one_number_and_keeps_the_rest(tmp_path: Path) -> None:
    child = load(write(tmp_path, "big.yaml", 'extends: h100-sxm\nname: big\nmemory: {capacity: "96 GB"}\n'))
    parent = load("h100-sxm")
    assert (child.name, child.spec.memory.capacity) == ("big", 96 * 10**9)
    assert child.spec.memory.bandwidth == parent.spec.memory.bandwidth == 3_350_000_000_000
    assert child.spec.units == parent.spec.units


@pytest.mark.parametrize("number", ['"96 GB"', '{value: "96 GB"}'])
def test_a_number_that_a_child_replaces_loses_its_parents_source(number: str, tmp_path: Path) -> None:
    path = write(tmp_path, "big.yaml", f"extends: h100-sxm\nname: big\nmemory:\n  capacity: {number}\n")
    new, kept = (load(path).provenance[key] for key in ("memory.capacity", "memory.bandwidth"))
    assert (new.text, new.cite, new.confidence, new.file, new.line) == ("96 GB", None, None, str(path), 4)
    assert (kept.file, kept.confidence) == ("hw_configs/gpu/h100-sxm.yaml", "datasheet")


def test_files_extend_files_that_extend_files_by_path_from_their_own_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", "mid.yaml", 'extends: ../low.yaml\nname: mid\npower: {static: "50 W"}\n')
    write(tmp_path, "low.yaml", 'extends: npu-hbm2\nname: low\nunits: {link: {max_devices: 4}}\n')
    top = load(write(tmp_path, "top.yaml", 'extends: deep/mid.yaml\nname: top\nunits: {vector: {num_lanes: 7}}\n')).spec
    units = {name: unit.model_dump() for name, unit in top.units.items()}
    assert (top.name, top.power.static, units["link"]["max_devices"], units["vector"]["num_lanes"]) == ("top", 50.0, 4, 7)
    assert units["npu"]["rows"] == 128


def test_a_file_named_as_a_bundled_one_may_extend_it(tmp_path: Path) -> None:
    assert load(write(tmp_path, "neupims.yaml", "extends: neupims\nname: mine\n")).name == "mine"


def test_a_leaf_says_its_own_confidence_over_that_of_its_source() -> None:
    assert load("h100-sxm").provenance["units.link.latency"].confidence == "derived"


# What is changed in Python is checked as a file is

def test_replace_changes_one_number_and_leaves_the_original() -> None:
    h100 = load("h100-sxm")
    assert h100.replace({"memory.bandwidth": "4.8 TB/s"}).spec.memory.bandwidth == 4_800_000_000_000
    assert h100.spec.memory.bandwidth == 3_350_000_000_000


def test_replace_reaches_into_what_the_file_leaves_out() -> None:
    npu = load("npu-hbm2").replace({"schedule.sub_batches": 2, "energy.prices.mac_bf16": "1 pJ"})
    assert (npu.spec.schedule.sub_batches, npu.prices["mac_bf16"], npu.prices["vector_op"]) == (2, 1.0, 0.845)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory.bandwidth": "4.8"}, "change of h100-sxm: memory.bandwidth: '4.8' has no unit. Expected a bandwidth, e.g. '3.35 TB/s'."),
        ({"memory.bandwith": "4.8 TB/s"}, "change of h100-sxm: memory.bandwith: unknown field 'bandwith' (did you mean 'bandwidth'?)."),
        ({"memry.bandwidth": "4.8 TB/s"}, "memry.bandwidth: no such field in h100-sxm: 'memry' is not there."),
        ({"units.gpux.clock": "1 GHz"}, "units.gpux.clock: no such field in h100-sxm: 'gpux' is not there."),
        ({"mapping.matmul": "gpuu"}, "change of h100-sxm: mapping.matmul names unit 'gpuu'; units are gpu, link"),
        ({"units.gpu.num_sms": -1}, "change of h100-sxm: units.gpu.num_sms: -1 is not positive. Expected a whole number above zero."),
        ({"memory.bandwidth": "4.8 TB/s", "memory.pins": 6144},
         "change of h100-sxm: memory.bandwidth is 4.80 TB/s but pins x pin_rate is 4.02 TB/s"),
    ],
)
def test_a_change_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        load("h100-sxm").replace(changes)
    assert str(caught.value) == message


def test_a_change_of_sms_must_bring_the_peaks_that_it_makes() -> None:
    with pytest.raises(ValueError, match=r"units\.gpu\.tensor_peak\.bf16 is 989\.4 TOP/s but 2 x MACs x clock is 1\.979 POP/s"):
        load("h100-sxm").replace({"units.gpu.num_sms": 264})


def test_a_stated_peak_may_be_two_percent_off_as_data_sheets_are() -> None:
    h100 = load("h100-sxm")  # 2 x 2048 x 132 x 1.83 GHz = 989.4 TFLOP/s
    assert h100.replace({"units.gpu.tensor_peak.bf16": "1009 TFLOP/s"}).name == "h100-sxm"
    with pytest.raises(ValueError, match=r"tensor_peak\.bf16 is 1\.010 POP/s but 2 x MACs x clock is 989\.4 TOP/s"):
        h100.replace({"units.gpu.tensor_peak.bf16": "1010 TFLOP/s"})


# Bad files, one fault each

H100 = FILES["gpu/h100-sxm.yaml"]
NPU = FILES["npu/npu-hbm2.yaml"]


def edited(old: str, new: str, text: str = H100) -> str:
    assert old in text
    return text.replace(old, new, 1)


def line_of(start: str, text: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if line.strip().startswith(start))


FAULTS: dict[str, tuple[str, str, str]] = {
    # what is wrong: (the file, start of its line, what is said after "file:line: ")
    "no unit": (edited('"3.35 TB/s"', '"3.35"'), "bandwidth:", "memory.bandwidth: '3.35' has no unit. Expected a bandwidth, "),
    "bare number": (edited('"3.35 TB/s"', "3.35"), "bandwidth:", "memory.bandwidth: 3.35 has no unit. Expected a bandwidth, "),
    "wrong unit": (edited('"3.35 TB/s"', '"3.35 W"'), "bandwidth:", "memory.bandwidth: '3.35 W' has the wrong unit 'W'. Expected a "),
    "misspelt section": (edited("memory:\n", "memroy:\n"), "memroy:", "memroy: unknown field 'memroy' (did you mean 'memory'?)."),
    "misspelt unit key": (edited("num_sms:", "num_smss:"), "num_smss:",
                          "units.gpu.num_smss: unknown field 'num_smss' (did you mean 'num_sms'?)."),
    "misspelt memory key": (edited("  bandwidth:", "  bandwith:"), "bandwith:",
                            "memory.bandwith: unknown field 'bandwith' (did you mean 'bandwidth'?)."),
    "unlike any key": (edited("  technology:", "  qqq: 1\n  technology:"), "qqq:",
                       "memory.qqq: unknown field 'qqq'. Known fields: technology, capacity, bandwidth, "),
    "zero": (edited('"80 GB"', '"0 GB"'), "capacity:", "memory.capacity: '0 GB' is zero. Expected a size above zero, e.g. '80 GB'."),
    "negative": (edited('"80 GB"', '"-80 GB"'), "capacity:", "memory.capacity: '-80 GB' is negative. Expected a size, "),
    "zero count": (edited("value: 132,", "value: 0,"), "num_sms:", "units.gpu.num_sms: 0 is not positive. Expected a whole number above "),
    "half a count": (edited("value: 132,", "value: 132.5,"), "num_sms:", "units.gpu.num_sms: 132.5 is not a count. Expected a whole "),
    "count as text": (edited("value: 132,", 'value: "132",'), "num_sms:", "units.gpu.num_sms: '132' is not a count. Expected a whole "),
    "count as truth": (edited("value: 132,", "value: true,"), "num_sms:", "units.gpu.num_sms: True is not a count. Expected a whole "),
    "over all": (edited('"88 %"', '"188 %"'), "sustained:", "memory.sustained: '188 %' is not a share. Expected more than 0 % and "),
    "over the peak": (edited('"80.3 %"', '"803 %"'), "tensor_sustained:", "units.gpu.tensor_sustained: '803 %' is not a share. "),
    "no power of two": (edited("rows: {value: 128,", "rows: {value: 100,", NPU), "rows:",
                        "units.npu.rows: 100 is not a power of two, which this hardware needs."),
    "unknown unit kind": (edited("    kind: gpu", "    kind: gpuu"), "gpu:",
                          "units.gpu: 'gpuu' is not known here. Expected one of 'gpu', 'systolic', 'vector', 'pim', 'cpu', 'link'."),
    "no unit kind": (edited("    kind: gpu\n", ""), "gpu:", "units.gpu.kind is missing. Expected one of gpu, "),
    "unknown kind": (edited("kind: gpu", "kind: gpx"), "kind:", "kind: 'gpx' is not known here. Expected one of 'gpu', 'tpu', "),
    "missing field": (edited("    l2_size:", "    #"), "gpu:", "units.gpu.l2_size is missing. Every units.gpu needs it."),
    "missing section": (edited("energy: {table: 7nm}", ""), "schema_version:", "energy is missing. Every hardware file needs it."),
    "unknown type": (edited("      bf16: {value: 2048", "      bf61: {value: 2048"), "bf61:",
                     "units.gpu.tensor_macs_per_sm.bf61: 'bf61' is not known here. Expected one of 'fp32', "),
    "key twice": (edited("    num_sms:", "    clock: 3\n    num_sms:"), "clock: 3", "key 'clock' stands here a second time."),
    "not YAML": ("name: [1, 2\nkind: }", "kind:", "is not YAML: did not find expected ',' or ']'."),
    "unknown tag": (edited('"80 GB"', '!gb "80"'), "capacity:", "'80' cannot be read as !gb."),
    "no such date": (edited('"80 GB"', "2024-13-45"), "capacity:", "'2024-13-45' cannot be read as tag:yaml.org,2002:timestamp."),
    "key in braces": (H100 + "\n{name}: 1\n", "{name}:", "a key is a mapping. Expected text."),
    "pins": (edited('"5.23 Gb/s"', '"6.23 Gb/s"'), "bandwidth:", "memory.bandwidth is 3.35 TB/s but pins x pin_rate is 3.99 TB/s"),
    "peak": (edited('bf16: {value: "989.4', 'bf16: {value: "1989'), 'bf16: {value: "1989',
             "units.gpu.tensor_peak.bf16 is 1.989 POP/s but 2 x MACs x clock is 989.4 TOP/s"),
    "peak of an array": (edited('fp16: {value: "262.1', 'fp16: {value: "131', NPU), 'fp16: {value: "131',
                         "units.npu.peak.fp16 is 131.0 TOP/s but 2 x MACs x clock is 262.1 TOP/s"),
    "no peak": (edited('      fp32: {value: "61.8', '      int16: {value: "61.8'), "tensor_macs_per_sm:",
                "units.gpu.tensor_macs_per_sm has fp32 but tensor_peak has not"),
    "peak out of nowhere": (edited("    tensor_peak:", '    tensor_peak:\n      fp4: "9 PFLOP/s"'), "tensor_peak:",
                            "units.gpu.tensor_peak has fp4 but tensor_macs_per_sm has not"),
    "mapping to nothing": (edited("matmul: gpu", "matmul: gpuu"), "mapping:", "mapping.matmul names unit 'gpuu'; units are gpu, link"),
    "mapping to no adder": (edited("matmul: gpu", "matmul: link"), "mapping:",
                            "mapping.matmul names unit 'link', a link, which runs only collective"),
    "mapping of nothing": (edited("matmul: gpu", "matmull: gpu"), "mapping:",
                           "mapping.matmull: 'matmull' is not known here. Expected one of 'matmul', 'attention_prefill', "),
    "exclusive nothing": (NPU + "schedule: {exclusive: [[npu, pum]]}\n", "schedule:", "schedule.exclusive names unit 'pum'; units are "),
    "sub-batches": (NPU + "schedule: {sub_batches: some}\n", "schedule:", "schedule.sub_batches: 'some' is not a count. Expected a whole "),
    "no such table": (edited("table: 7nm", "table: 5nm"), "energy:",
                      "energy.table: no price table '5nm' (did you mean '7nm'?); there are 7nm."),
    "price of nothing": (edited("{table: 7nm}", '{table: 7nm, prices: {mac_bf61: "1 pJ"}}'), "energy:",
                         "energy.prices.mac_bf61: no model counts this action (did you mean 'mac_bf16'?)."),
    "price unit": (edited("{table: 7nm}", '{table: 7nm, prices: {link_bytes: "1 pJ"}}'), "energy:",
                   "energy.prices.link_bytes: '1 pJ' has the wrong unit 'pJ'. Expected an energy per bit, e.g. '0.44 pJ/bit'."),
    "leaf key": (edited('"80 GB", source', '"80 GB", sorce'), "capacity:",
                 "memory.capacity: unknown field 'sorce'. Expected value, source, confidence or note."),
    "sure": (edited('"80 GB", source: stas', '"80 GB", source: stas, confidence: sure'), "capacity:",
             "memory.capacity: confidence 'sure'. Expected one of measured, datasheet, "),
    "two sources": (edited('"80 GB", source: stas', '"80 GB", source: [stas, aic]'), "capacity:",
                    "memory.capacity: source ['stas', 'aic'] is not text."),
    "version": (edited("schema_version: 1", "schema_version: 2"), "schema_version:",
                "schema_version: 2 is not known here. Expected one of 1."),
    "name": (edited("name: h100-sxm", "name: H100 SXM"), "name:", "name: 'H100 SXM': string should match pattern '^[a-z0-9]"),
    "unknown parent": ("extends: h100-smx\nname: x\n", "extends:", "extends: unknown hardware 'h100-smx': nearest are h100-sxm, "),
    "parent is a list": ("extends: [a]\nname: x\n", "extends:", "extends: ['a'] is not text. Expected a bundled name or a path."),
    "itself": ("name: x\nextends: my.yaml\n", "extends:", "extends: 'my.yaml' extends itself (my -> my). Expected a chain that ends."),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_file_line_key_and_wish(fault: str, tmp_path: Path) -> None:
    text, start, said = FAULTS[fault]
    path = write(tmp_path, "my.yaml", text)
    with pytest.raises(ValueError) as caught:
        load(path)
    line = 1 if fault == "missing section" else line_of(start, text)
    assert str(caught.value).startswith(f"{path}:{line}: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty. Expected a mapping of keys to values."),
        ("# only words\n", "is empty. Expected a mapping of keys to values."),
        ("- a\n- b\n", "is a list. Expected a mapping of keys to values."),
        ("hello\n", "is plain text. Expected a mapping of keys to values."),
        ("a: &a [*a]\n", "holds an alias (*name) inside its own anchor. Expected a mapping that ends."),
        ("name: \x00\n", "is not YAML: unacceptable character #x0000"),
    ],
)
def test_a_file_that_is_no_mapping_is_named(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, "my.yaml", text)
    with pytest.raises(ValueError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {said}")


def test_two_files_that_extend_each_other_are_told_where_the_loop_closes(tmp_path: Path) -> None:
    a, b = write(tmp_path, "a.yaml", "extends: b.yaml\n"), write(tmp_path, "b.yaml", "name: b\nextends: a.yaml\n")
    with pytest.raises(ValueError) as caught:
        load(a)
    assert str(caught.value) == f"{b}:2: extends: 'a.yaml' extends itself (a -> b -> a). Expected a chain that ends."


def test_an_error_in_an_inherited_number_names_the_file_where_it_stands(tmp_path: Path) -> None:
    write(tmp_path, "low.yaml", edited('"80 GB"', '"80"'))
    with pytest.raises(ValueError) as caught:
        load(write(tmp_path, "top.yaml", "extends: low.yaml\nname: top\n"))
    assert str(caught.value).startswith(f"{tmp_path / 'low.yaml'}:{line_of('capacity:', H100)}: memory.capacity: '80' has no unit.")


def test_all_faults_of_a_file_are_kept_and_the_first_is_the_message(tmp_path: Path) -> None:
    with pytest.raises(yamlcheck.FaultyFileError) as caught:
        load(write(tmp_path, "my.yaml", edited('"80 GB"', '"0 GB"', edited("num_sms:", "num_smss:"))))
    assert [problem.split(": ")[1].split(" is missing")[0] for problem in caught.value.problems] == [
        "memory.capacity", "units.gpu.num_smss", "units.gpu.num_sms"]
    assert str(caught.value).endswith("(2 more like this: `gemvane hw check` lists them)")


@pytest.mark.parametrize("where", ["h100", "H100-SXM", "h100-sxm.yaml", "no/such/h100-sxm.yaml"])
def test_an_unknown_name_offers_the_nearest(where: str) -> None:
    with pytest.raises(ValueError, match=r"^unknown hardware .*: nearest are .*h100-sxm.*; or give the path of a YAML file$"):
        load(where)


@pytest.mark.parametrize(
    ("where", "said"), [("", "unknown hardware ''"), ("%%", "`gemvane hw list` shows"), (".", "is a folder"), ("x" * 5000, "cannot be")]
)
def test_a_name_like_none_is_one_sentence_too(where: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load(where)


# The schema that editors use

def fits(node: Any, schema: dict[str, Any], definitions: dict[str, Any]) -> bool:
    """Whether the part of JSON Schema that ours uses accepts `node`."""
    if "$ref" in schema:
        return fits(node, definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
    types: dict[str, Any] = {"string": str, "integer": int, "object": dict, "array": list, "boolean": bool, "null": type(None)}
    rules: dict[str, Callable[[Any], bool]] = {
        "anyOf": lambda options: any(fits(node, option, definitions) for option in options),
        "oneOf": lambda options: sum(fits(node, option, definitions) for option in options) == 1,
        "type": lambda name: isinstance(node, types[name]) and (name != "integer" or not isinstance(node, bool)),
        "const": lambda value: node == value,
        "enum": lambda values: node in values,
        "minimum": lambda least: node >= least,
        "pattern": lambda pattern: re.search(pattern, node) is not None,
        "required": lambda keys: all(key in node for key in keys),
        "items": lambda item: all(fits(value, item, definitions) for value in node),
        "properties": lambda known: all(fits(node[key], value, definitions) for key, value in known.items() if key in node),
        "propertyNames": lambda rule: all(fits(key, rule, definitions) for key in node),
        "additionalProperties": lambda rule: all(
            rule is not False and fits(node[key], rule, definitions) for key in node if key not in schema.get("properties", {})),
    }
    order = sorted((key for key in schema if key in rules), key=lambda key: key != "type")
    return all(rules[key](schema[key]) for key in order)


def merged(where: str) -> Tree:
    return load(where.split("/")[1].removesuffix(".yaml")).tree


@pytest.mark.parametrize("where", DEVICES)
def test_the_json_schema_accepts_every_bundled_device(where: str) -> None:
    schema = HardwareSpec.model_json_schema()
    assert fits(merged(where).data, schema, schema["$defs"])


@pytest.mark.parametrize(
    "fault", ["bare number", "misspelt section", "misspelt unit key", "zero count", "unknown unit kind", "missing field", "sure", "name"]
)
def test_the_json_schema_refuses_what_the_loader_refuses(fault: str) -> None:
    schema = HardwareSpec.model_json_schema()
    assert not fits(read_tree(FAULTS[fault][0], "my.yaml").data, schema, schema["$defs"])


def test_a_file_that_extends_another_needs_a_name_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("extends: h100-sxm\nschema_version: 1\n")
    with pytest.raises(ValueError, match=r"x.yaml:1: name is missing. A file that extends another needs a name of its own."):
        hardware.load(tmp_path / "x.yaml")
