"""`scripts/bench tables`: what was measured is what stands on the pages."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).absolute().parent.parent


@pytest.fixture
def bench(monkeypatch):
    """The benchmark's modules `tables` and `_tables`."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import _tables
    import tables

    yield tables, _tables
    for name in ("tables", "_tables", "_concepts"):
        sys.modules.pop(name, None)


def test_pages_say_what_was_measured(bench):
    tables, pages = bench
    results = {unit: entry["result"] for unit, entry in tables.read_kept().items()}
    checked = 0
    for name, (page, table_of) in pages.TABLES.items():
        found = pages.table_on(page.read_text(encoding="utf-8"), name)
        if found is not None:
            assert found == table_of(results), f"{page.name}: scripts/bench tables --write-only"
            checked += 1
    assert checked >= 4


def test_a_table_is_put_between_its_markers_and_nowhere_else(bench):
    _, pages = bench
    page = "a\n\n<!-- table: x -->\n\nold\n\n<!-- end of table -->\n\nb\n"
    assert pages.with_table(page, "x", "| new |\n") == page.replace("old", "| new |")
    with pytest.raises(ValueError, match="no '<!-- table: y -->'"):
        pages.with_table(page, "y", "")


def test_only_what_was_not_measured_on_these_models_is_run(bench, monkeypatch, tmp_path, capsys):
    tables, _ = bench
    kept = {
        unit: {"command": command, "models": "now", "result": {}}
        for unit, command in tables.UNITS.items()
    }
    kept["concepts"]["models"] = "before"
    del kept["regions hooks"]
    run = []
    monkeypatch.setattr(tables, "KEPT", tmp_path / "measured.json")
    monkeypatch.setattr(tables, "models_sum", lambda unit: "now")
    monkeypatch.setattr(tables, "has_a_model", lambda unit: True)
    monkeypatch.setattr(tables, "write_pages", lambda kept: [])
    monkeypatch.setattr(tables, "measure", lambda command: run.append(command) or {"n": 1})
    monkeypatch.setattr(sys, "argv", ["tables"])
    tables.write_kept(kept)
    tables.main()
    assert run == [tables.UNITS["concepts"], tables.UNITS["regions hooks"]]
    last = json.loads(capsys.readouterr().out)
    assert last["measured"] == ["concepts", "regions hooks"]
    assert last["measured_on_other_models"] == []
    tables.main()
    assert len(run) == 2  # everything is measured now


def test_a_world_that_is_not_trained_yet_is_left_out_and_named(
    bench, monkeypatch, tmp_path, capsys
):
    tables, _ = bench
    run = []
    monkeypatch.setattr(tables, "KEPT", tmp_path / "measured.json")
    monkeypatch.setattr(tables, "has_a_model", lambda unit: unit == "identity")
    monkeypatch.setattr(tables, "write_pages", lambda kept: [])
    monkeypatch.setattr(tables, "measure", lambda command: run.append(command) or {"n": 1})
    monkeypatch.setattr(sys, "argv", ["tables"])
    tables.main()
    assert run == [tables.UNITS["identity"]]
    last = json.loads(capsys.readouterr().out)
    assert last["without_a_model"] == [unit for unit in tables.UNITS if unit != "identity"]


def test_a_fusion_row_names_what_was_lost(bench):
    _, pages = bench
    row = {"concepts": 2, "solver": "sum", "refine_steps": 0, "fused": 0.56, "unfused": 0.75}
    row |= {"by_concept": {"taxi": 1.0, "zebra": 0.125}, "by_unfused": {"fox": 1.0, "cat": 0.5}}
    table = pages.fusion_table({"fusion": {"rows": [row, {**row, "solver": "exact"}]}})
    assert "| `sum` | 0 | 2: taxi, zebra | 56 % (100, 13 %) | 75 % (cat 50 %) |" in table
    assert "| `exact` | 0 | the same |" in table
