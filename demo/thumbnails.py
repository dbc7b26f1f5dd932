"""Thumbnails of the templates: runs the shipped workflows and keeps a small picture of each; the
pictures of docs/gallery.md are made on the way, the same ones enlarged.

    python demo/thumbnails.py [NAME ...]      writes workflows/NAME.jpg; all, where none is named

A workflow that needs files of a person's own is shown by its layout, or by its name alone, and says
so. What only changes or saves files, or takes long, is left out of a run.
"""

import io
import sys
import tempfile
from pathlib import Path

DEMO = Path(__file__).absolute().parent
sys.path.insert(0, str(DEMO.parent / "scripts"))

from lib import environment, places  # noqa: E402

SIZE = (512, 384)
ROW, BAR = 128, 34  # pixels: a row of a picture that compares, the title over it in the gallery
PAPER, INK = "#1d1f24", "#e8e8e8"
NEEDS_FILES = "needs files of your own"
SHOWN_BY = {"fuse_concepts": "load_fused"}  # that draws from what this one makes, in minutes less
SLOW = {"MOS_TrainEDLoRA", "MOS_SaveEDLoRA"}
STACK = "a stack of LoRAs, one prompt"
GALLERY = {  # workflow -> its picture in docs/, how many times enlarged; what its rows show
    "compare_methods": (
        "three_ways",
        2,
        (STACK, "fused, each in its region", "unmerged, each LoRA in its own region"),
    ),
    "compare_methods_flux": ("two_ways_flux", 2, (STACK, "each LoRA in its own region")),
    "composer_five": ("composer_five", 2),
    "composer_three": ("composer_three", 2),
    "find_regions": ("find_regions", 2),
    "two_loras_flux": ("two_loras_flux", 3),
    "two_loras_sdxl": ("two_loras_sdxl", 3),
}
PREVIEW = {"class_type": "PreviewImage", "_meta": {"title": ""}}


def reduce(prompt: dict) -> dict:
    """A prompt that runs soon and shows a picture, out of a whole workflow's; may be empty."""
    kept = {id: node for id, node in prompt.items() if node["class_type"] not in SLOW}
    before = -1
    while before != len(kept):  # what is fed by something left out goes too
        before = len(kept)
        kept = {
            id: node
            for id, node in kept.items()
            if all(v[0] in kept for v in node["inputs"].values() if isinstance(v, list))
        }
    if any(node["class_type"] in ("SaveImage", "PreviewImage") for node in kept.values()):
        return kept
    for id, node in kept.items():  # the pictures that would be trained on
        if node["class_type"] == "MOS_LoadTrainingImages":
            return {id: node, "preview": {**PREVIEW, "inputs": {"images": [id, 3]}}}
    return {}


def layout_alone(prompt: dict) -> dict:
    """The region layout of a prompt, without anything before it, and a preview; may be empty."""
    for id, node in prompt.items():
        if node["class_type"] == "MOS_RegionLayout":
            inputs = {k: v for k, v in node["inputs"].items() if not isinstance(v, list)}
            return {
                id: {**node, "inputs": inputs},
                "preview": {**PREVIEW, "inputs": {"images": [id, 1]}},
            }
    return {}


def draw(client, prompt: dict):
    """The picture that a prompt saves, else the last one that it shows, or None."""
    from PIL import Image

    if not prompt:
        return None
    pictures = client.run(prompt, timeout=7200).check().pictures
    saved = [picture for picture in pictures if picture.kind == "output"]
    for picture in saved[:1] or pictures[-1:]:
        return Image.open(io.BytesIO(client.fetch(picture))).convert("RGB")
    return None


def card(picture, words: str):
    """The thumbnail: the picture in the middle, words below it."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", SIZE, PAPER)
    room = SIZE[1] - (44 if words else 0)
    if picture is not None:
        scale = min(SIZE[0] / picture.width, room / picture.height)
        small = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.LANCZOS
        )
        image.paste(small, ((SIZE[0] - small.width) // 2, (room - small.height) // 2))
    if words:
        font = ImageFont.load_default(24 if picture is not None else 34)
        at = (SIZE[0] // 2, SIZE[1] - 22 if picture is not None else SIZE[1] // 2)
        ImageDraw.Draw(image).multiline_text(
            at, words, fill=INK, font=font, anchor="mm", align="center"
        )
    return image


def hang(picture, name: str, factor: int, titles: tuple[str, ...] = ()) -> None:
    """Puts an enlarged picture into the gallery; one of several rows with a title over each."""
    from PIL import Image, ImageDraw, ImageFont

    rows = [picture]
    if titles:
        step = (picture.height - ROW) // (len(titles) - 1)  # rows stand apart
        rows = [picture.crop((0, top, picture.width, top + ROW))
                for top in range(0, picture.height, step)]  # fmt: skip
    bar = BAR if titles else 0
    high = bar + rows[0].height * factor
    page = Image.new("RGB", (picture.width * factor, high * len(rows)), PAPER)
    for number, row in enumerate(rows):
        size = row.width * factor, row.height * factor
        page.paste(row.resize(size, Image.LANCZOS), (0, number * high + bar))
    for number, title in enumerate(titles):
        at = (12, number * high + bar // 2)
        ImageDraw.Draw(page).text(at, title, fill=INK, font=ImageFont.load_default(20), anchor="lm")
    page.save(places.CLONE / "docs" / f"{name}.jpg", quality=85, optimize=True)


def main() -> None:
    comfyui = environment.enter(__file__)
    from lib.client import Client
    from lib.server import Server
    from lib.workflow import read_workflow, to_prompt

    files = sorted(places.WORKFLOWS.glob("*.json"))
    files = [file for file in files if not sys.argv[1:] or file.stem in sys.argv[1:]]
    with (
        tempfile.TemporaryDirectory(prefix="mix-of-show-", ignore_cleanup_errors=True) as base,
        Server(comfyui, Path(base), log=Path(base) / "server.log") as server,
    ):
        client = Client(server.address)
        known = client.object_info()
        for file in files:
            source = file.with_stem(SHOWN_BY.get(file.stem, file.stem))
            workflow = read_workflow(source)
            prompt = to_prompt(workflow, known)
            needs = workflow.get("extra", {}).get("mos", {}).get("needs_files")
            picture = draw(client, layout_alone(prompt) if needs else reduce(prompt))
            title = file.stem.replace("_", " ")
            words = NEEDS_FILES if needs else "" if picture is not None else title
            if needs and picture is None:
                words = f"{title}\n\n{NEEDS_FILES}"
            if picture is not None and file.stem in GALLERY:
                hang(picture, *GALLERY[file.stem])
            card(picture, words).save(file.with_suffix(".jpg"), quality=85, optimize=True)
            sys.stderr.write(f"{file.stem}\n")


if __name__ == "__main__":
    main()
