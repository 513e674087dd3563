"""The README: its code runs and prints what it says, its links and commands lead somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_code_blocks_run_and_print_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # In order and with shared names, as a reader meets them; in a folder where files may be left.
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    for number, block in enumerate(blocks("python")):
        # A file for each block, so that errors and listings find their source lines.
        source = tmp_path / f"readme_{number}.py"
        source.write_text(block, encoding="utf-8")
        exec(compile(block, str(source), "exec"), names)
        printed = capsys.readouterr().out.splitlines()
        promised = re.findall(r"^# prints: (.*)$", block, re.MULTILINE)
        assert not promised or printed == promised, block
        table = re.search(re.escape(block) + r"```\n\n```text\n(.*?)^```$", README, re.M | re.S)
        if table:
            # The places of lines name the block's file; dashes are as wide as the widest of them.
            strip = [re.sub(r"\w+\.py(:\d+)|--+$", r"\1", line).rstrip() for line in printed]
            wanted = [re.sub(r"\w+\.py(:\d+)|--+$", r"\1", line) for line in table[1].splitlines()]
            assert strip == [line.rstrip() for line in wanted], block
    assert (tmp_path / "area.svg").stat().st_size > 0


def test_opening_example_has_ten_lines_at_most() -> None:
    assert len([line for line in blocks("python")[0].splitlines() if line.strip()]) <= 10


def test_commands_are_single_lines_that_name_known_extras() -> None:
    demo, tests = blocks("bash")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = settings["project"]["optional-dependencies"]
    for command in (demo, tests):
        assert command.count("\n") == 1
        assert command.startswith("python3 -m venv .venv && ")
        assert set(re.findall(r"\.\[(\w+)\]", command)) <= set(extras)
    assert demo.endswith("-m tapejit demo\n")
    assert tests.endswith("-m pytest\n")


def test_local_links_exist() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    local = [target for target in targets if "://" not in target]
    assert local
    for target in local:
        assert (ROOT / target).exists(), target
