"""Measure the tables of the help pages and of demo/README.md anew, and write them into the pages.

scripts/bench tables [UNIT ...] [--again] [--write-only]

Runs the other benchmarks, one unit after the other, on the models that ship. What a unit gave is
kept in benchmarks/measured.json with a sum over the models that it was measured on; a unit that was
measured on the models as they are is not run again (--again: it is), so that the command can be
stopped and started again. --write-only: no measuring, the pages are written from what is kept.
"""

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from _concepts import DEMO, concept_files
from _tables import FLUX_ROWS, REGION_ROWS, SDXL_ROWS, SHIPPED_ROWS, TABLES, table_on, with_table

KEPT = Path(__file__).absolute().parent / "measured.json"
BENCH = DEMO.parent / "scripts" / "bench"
FUSION_ORDER = "parrot zebra blackcat wizard astronaut poodle taxi princess"
FLUX_OPTIONS = {"led": "", "gap": " --unled --gap 16", "border": " --unled --border 0.25"}
SHIPPED = "fused/three_concepts.safetensors"
SHIPPED_NAMES = {
    "three": "blackcat wizard taxi",
    "taxi-first": "taxi blackcat wizard",
    "wizard-first": "wizard taxi blackcat",
    "cat-and-wizard": "blackcat wizard",
    "wizard-and-taxi": "wizard taxi",
}
FIND_SEEDS = "--sets 4 --seeds 2 --first-seed 400"
ALL_WAYS = "--methods stack boxes found-one"
FIND_UNITS = {
    "asked": f"{ALL_WAYS} --counts 2 3 {FIND_SEEDS}",
    "touching": f"{ALL_WAYS} --counts 2 --width 112 {FIND_SEEDS}",
    "alike": f"{ALL_WAYS} --counts 3 --names wizard princess astronaut --seeds 4 --first-seed 300",
    "five": f"{ALL_WAYS} --counts 5 --sets 3 --seeds 1 --steps 12 --first-seed 400",
    "ten": "--methods found-one --counts 3 --names blackcat wizard taxi --seeds 10 "
    "--first-seed 200 --steps 12",
    "wider": "--methods boxes found-one --counts 3 --names blackcat wizard taxi --seeds 4 "
    "--first-seed 210 --width 432",
    "adapt": f"--methods boxes --adapt 0.3 --counts 2 3 {FIND_SEEDS}",
    "adapt-touching": f"--methods boxes --adapt 0.3 --counts 2 --width 112 {FIND_SEEDS}",
}
UNITS = {
    "identity": "identity --seeds 1 --pairs 16 --threes 8 --judged 5 --steps 16",
    "concepts": "concepts --seeds 2 --first-seed 101",
    **{
        f"regions {method}": f"regions_identity --methods {method} --sets 4 --seeds 2 "
        "--first-seed 20"
        for method in REGION_ROWS
    },
    **{
        f"flux {row}": "regions_identity --checkpoint demo/models/miniature_flux.safetensors "
        f"--files flux_{{}}.safetensors --methods {'composer' if row in FLUX_OPTIONS else row} "
        "--sets 4 --seeds 2 --first-seed 20 --sampler euler --scheduler simple"
        + FLUX_OPTIONS.get(row, " --unled")
        for row in FLUX_ROWS
    },
    **{
        f"sdxl {row}": "regions_identity --checkpoint demo/models/miniature_sdxl.safetensors "
        + (
            "--files sdxl_{}.safetensors --methods composer --counts 2 3"
            if row == "edlora"
            else f"--files sdxl_{{}}_lora.safetensors --methods {row}"
            + (" --refine-steps 0" if row == "fused" else "")
        )
        + " --sets 3 --seeds 2 --first-seed 20"
        for row in SDXL_ROWS
    },
    **{f"find {column}": f"find_regions {options}" for column, options in FIND_UNITS.items()},
    **{
        f"shipped {row}": f"regions_identity --methods fused --fused demo/models/{SHIPPED} --names "
        f"{SHIPPED_NAMES[row]} --sets 4 --seeds 2 --first-seed 1"
        for row in SHIPPED_ROWS
    },
    "detail": "detail_regions --counts 2 3 --sets 4 --seeds 2 --denoise 0.6 0.85",
    "fusion": f"fused_identity --names {FUSION_ORDER} --unfused fox penguin horse man cat "
    "--set steps=10 anchor=0",
}


WORLDS = {
    "flux": ("miniature_flux.safetensors", "flux_{}.safetensors"),
    "sdxl": ("miniature_sdxl.safetensors", "sdxl_{}.safetensors", "sdxl_{}_lora.safetensors"),
}
"""First word of a unit -> its base model and its concepts' files; others: the first world's."""


def files_of(unit: str) -> tuple[str, ...]:
    """A unit's base model and the patterns of its concepts' files."""
    return WORLDS.get(unit.split()[0], ("miniature.safetensors", "{}.safetensors"))


def has_a_model(unit: str) -> bool:
    """Whether the base model lies in demo/models: not every world is trained yet."""
    return (DEMO / "models" / files_of(unit)[0]).is_file()


def models_sum(unit: str) -> str:
    """Twelve hex digits over a unit's base model and concepts."""
    base, *patterns = files_of(unit)
    total = hashlib.sha256()
    models = DEMO / "models"
    files = [concept_files(models / "concepts", pattern).values() for pattern in patterns]
    if unit.split()[0] == "shipped":
        files = [[models / SHIPPED]]
    for file in (models / base, *itertools.chain.from_iterable(files)):
        if file.is_file():
            total.update(file.read_bytes())
    return total.hexdigest()[:12]


def read_kept() -> dict:
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}


def write_kept(kept: dict) -> None:
    part = KEPT.with_suffix(".part")
    part.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    os.replace(part, KEPT)


def measure(command: str) -> dict:
    """A benchmark's last line; raises CalledProcessError if it fails."""
    run = subprocess.run(
        [sys.executable, str(BENCH), *command.split()],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=DEMO.parent,
    )
    return json.loads([line for line in run.stdout.splitlines() if line.strip()][-1])


def write_pages(kept: dict) -> list[str]:
    """Writes every table that has a place on its page and whose units were all measured; -> the
    names of the written ones."""
    results, written = {unit: entry["result"] for unit, entry in kept.items()}, []
    for name, (page, table_of) in TABLES.items():
        if table_on(page.read_text(encoding="utf-8"), name) is None:
            continue
        try:
            table = table_of(results)
        except KeyError:  # a unit that was never measured
            continue
        page.write_text(with_table(page.read_text(encoding="utf-8"), name, table), encoding="utf-8")
        written.append(name)
    return written


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("units", nargs="*", help="all if none; the first word is enough")
    parser.add_argument("--again", action="store_true", help="measured units too")
    parser.add_argument("--write-only", action="store_true", help="measure nothing")
    args = parser.parse_args()
    kept, start, measured, left_out = read_kept(), time.time(), [], []
    models = {unit: models_sum(unit) for unit in UNITS}
    for unit, command in UNITS.items():
        wanted = not args.units or unit in args.units or unit.split()[0] in args.units
        known = kept.get(unit, {})
        fresh = known.get("models") == models[unit] and known.get("command") == command
        if args.write_only or not wanted or (fresh and not args.again):
            continue
        if not has_a_model(unit):
            left_out.append(unit)
            continue
        kept[unit] = {"command": command, "models": models[unit], "result": measure(command)}
        write_kept(kept)
        measured.append(unit)
        print(f"{unit}: measured after {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    old = sorted(unit for unit in UNITS if kept.get(unit, {}).get("models") != models[unit])
    result = {"benchmark": "tables", "models": models, "measured": measured}
    result["without_a_model"] = left_out
    result |= {"tables_written": write_pages(kept), "measured_on_other_models": old}
    print(json.dumps(result | {"seconds": round(time.time() - start)}))


if __name__ == "__main__":
    main()
