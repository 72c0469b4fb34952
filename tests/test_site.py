"""The documentation as a whole: every page is in the site, every link leads somewhere, the tables of commands and extras are complete."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from gemvane.cli import app
from gemvane.commands.doctor import EXTRAS
from gemvane.completion import hardware, models, parts

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")

if not (ROOT / "mkdocs.yml").is_file():
    pytest.skip("no documentation here", allow_module_level=True)


def pages(node: Any) -> list[str]:
    """All file names of a navigation."""
    if isinstance(node, str):
        return [node]
    return [page for child in (node.values() if isinstance(node, dict) else node) for page in pages(child)]


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = pages(yaml.safe_load(text)["nav"])
    assert sorted(named) == sorted(path.name for path in DOCS.glob("*.md"))


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_links_of_a_page_stay_in_the_site_and_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    local = [link for link in LINK.findall(text) if "://" not in link]
    assert [link for link in local if not (DOCS / link).is_file() or Path(link).name != link] == []


def test_links_of_the_readme_lead_somewhere() -> None:
    if not (ROOT / "hw_configs").is_dir():
        pytest.skip("an sdist has the rooms inside src/gemvane")
    local = [link for link in LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")) if "://" not in link]
    assert local and [link for link in local if not (ROOT / link).exists()] == []


def commands(group: Any, path: str) -> list[str]:
    if not hasattr(group, "commands"):
        return [path]
    return [one for name, command in group.commands.items() for one in commands(command, f"{path} {name}")]


def test_every_command_stands_in_the_table() -> None:
    text = (DOCS / "command-line.md").read_text(encoding="utf-8")
    lacking = [name for name in commands(typer.main.get_command(app), "gemvane") if f"`{name}" not in text]
    assert lacking == []


def test_doctor_and_readme_know_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: tuple(re.split(r"[=<>]", line)[0] for line in lines) for name, lines in project["optional-dependencies"].items()}
    dev, whole = extras.pop("dev"), extras.pop("all")
    assert extras == {name: packages for name, (_, packages) in EXTRAS.items()}
    assert set(re.search(r"\[(.*)\]", whole[0])[1].split(",")) == set(extras) - {"docs"}  # type: ignore[index]
    assert {package for name, packages in extras.items() if name != "docs" for package in packages} <= set(dev), "tests can use all"
    if (ROOT / "README.md").is_file():
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        assert [name for name in extras if f"`{name}`" not in readme] == []


def status(*words: str) -> int:
    return CliRunner().invoke(app, list(words)).exit_code


def test_exit_statuses_are_those_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "command-line.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\d+) \|", text, re.MULTILINE) == ["0", "1", "2", "130"]
    assert status("--version") == 0
    assert status("run", "gpt2", "--hw", "nothing") == 2
    for error, expected in ((KeyboardInterrupt(), 130), (ZeroDivisionError(), 1)):
        def fail(*_: Any, error: BaseException = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr("gemvane.commands.doctor.doctor", fail)
        assert status("doctor") == expected


def completed(line: str) -> list[str]:
    """What bash would be offered at the end of a line."""
    words = line.split(" ")
    asked = {**os.environ, "_GEMVANE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    code = "from gemvane.cli import app; app()"
    return subprocess.run([sys.executable, "-c", code], env=asked, capture_output=True, text=True, check=True).stdout.split()


def test_the_shell_completes_commands_and_names() -> None:
    assert completed("gemvane comp") == ["compare"]
    assert completed("gemvane run llama3-7") == ["llama3-70b"]
    assert completed("gemvane compare gpt2 --hw t4,neu") == ["t4,neupims"]


def test_completion_knows_what_is_bundled() -> None:
    from gemvane.sim import hardware as devices
    from gemvane.workloads import catalog

    assert models("") == catalog.names()
    assert hardware("") == devices.names()
    assert parts("hbm2-n") == ["hbm2-neupims"]


def test_the_notebook_prints_what_it_shows(tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="needs nbclient, of the extra dev")
    pytest.importorskip("ipykernel", reason="needs ipykernel, of the extra dev")
    code = ("import sys, json, pathlib; sys.path.insert(0, sys.argv[1]); import docs_examples as d; "
            "print(json.dumps(d.executed(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))))")
    done = subprocess.run([sys.executable, "-c", code, str(ROOT / "tests"), str(DOCS / "example.ipynb"), str(tmp_path)],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    fresh, kept = json.loads(done.stdout), json.loads((DOCS / "example.ipynb").read_text(encoding="utf-8"))
    assert len(fresh["cells"]) == len(kept["cells"])
    for new, old in zip(fresh["cells"], kept["cells"], strict=True):
        assert plain(new) == plain(old), "".join(old["source"])


def plain(cell: dict[str, Any]) -> list[str]:
    """The texts that a cell shows."""
    return ["".join(out.get("data", {}).get("text/plain", out.get("text", ""))) for out in cell.get("outputs", [])]


def test_the_map_names_every_module() -> None:
    """Of CONTRIBUTING.md; below the folders that it describes as a whole, single modules need no mention."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = re.sub(r"(\w+_)\{([\w,]+)\}\.py", lambda m: " ".join(f"{m[1]}{name}.py" for name in m[2].split(",")), text)
    rooms = ("", "workloads", "sim", "sim/devices", "sim/dram", "validate", "validate/claims")
    folders = [ROOT / "src" / "gemvane" / room for room in rooms]
    modules = [path.stem for folder in folders for path in folder.glob("*.py") if not path.name.startswith("__")]
    assert len(modules) > 100 and [name for name in modules if not re.search(rf"\b{name}(\.py|[,;])", text)] == []
