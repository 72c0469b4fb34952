"""gemvane dram: replay, check and parts, and what they say of bad input."""

import json
import subprocess
import sys
from json import loads
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from gemvane.cli import app
from gemvane.commands import dram as command
from gemvane.sim.dram import part
from gemvane.sim.dram.energy import energy

MEMORY = "hbm3-6400-4gb"
REQUESTS = "rw,pc,bg,ba,ro,co\n0,0,1,2,5,0\n1,1,3,3,16383,31\n"
COMMANDS = "tick,command,pc,bg,ba,ro\n1,ACT,0,0,0,5\n{read},RD,0,0,0,5\n"


def gemvane(*words: str) -> str:
    """What a command prints on stdout when it succeeds."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    return done.stdout


def refused(*words: str) -> str:
    """What a command that ends with status 2 says on stderr; it prints nothing else."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("error: "), done.stderr
    return done.stderr.removeprefix("error: ").rstrip("\n")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def requests() -> str:
    """A file of 900 random requests, in 20 rows of every bank."""
    rng = np.random.default_rng(1)
    limits = {"rw": 2, "pc": 2, "bg": 4, "ba": 4, "ro": 20, "co": 32}
    pd.DataFrame({name: rng.integers(0, limit, 900) for name, limit in limits.items()}).to_csv("requests.csv", index=False)
    return "requests.csv"


def replay_json(*words: str) -> dict[str, Any]:
    thing = json.loads(gemvane("dram", "replay", *words, "--json"))
    assert isinstance(thing, dict)
    return thing


@pytest.mark.parametrize("command", ["", "replay", "check", "parts"])
def test_help_is_there_and_light(command: str) -> None:
    assert gemvane(*f"dram {command} --help".split()).startswith(f"Usage: gemvane dram {command}".rstrip())
    code = "import sys\nfrom gemvane.cli import app\ntry: app(sys.argv[1:])\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, "dram", *command.split(), "--help"], capture_output=True, text=True, check=True)
    assert not {"numba", "numpy", "pandas", "rich", "yaml"} & {name.split(".")[0] for name in done.stderr.split()}


def test_the_screen_of_a_replay_has_what_an_architect_asks_for(requests: str) -> None:
    screen = gemvane("dram", "replay", requests, "--memory", MEMORY)
    for text in ("hbm3-6400-4gb", "frfcfs-rowhit, open rows, all-bank refresh", "900 requests of 32.0 B", "of the peak of 51.2 GB/s",
                 " hits, ", " misses, ", " conflicts", " ACT, ", "p99", "what held the channel", "ACT -> ACT", "other rules"):
        assert text in screen
    lines = screen.split("what held the channel")[1].splitlines()[2:]
    assert len(lines) == 8 + 1
    assert all(line.endswith(" %") for line in lines)


def test_the_json_of_a_replay_adds_up(requests: str) -> None:
    result = replay_json(requests, "--memory", MEMORY)
    assert result["schema"] == "gemvane.dram/1"
    assert result["commands"]["RD"] + result["commands"]["WR"] == result["requests"] == 900
    assert result["row_hits"] + result["row_misses"] + result["row_conflicts"] == 900
    assert result["bandwidth_bytes_per_s"] == pytest.approx(900 * 32 / (result["last_command_tick"] * result["tick_ps"] / 1e12))
    assert result["path"] is None


def test_options_of_a_replay_are_heard(requests: str) -> None:
    plain = replay_json(requests, "--memory", MEMORY)
    assert (plain["scheduler"], plain["row_policy"], plain["cap"], plain["refresh"]) == ("frfcfs-rowhit", "open", None, "all-bank")
    other = replay_json(requests, "--memory", MEMORY, "--scheduler", "frfcfs", "--refresh", "none")
    assert (other["scheduler"], other["refresh"]) == ("frfcfs", "none")
    assert other["last_command_tick"] != plain["last_command_tick"]


def replayed(capsys: pytest.CaptureFixture[str], file: str, refresh: str = "all-bank", *, json: bool = True,
             commands: Path | None = None, **words: Any) -> Any:
    """What `gemvane dram replay` prints with options of a policy or of several channels."""
    command.replay(Path(file), "hbm2-2000-4gb", "frfcfs-rowhit", refresh, commands, json, **words)
    text = capsys.readouterr().out
    return loads(text) if json else text


def test_policies_are_heard_and_priced(requests: str, capsys: pytest.CaptureFixture[str]) -> None:
    closed = replayed(capsys, requests, row_policy="closed", cap=2, refresh="per-bank")
    assert (closed["row_policy"], closed["cap"], closed["refresh"]) == ("closed", 2, "per-bank")
    assert closed["commands"]["RDA"] > 0
    whole = energy({"REFab": 1}, 0.0, part.load("hbm2-2000-4gb")).terms_pj["refresh"]
    assert closed["energy_pj"]["terms"]["refresh"] == pytest.approx(closed["commands"]["REFpb"] * whole / 16)
    screen = replayed(capsys, requests, row_policy="closed", cap=2, refresh="none", json=False)
    assert "frfcfs-rowhit, rows closed after 2 columns at most, no refresh" in screen


def test_a_column_ch_makes_several_channels(requests: str, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.read_csv(requests)
    frame.assign(ch=np.arange(len(frame)) % 3).to_csv("several.csv", index=False)
    result = replayed(capsys, "several.csv", commands=Path("commands.csv"))
    assert (result["schema"], result["requests"], result["path"]) == ("gemvane.dram-channels/1", 900, "commands.csv")
    assert [one["requests"] for one in result["channels"]] == [300, 300, 300]
    assert result["end_tick"] == max(one["end_tick"] for one in result["channels"])
    assert pd.read_csv("commands.csv")["ch"].value_counts().to_dict() == {
        number: sum(one["commands"].values()) for number, one in enumerate(result["channels"])}
    assert len(replayed(capsys, requests, channels=4)["channels"]) == 4
    screen = replayed(capsys, "several.csv", json=False)
    assert "one channel of 4 Gb, 3 times" in screen and "held longest by" in screen
    with pytest.raises(ValueError, match=r"request table: row 2: ch is 2, but this replay has ch 0 to 1\."):
        replayed(capsys, "several.csv", channels=2)


def test_a_trace_may_be_checked_under_the_liberties_of_the_published_simulator(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.csv").write_text("tick,command,pc,ra,bg,ba,ro,steps\n1,G_ACT,0,0,0,-1,5,-1\n200,COMPS_READRES,0,-1,-1,-1,-1,8\n"
                             "206,PIM_PRECHARGE,0,0,0,0,5,-1\n")
    with pytest.raises(ValueError, match="COMPS_READRES -> PIM_PRECHARGE"):
        command.check(Path("c.csv"), "hbm2-neupims", json=False)
    with pytest.raises(ValueError) as error:
        command.check(Path("c.csv"), "hbm2-neupims", json=False, compat=True)
    assert "PIM_PRECHARGE" not in str(error.value)
    with pytest.raises(ValueError, match=r"--compat: hbm3-6400-4gb has no timing nSTRICT, whose 0 is the compatible mode\."):
        command.check(Path("c.csv"), MEMORY, json=False, compat=True)


def test_requests_may_be_parquet(requests: str) -> None:
    pytest.importorskip("pyarrow")
    pd.read_csv(requests).to_parquet("requests.parquet")
    assert replay_json("requests.parquet", "--memory", MEMORY) == replay_json(requests, "--memory", MEMORY)


def test_the_commands_of_a_replay_are_all_written_and_legal(requests: str) -> None:
    result = replay_json(requests, "--memory", MEMORY, "--commands", "commands.csv")
    count = sum(result["commands"].values())
    assert result["path"] == "commands.csv"
    assert pd.read_csv("commands.csv")["command"].value_counts().to_dict() == result["commands"]
    assert gemvane("dram", "check", "commands.csv", "--memory", MEMORY) == f"ok: {count:,} commands break no rule\n"
    checked = json.loads(gemvane("dram", "check", "commands.csv", "--memory", MEMORY, "--json"))
    assert checked == {"schema": "gemvane.dram-check/1", "memory": MEMORY, "commands": count, "ok": True, "violations": []}
    assert f"-> commands.csv ({count:,} commands)" in gemvane("dram", "replay", requests, "--memory", MEMORY, "--commands", "commands.csv")
    assert sorted(path.name for path in Path().iterdir()) == ["commands.csv", "requests.csv"]


def test_a_wrong_trace_ends_with_its_faults_and_status_2() -> None:
    Path("c.csv").write_text(COMMANDS.format(read=61))
    words = ("dram", "check", "c.csv", "--memory", MEMORY)
    assert refused(*words) == "row 1: RD at tick 61, 3 ticks early after row 0: bank: ACT -> RD wants 63 ticks"
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 2
    thing = json.loads(done.stdout)
    assert not thing["ok"]
    assert thing["violations"] == [{"row": 1, "tick": 61, "command": "RD", "rule": "bank: ACT -> RD wants 63 ticks", "previous": 0,
                                    "early_by": 3}]


def test_of_many_faults_ten_are_told() -> None:
    Path("c.csv").write_text("clock,command,pc,bg,ba,row\n" + "".join(f"{tick},RD,0,0,0,5\n" for tick in range(101, 1000, 20)))
    lines = refused("dram", "check", "c.csv", "--memory", MEMORY).splitlines()
    assert len(lines) == 11
    assert lines[0] == "row 0: RD at tick 101: bank: RD wants an open row"
    assert lines[9] == "error: row 9: RD at tick 281: bank: RD wants an open row"
    assert lines[10] == "error: 35 more like this; --json lists them all"


def test_the_parts_are_listed() -> None:
    screen = gemvane("dram", "parts")
    assert all(name in screen for name in part.names())
    assert "2 pseudo-channels x 4 bank groups x" in screen
    listed = json.loads(gemvane("dram", "parts", "--json"))["parts"]
    assert [row["name"] for row in listed] == part.names()
    assert next(row for row in listed if row["name"] == MEMORY) == {
        "name": MEMORY, "standard": "HBM3", "description": "HBM3 at 6.4 Gb/s, one channel of 4 Gb", "bandwidth_bytes_per_s": 51_200_000_000,
        "tick_ps": 312.5, "levels": {"pseudochannel": 2, "sid": 1, "bank_group": 4, "bank": 4}, "rows": 16384, "columns": 32,
        "request_bytes": 32}


@pytest.mark.parametrize(("old", "new", "message"), [
    ("16383,31", "16384,31", "request table: row 1: ro is 16384, but hbm3-6400-4gb has ro 0 to 16383."),
    ("16383,31", "16383,32", "request table: row 1: co is 32, but hbm3-6400-4gb has co 0 to 31."),
    ("0,0,1,2", "0,2,1,2", "request table: row 0: pc is 2, but hbm3-6400-4gb has pc 0 to 1."),
    ("0,0,1,2", "0,0,-1,2", "request table: row 0: bg is -1, but hbm3-6400-4gb has bg 0 to 3."),
    ("0,0,1,2", "2,0,1,2", "request table: row 0: rw is 2, but hbm3-6400-4gb has rw 0 to 1."),
    ("0,0,1,2", "x,0,1,2", "request table: row 0: rw is 'x'. Expected a whole number."),
    ("0,0,1,2", "0,0,1.5,2", "request table: row 0: bg is 1.5. Expected a whole number."),
    ("0,0,1,2", "0,0,,2", "request table: row 0: bg is nan. Expected a whole number."),
    ("16383,31", f"{2**64},31", f"request table: row 1: ro is {2**64}. Expected a whole number."),
    ("rw,pc,bg", "rw,pc,group", "request table: column 'bg' is missing. It has rw, pc, group, ba, ro, co."),
    (REQUESTS, "", "r.csv: cannot be read as .csv: No columns to parse from file."),
    (REQUESTS, "rw,pc,bg,ba,ro,co\n", "r.csv: has no rows. Expected one a request."),
    (REQUESTS, REQUESTS + "0,0,0,0,0,0,0,0\n",
     "r.csv: cannot be read as .csv: Error tokenizing data. C error: Expected 6 fields in line 4, saw 8."),
])
def test_requests_that_are_wrong(old: str, new: str, message: str) -> None:
    assert old in REQUESTS
    Path("r.csv").write_text(REQUESTS.replace(old, new))
    assert refused("dram", "replay", "r.csv", "--memory", MEMORY, "--commands", "c.csv") == message
    assert [path.name for path in Path().iterdir()] == ["r.csv"]


@pytest.mark.parametrize(("words", "message"), [
    (("r.csv", "--memory", "hbm3-6400-4g"), "unknown memory part 'hbm3-6400-4g' (did you mean 'hbm3-6400-4gb'?)"),
    (("r.csv", "--memory", MEMORY, "--scheduler", "fcfs"), "scheduler 'fcfs' is unknown. Expected one of frfcfs, frfcfs-rowhit."),
    (("r.csv",), "missing option '--memory'"),
    (("r.txt", "--memory", MEMORY), "r.txt: a table is read from .csv or .parquet, not '.txt'."),
    (("r", "--memory", MEMORY), "r: a table is read from .csv or .parquet, but r has no suffix."),
    (("other.csv", "--memory", MEMORY), "other.csv: there is no such file."),
    (("folder.csv", "--memory", MEMORY), "folder.csv: is a folder. Expected a .csv file."),
    (("bytes.csv", "--memory", MEMORY), "bytes.csv: cannot be read as .csv: "),
    (("bytes.parquet", "--memory", MEMORY), "bytes.parquet: "),
    (("r.csv", "--memory", MEMORY, "--commands", "c.txt"), "--commands c.txt: commands are written as .csv, not '.txt'."),
    (("r.csv", "--memory", MEMORY, "--commands", "no/c.csv"), "--commands no/c.csv: there is no folder no."),
])
def test_a_replay_that_cannot_be(words: tuple[str, ...], message: str) -> None:
    Path("r.csv").write_text(REQUESTS)
    Path("folder.csv").mkdir()
    for name in ("bytes.csv", "bytes.parquet"):
        Path(name).write_bytes(b"\xff\xfe\x00\x01")
    assert refused("dram", "replay", *words).startswith(message)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("RD", "READ", "command trace: row 1: command 'READ' is unknown to hbm3-6400-4gb (did you mean 'RD'?). Expected one of ACT, "),
    ("RD,0,0,0,5", "RD,0,0,4,5", "command trace: row 1: ba of RD is 4. Expected ba 0 to 3."),
    ("ACT,0,0,0,5", "ACT,0,0,0,-5", "command trace: row 0: ro of ACT is -5. Expected ro 0 to 16383."),
    ("1,ACT", "?,ACT", "command trace: row 0: tick is '?'. Expected a whole number."),
    ("tick,", "time,", "command trace: column 'tick' is missing. It has time, command, pc, bg, ba, ro."),
])
def test_a_trace_that_cannot_be_read(old: str, new: str, message: str) -> None:
    Path("c.csv").write_text(COMMANDS.format(read=101).replace(old, new))
    assert refused("dram", "check", "c.csv", "--memory", MEMORY).startswith(message)
