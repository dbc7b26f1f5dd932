"""Tables of the pages, written from what `scripts/bench tables` measured (measured.json).

A table stands on its page between `<!-- table: NAME -->` and `<!-- end of table -->`.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

PACK = Path(__file__).absolute().parent.parent
HELP = PACK / "web" / "docs"
MARKED = r"(<!-- table: {name} -->\n\n)(.*?)(\n<!-- end of table -->)"

REGION_ROWS = {  # method of regions_identity -> what the page calls it
    "stack": "all LoRAs on one model, one prompt that names everybody",
    "fused-prompt": "one fusion of all eight concepts, that prompt",
    "fused": "that fusion, Regional Sampler",
    "hooks": "ComfyUI's masked LoRA hooks: a pass of the model for each concept",
    "composer": "**Composer: Regional LoRA** as it comes",
    "composer-no-guidance": "... without guidance and re-initialisation",
    "composer-no-reinit": "... without re-initialisation",
    "composer-no-isolation": "... without isolation",
    "composer-no-enhancement": "... without enhancement",
    "composer-no-fill": "... without fill",
    "composer-no-restriction": "... without restriction",
    "composer-paper": "... injection *paper*",
    "composer-reference": "... injection *reference*",
}
FLUX_ROWS = {
    "stack": REGION_ROWS["stack"],
    "hooks": REGION_ROWS["hooks"],
    "composer": REGION_ROWS["composer"] + ", not led",
    "border": "... with `isolation_border` 0.25",
    "gap": "... with strips of background left between the boxes",
    "led": "... led: guidance and re-initialisation",
    "composer-placement": "... with placement",
    "composer-no-isolation": "... without isolation",
    "composer-no-texts": "... without prompts of the regions: the one prompt names everybody",
}
SDXL_ROWS = {  # a unit's second word -> what the page calls it
    "stack": REGION_ROWS["stack"],
    "hooks": REGION_ROWS["hooks"],
    "fused": "one fusion of all five LoRAs, not refined, Regional Sampler",
    "composer": "**Composer: Regional LoRA** with ordinary LoRAs",
    "edlora": "... with ED-LoRAs, of which there are three",
}
SAMPLER_ROWS = {
    "fused-prompt": "one prompt that names everybody",
    "fused": "Regional Sampler",
    "hooks": "ComfyUI's masked LoRA hooks, unfused",
}
SHIPPED_ROWS = {  # a unit's second word -> who stands there, from left to right
    "three": "black cat, wizard, taxi",
    "taxi-first": "taxi, black cat, wizard",
    "wizard-first": "wizard, taxi, black cat",
    "cat-and-wizard": "black cat, wizard",
    "wizard-and-taxi": "wizard, taxi",
}
COUNTS = {"2": "two", "3": "three", "5": "five"}
FIND_COLUMNS = {  # unit of `find`, count -> what the page calls it
    ("asked", "2"): "two",
    ("asked", "3"): "three",
    ("touching", "2"): "two that touch",
    ("alike", "3"): "three look-alikes",
    ("five", "5"): "five in a row",
    ("ten", "3"): "three, ten seeds",
    ("wider", "3"): "three, another width",
}
FIND_ROWS = {  # method of find_regions, its units' beginning -> what the page calls it
    ("stack", ""): "all LoRAs on one model, one prompt",
    ("boxes", ""): "Composer, boxes drawn by hand",
    ("boxes", "adapt"): "... with `adapt` 0.3",
    ("found-one", ""): "**Regions From Attention, then Composer**",
}

Results = Mapping[str, Mapping]  # unit of tables.py -> the benchmark's last line


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n".replace("|  ", "| ") for cells in lines)


def short(value: float, digits: int) -> str:
    return "0" if value == 0 else f"{value:.{digits}f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def whole_percent(share: float) -> str:
    return f"{int(100 * share + 0.5)} %"


def region_table(results: Results) -> str:
    """Boxes right / pictures all right / asked characters elsewhere."""
    return _regions(results, REGION_ROWS, elsewhere=True)


def flux_table(results: Results) -> str:
    """The same in the world of Flux's shape."""
    return _regions(results, FLUX_ROWS, elsewhere=True, world="flux")


def sdxl_table(results: Results) -> str:
    """The same in the world of SDXL's shape."""
    return _regions(results, SDXL_ROWS, elsewhere=True, world="sdxl")


def sampler_table(results: Results) -> str:
    return _regions(results, SAMPLER_ROWS, elsewhere=False)


def shipped_table(results: Results) -> str:
    """The fused file that ships, drawn by regions."""
    rows = []
    for row, label in SHIPPED_ROWS.items():
        ((count, found),) = results[f"shipped {row}"]["fused"].items()
        asked = found["pictures"]
        boxes = asked * int(count)
        right = f"{round(found['box_right'] * boxes)} of {boxes}"
        rows.append([label, right, f"{round(found['all_right'] * asked)} of {asked}"])
    return markdown(["from left to right", "boxes right", "pictures all right"], rows)


def _regions(
    results: Results, labels: Mapping[str, str], elsewhere: bool, world: str = "regions"
) -> str:
    rows = []
    for method, label in labels.items():
        result = results[f"{world} {method}"]
        found = result[method if method in result else "composer"]
        cells = []
        for count in COUNTS:
            if count not in found:  # there are fewer concepts
                cells.append("")
                continue
            shares = [short(found[count][key], 2) for key in ("box_right", "all_right")]
            shares += [short(found[count]["elsewhere"], 1)] if elsewhere else []
            cells.append(" / ".join(shares))
        rows.append([label, *cells])
    return markdown(["", *COUNTS.values()], rows)


def find_table(results: Results) -> str:
    """Share of the asked characters that stand in the picture once; their number heads a column."""
    sizes, rows = {}, []
    for (method, variant), label in FIND_ROWS.items():
        cells = []
        for unit, count in FIND_COLUMNS:
            named = "-".join(filter(None, (variant, "" if variant and unit == "asked" else unit)))
            found = results.get(f"find {named}", {}).get(method, {}).get(count)
            cells.append(short(found["once"], 2) if found else "")
            if found:
                sizes[unit, count] = found["characters"]
        rows.append([label, *cells])
    head = [f"{label} ({sizes[column]})" for column, label in FIND_COLUMNS.items()]
    return markdown(["asked characters that stand there once", *head], rows)


def detail_table(results: Results) -> str:
    """Boxes with the right character before and after; the seams."""
    rows = []
    for count, label in list(COUNTS.items())[:2]:
        found = results["detail"][f"stack {count}"]
        boxes = found["boxes"]
        right = [f"{round(found[key] * boxes)} of {boxes}" for key in ("before", "0.6", "0.85")]
        rows.append([label, *right, f"{found['seam']:.4f}", f"{found['seam_of_vae']:.4f}"])
    columns = ("before", "after, denoise 0.6", "0.85", "change along the borders", "VAE alone")
    return markdown(["right boxes", *columns], rows)


def fusion_table(results: Results) -> str:
    """Each solver: who is right after fusion, and which base characters are still there."""
    rows, named = [], set()
    for row in results["fusion"]["rows"]:
        names = list(row["by_concept"])
        said = f"{row['concepts']}: {', '.join(names)}"
        concepts = "the same" if row["concepts"] in named else said
        named.add(row["concepts"])
        each = ", ".join(whole_percent(s).removesuffix(" %") for s in row["by_concept"].values())
        fused = f"{whole_percent(row['fused'])} ({each} %)"
        lost = ", ".join(
            f"{name} {whole_percent(share)}"
            for name, share in row["by_unfused"].items()
            if share < 1
        )
        kept = whole_percent(row["unfused"]) + (f" ({lost})" if lost else "")
        rows.append([f"`{row['solver']}`", str(row["refine_steps"]), concepts, fused, kept])
    head = ["solver", "`refine_steps`", "concepts", "fused", "base characters not fused"]
    return markdown(head, rows)


def identity_table(results: Results) -> str:
    """The base model: who is right, and how well the drawn characters match their sprites."""
    found = results["identity"]
    judge, match = found["judge"], found["match"]
    asked = (
        ("one character, by name", found["single_right"], match["alone"]),
        ("two, in the asked order", found["pairs_both_right"], match["pairs"]),
        ("three, in the asked order", found["threes_all_right"], match["threes"]),
        ("composed, through the VAE", judge["through_vae"], judge["match_through_vae"]),
    )
    rows = [[name, percent(right), short(matched, 3)] for name, right, matched in asked]
    return markdown(["pictures", "right", "match with the sprite"], rows)


def concept_table(results: Results) -> str:
    """Every concept: share of right pictures at strength 1, 0 and for the class word."""
    found = results["concepts"]
    labels = ("strength 1", "strength 0", "class word")
    names = [name for name, value in found.items() if isinstance(value, dict) and name != "mean"]
    rows = [[name, *(percent(found[name][label]) for label in labels)] for name in names]
    rows.append(["all", *(percent(found["mean"][label]) for label in labels)])
    return markdown(["", *labels], rows)


TABLES: dict[str, tuple[Path, Callable[[Results], str]]] = {
    "regions": (HELP / "MOS_ComposerAttention.md", region_table),
    "flux": (HELP / "MOS_ComposerAttention.md", flux_table),
    "sdxl": (HELP / "MOS_ComposerAttention.md", sdxl_table),
    "find": (HELP / "MOS_FindRegions.md", find_table),
    "detail": (HELP / "MOS_DetailRegions.md", detail_table),
    "sampler": (HELP / "MOS_RegionalSampler.md", sampler_table),
    "shipped": (HELP / "MOS_RegionalSampler.md", shipped_table),
    "fusion": (HELP / "MOS_FuseConcepts.md", fusion_table),
    "identity": (PACK / "demo" / "README.md", identity_table),
    "concepts": (PACK / "demo" / "README.md", concept_table),
}


def table_on(page: str, name: str) -> str | None:
    """What stands between the markers of `name`; None if the page has none."""
    found = re.search(MARKED.format(name=name), page, re.DOTALL)
    return found and found[2]


def with_table(page: str, name: str, table: str) -> str:
    """The page with the table of this name put anew. Raises ValueError without its markers."""
    pattern = re.compile(MARKED.format(name=name), re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"there is no '<!-- table: {name} -->' with its end on the page")
    return pattern.sub(lambda found: found[1] + table + found[3], page)
