"""Design spaces: what the values of an axis are, which points there are, and what is refused before the first of them."""

from pathlib import Path
from typing import Any

import pytest

import gemvane as gv
from gemvane.sim.formula import Formula, amount, in_unit_of
from gemvane.sim.redesign import complete, redesigned
from gemvane.sim.space import Space, parse, read
from gemvane.sim.sweep import evaluate

SPACE = """\
model: gpt2
hardware: npu-pim-dual
scenario: {prompt: 64, output: 2}
vary:
  units.npu.rows: [64, 128]
  units.pim.channels: {low: 16, high: 64, scale: powers of two}
  batch: {low: 4, high: 12, by: 4}
follow:
  units.npu.cols: units.npu.rows
  memory.bandwidth: memory.bandwidth * units.pim.channels / 32
  memory.pins: memory.pins * units.pim.channels / 32
where:
  - units.npu.rows * units.pim.channels <= 4096
"""


def space(**changes: str) -> Space:
    """SPACE with some of its text replaced."""
    text = SPACE
    for old, new in changes.items():
        text = text.replace(old, new)
    return parse(text, "space.yaml")


def axis(said: str) -> tuple[Any, ...]:
    """The values of an axis of batch sizes, or of bandwidths where they have units."""
    name = "memory.bandwidth" if "B/s" in said else "batch"
    return parse(f"model: gpt2\nhardware: npu-hbm2\nvary:\n  {name}: {said}\n", "space.yaml").axes[name]


@pytest.mark.parametrize(
    ("said", "values"),
    [
        ("[3, 1]", (3, 1)),
        ("{low: 1, high: 9, steps: 3}", (1, 5, 9)),
        ("{low: 1, high: 10, by: 4}", (1, 5, 9)),
        ("{low: 3, high: 48, scale: powers of two}", (3, 6, 12, 24, 48)),
        ("{low: 1, high: 1000, steps: 4, scale: log}", (1, 10, 100, 1000)),
        ("{low: 1, high: 3, steps: 9}", (1, 2, 3)),  # whole numbers, each once
        ("{low: 500 GB/s, high: 2 TB/s, steps: 4}", ("500 GB/s", "1000 GB/s", "1500 GB/s", "2000 GB/s")),
        ("{low: 500 GB/s, high: 2 TB/s, scale: powers of two}", ("500 GB/s", "1000 GB/s", "2000 GB/s")),
    ],
)
def test_the_values_of_an_axis(said: str, values: tuple[Any, ...]) -> None:
    assert axis(said) == values


def test_a_grid_has_every_point_that_meets_the_constraints_in_order() -> None:
    want = [(rows, channels, batch) for rows in (64, 128) for channels in (16, 32, 64) for batch in (4, 8, 12) if rows * channels <= 4096]
    points = space().points()
    assert [point.values for point in points] == want
    assert [point.number for point in points] == list(range(len(want)))
    assert len(want) == 15


def test_what_follows_is_in_the_unit_of_the_base() -> None:
    design = space().design((64, 16, 4))
    assert design.followed == {"units.npu.cols": 64, "memory.bandwidth": "512 GB/s", "memory.pins": 2048}
    assert design.changes == {"units.npu.rows": 64, "units.pim.channels": 16} | design.followed
    assert design.scenario == {"prompt": 64, "output": 2, "batch": 4}


def test_random_points_are_different_allowed_and_the_same_for_a_seed() -> None:
    def drawn(seed: int) -> list[Any]:
        return [p.values for p in parse(f"{SPACE}sample: {{kind: random, points: 10, seed: {seed}}}\n", "space.yaml").points()]

    grid = {point.values for point in space().points()}
    assert len(set(drawn(1))) == 10
    assert set(drawn(1)) <= grid
    assert drawn(1) == drawn(1) != drawn(2)


def test_a_hypercube_takes_each_layer_of_each_axis_once() -> None:
    text = "model: gpt2\nhardware: npu-hbm2\nvary:\n  batch: {low: 1, high: 12, by: 1}\n  prompt: {low: 1, high: 24, by: 1}\n"
    points = parse(f"{text}sample: {{kind: latin-hypercube, points: 12, seed: 5}}\n", "space.yaml").points()
    assert sorted(batch for batch, _ in (p.values for p in points)) == list(range(1, 13))
    assert sorted((prompt - 1) // 2 for _, prompt in (p.values for p in points)) == list(range(12))


def test_transforms_vary_several_in_a_text_and_none_in_an_empty_one() -> None:
    texts = "['', window:tokens=64 + quantise:kv=int8]"
    varied = parse(f"model: gpt2\nhardware: a100-40g\nscenario: {{prompt: 512, output: 3}}\nvary:\n  transforms: {texts}\n", "space.yaml")
    plain, changed = (evaluate(varied, point) for point in varied.points())
    assert (plain["reason"], changed["reason"]) == ("", "")
    assert plain["transforms"] == ""
    assert changed["memory_bytes"] < plain["memory_bytes"]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("units.npu.rows: [64, 128]", "units.npu.row: [64]", "space.yaml:5: vary.units.npu.row: npu-pim-dual has no 'row' in units.npu "
         "(did you mean 'rows'?)."),
        ("units.npu.rows: [64, 128]", "units.npx.rows: [64]", "has no unit 'npx' (did you mean 'npu'?)"),
        ("units.npu.rows: [64, 128]", "units.npu.rows: [64, 96]", "space.yaml:5: vary.units.npu.rows: 96 is not a power of two"),
        ("units.npu.rows: [64, 128]", "units.npu.rows: []", "space.yaml:5: vary.units.npu.rows: the list is empty."),
        ("units.npu.rows: [64, 128]", "units.npu.rows: 64", "vary.units.npu.rows: 64 is one value. Expected a list, or a range"),
        ("units.npu.rows: [64, 128]", "units.npu.rows: [64, 64]", "vary.units.npu.rows: 64 stands here a second time."),
        ("units.npu.rows: [64, 128]", "memory.bandwidth: [1, 2]", "vary.memory.bandwidth: 1 has no unit. Expected a bandwidth"),
        ("units.npu.rows: [64, 128]", "units.pim.levels.bonk: [2]", "'bonk': input should be"),
        ("units.npu.rows: [64, 128]", "bach: [64]", "vary.bach: unknown field 'bach' (did you mean 'batch'?)."),
        ("units.npu.rows: [64, 128]", "transforms: ['', 'kv_evit:keep=0.1']", "space.yaml:5: vary.transforms: transform 'kv_evit'"),
        ("units.npu.rows: [64, 128]", "transforms: ['', 'kv_evict:kept=0.1']", "kv_evict: parameter 'kept' is unknown. Expected kv_evict:"),
        ("units.npu.rows: [64, 128]", "dtype: [fp99]", "vary.dtype: dtype is 'fp99'. Expected one of"),
        ("low: 4, high: 12", "low: 12, high: 4", "space.yaml:7: vary.batch.high is 4, under low, 12: the range is empty."),
        ("by: 4", "by: 4, steps: 2", "scale is linear, which takes either steps or by."),
        ("by: 4", "buy: 4", "space.yaml:7: vary.batch.buy: unknown field 'buy' (did you mean 'by'?)."),
        ("by: 4", "by: 0", "space.yaml:7: vary.batch.by is 0. Expected a step"),
        ("by: 4", "scale: log", "scale is log, which takes steps."),
        ("low: 4", "low: many", "space.yaml:7: vary.batch.low is 'many'. Expected a number"),
        ("low: 16,", "low: 0,", "low is 0. Expected more than zero for scale powers of two."),
        ("hardware: npu-pim-dual", "hardware: npu-pim-dul", "space.yaml:2: hardware: unknown hardware 'npu-pim-dul'"),
        ("model: gpt2", "model: gpt9", "space.yaml:1: model: unknown model 'gpt9'"),
        ("model: gpt2\n", "", "space.yaml:1: model is missing."),
        ("vary:", "vary:\n  model: [gpt2]", "space.yaml:1: model: stands under vary too."),
        ("prompt: 64", "batch: 64", "space.yaml:3: scenario.batch: stands under vary too."),
        ("prompt: 64", "promt: 64", "space.yaml:3: scenario.promt: unknown field 'promt' (did you mean 'prompt'?)."),
        ("prompt: 64", "prompt: 0", "scenario.prompt: prompt is 0."),
        ("vary:", "vari:", "vari: unknown field 'vari' (did you mean 'vary'?)."),
        ("units.npu.cols: units.npu.rows", "units.npu.cols: units.npu.row", "follow.units.npu.cols: npu-pim-dual has no 'row'"),
        ("units.npu.cols: units.npu.rows", "units.npu.col: 3", "follow.units.npu.col: npu-pim-dual has no 'col'"),
        ("units.npu.cols: units.npu.rows", "units.npu.rows: 3", "follow.units.npu.rows: stands under vary too."),
        ("units.npu.cols: units.npu.rows", "units.npu.cols: units.npu.rows *", "'units.npu.rows *' cannot be read."),
        ("<= 4096", "<= bach", "space.yaml:13: where.0: 'units.npu.rows * units.pim.channels <= bach': unknown field 'bach'"),
        ("<= 4096", "<= open('x')", "is no part of a formula"),
        ("<= 4096", "<= 'dual'", "makes no sense here: '<=' not supported between"),
        ("<= 4096", "<= 1 / (batch - batch)", "divides by zero"),
        ("where:", "sample: {kind: random}\nwhere:", "sample: points is missing but kind is random."),
        ("where:", "sample: {points: 3}\nwhere:", "sample.points: points is 3 but kind is grid."),
        ("where:", "sample: {kind: random, points: 99}\nwhere:", "sample.points: 99 is more than the 18 points that the space has."),
        ("where:", "search: {objectives: [tpot]}\nwhere:", "search.objectives.0: 'tpot' is not known here."),
        ("where:", "search: {objectives: []}\nwhere:", "search.objectives"),
        ("where:", "search: {objectives: [tpot_s], limits: {tpot_s: model}}\nwhere:", "search.limits.tpot_s: 'model' is 'gpt2'."),
        ("output: 2}", "phase: prefill}\nsearch: {objectives: [tpot_s]}", "has tpot_s, but the scenario's phase is prefill"),
    ],
)
def test_a_space_that_cannot_be_is_refused(old: str, new: str, complaint: str) -> None:
    assert old in SPACE
    with pytest.raises(ValueError) as error:
        space(**{old: new})
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_space_without_points_is_refused() -> None:
    with pytest.raises(ValueError, match="no point of the space meets every constraint"):
        space(**{"<= 4096": "<= 1"}).points()


def test_a_grid_that_is_too_large_is_refused() -> None:
    text = "model: gpt2\nhardware: npu-hbm2\nvary:\n  batch: {low: 1, high: 9999, by: 1}\n  prompt: {low: 1, high: 9999, by: 1}\n"
    with pytest.raises(ValueError, match="99980001 points"):
        parse(text, "space.yaml").points()


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read(tmp_path / "space.yaml")


FIELDS = {"a.rows": 64, "b": "2 TB/s", "c": "dual", "d": "6.4 Gb/s"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.rows * 2 + 1", 129), ("a.rows / 4", 16.0), ("a.rows // 5 % 5", 2), ("-a.rows", -64), ("b >= '1 TB/s'", True),
        ("b / '8 GHz'", 250.0), ("c == 'dual' and not a.rows < 64", True), ("c in ['single', 'x']", False), ("32 < a.rows <= 64", True),
        ("max(a.rows, 100) - min(3, 2, 1) + round(1.6)", 101), ("d", 800_000_000), ("c not in ['single'] or a.rows / 0", True),
    ],
)
def test_formulas(text: str, value: Any) -> None:
    assert Formula(text).value(FIELDS.__getitem__) == value


@pytest.mark.parametrize(
    "text", ["", "a b", "__import__('os')", "a[0]", "(lambda: 1)()", "a ** 9", "f'{a}'", "max()", "None", "1" + " + 1" * 300]
)
def test_what_is_no_formula(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be read|no part of a formula"):
        Formula(text)


@pytest.mark.parametrize("text", ["c * 1000000000", "c < 1", "[1] * 3", "1 / 0"])
def test_formulas_that_come_to_nothing(text: str) -> None:
    with pytest.raises(ValueError, match=r"makes no sense|divides by zero"):
        Formula(text).value(FIELDS.__getitem__)


@pytest.mark.parametrize("text", ["1024 GB/s", "2.5 GHz", "14 ns", "16", "88 %", "0.44 pJ/bit", "3.5 x"])
def test_a_quantity_comes_back_in_its_unit(text: str) -> None:
    back = in_unit_of(amount(text), text)
    assert amount(back) == amount(text)
    assert str(back).split()[1:] == text.split()[1:]


def test_a_new_array_restates_the_peak_that_its_file_says() -> None:
    base = gv.hardware("npu-pim-dual")
    unit = redesigned(base, {"units.npu.rows": 64, "units.npu.clock": "2 GHz"}).spec.units["npu"]
    assert unit.peak["bf16"] == 2 * 64 * 128 * 8 * 2_000_000_000
    gpu = redesigned(gv.hardware("h100-sxm"), {"units.gpu.num_sms": 66}).spec.units["gpu"]
    assert gpu.tensor_peak["bf16"] == 2 * gpu.tensor_macs_per_sm["bf16"] * 66 * gpu.clock
    with pytest.raises(ValueError, match="peak"):
        redesigned(base, {"units.npu.rows": 64, "units.npu.peak.bf16": "1 TOP/s"})


def test_a_mapping_that_a_file_leaves_out_is_made() -> None:
    changes = {"units.pim.levels.bank": 2, "units.pim.levels.bank_group": 8, "schedule.contention": "none"}
    assert complete(gv.hardware("npu-hbm2"), {"schedule.contention": "none"}) == {"schedule": {"contention": "none"}}
    spec = redesigned(gv.hardware("npu-pim-dual"), changes).spec
    assert (spec.units["pim"].levels, spec.schedule.contention) == ({"bank": 2, "bank_group": 8}, "none")
