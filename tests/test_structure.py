"""The package's own rules: generated code is current, imports run one way."""

import ast
from pathlib import Path

import tapejit
from tapejit.interpreters import generate

PACKAGE = Path(tapejit.__file__).parent


def test_generated_kernels_are_current():
    """Regenerating gives the same bytes."""
    assert generate.TARGET.read_text() == generate.kernel_source()


def _imports(path: Path) -> set[str]:
    """Top-level imports of a module from this package, by first part."""
    found = set()
    package = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            parts = [*base, *(node.module or "").split(".")]
            parts = [p for p in parts if p]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
    return found


def test_ops_import_nothing_above_them():
    for path in (PACKAGE / "ops").glob("*.py"):
        assert _imports(path) <= {"ops", "errors"}, path


def test_interpreters_know_only_the_table():
    for path in (PACKAGE / "interpreters").glob("*.py"):
        assert _imports(path) <= {"ops", "interpreters"}, path


def test_recording_knows_nothing_of_programs():
    allowed = {"ops", "errors", "tape", "interpreters", "recording", "pytrees", "array_region"}
    for path in (PACKAGE / "recording").glob("*.py"):
        assert _imports(path) <= allowed, path


def test_passes_know_tapes_and_their_lowering_not_programs():
    allowed = {"ops", "errors", "tape", "recording", "interpreters", "config", "lowering", "passes"}
    for path in (PACKAGE / "passes").glob("*.py"):
        assert _imports(path) <= allowed, path


def test_lowering_knows_nothing_of_the_interface():
    allowed = {"ops", "errors", "tape", "interpreters", "config", "lowering", "recording"}
    allowed.add("checkpointing")
    for path in (PACKAGE / "lowering").glob("*.py"):
        assert _imports(path) <= allowed, path


def test_schedules_know_nothing_of_tapes():
    for path in (PACKAGE / "checkpointing").glob("*.py"):
        assert _imports(path) <= {"errors", "interpreters", "checkpointing"}, path


def test_control_flow_knows_nothing_of_transformations():
    for path in (PACKAGE / "control_flow").glob("*.py"):
        assert not _imports(path) & {"api", "derive", "lowering"}, path


def test_custom_rules_know_nothing_of_the_interface():
    allowed = {"ops", "errors", "tape", "interpreters", "recording", "pytrees", "custom", "testing"}
    allowed |= {"config", "lowering"}
    for path in (PACKAGE / "custom").glob("*.py"):
        assert _imports(path) <= allowed, path


def test_tensors_stand_on_recordings_and_programs():
    above = {"api", "replay", "numpy", "demo", "draw"}
    for path in (PACKAGE / "tensors").glob("*.py"):
        assert not _imports(path) & above, path


def test_derivative_tapes_know_nothing_of_the_interface():
    allowed = {"ops", "errors", "tape", "builder", "interpreters", "config", "lowering", "derive"}
    allowed |= {"recording"}
    for path in (PACKAGE / "derive").glob("*.py"):
        assert _imports(path) <= allowed, path


def test_mathematics_stands_in_ops_alone():
    """No derivative is named outside of ops: the rules' vocabulary is imported there only."""
    for path in PACKAGE.rglob("*.py"):
        if "ops" in path.parts or path.name in ("generate.py",):
            continue
        assert "import rules as m" not in path.read_text(), path
