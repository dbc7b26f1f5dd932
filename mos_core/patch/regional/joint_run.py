"""What regions in a diffusion transformer compute once per sampling run: places, gates, groups."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...compose.drawn import Drawn
from ...compose.injection import Bundle, Gates, Injection, Single, make_bundles, make_gates
from ...compose.isolation import Isolation
from ...compose.placement import placement_scale
from ...compose.settings import BY_AREA, SKIP
from ...compose.tokens import (
    SeenGroup,
    TextPlan,
    see_across,
    see_image,
    see_jointly,
    see_texts,
)
from ...errors import RegionError
from ...families.family import ALONE_IMAGE, ALONE_TEXT, CROSS, Family
from ...records import Site
from ...regions.region import Region, shares
from .joint_texts import RegionTexts
from .once import once

Groups = Sequence[tuple[SeenGroup, ...] | None] | None  # of each chunk of a batch


@dataclass(frozen=True)
class ImagePlan:
    """Tokens of the image in a sequence: rows * columns cells, then padding, then so many of each
    reference picture."""

    rows: int
    columns: int
    padding: int = 0
    references: tuple[int, ...] = ()

    @property
    def cells(self) -> int:
        return self.rows * self.columns

    @property
    def total(self) -> int:
        return self.cells + self.padding + sum(self.references)


class JointRun:
    """The caches of one run.

    picture_layers: of PICTURE_LAYERS. placement: b of compose/placement.py. roles: of the sites
    that have deltas and that the family knows.
    """

    def __init__(
        self,
        family: Family,
        drawn: Sequence[Drawn],
        isolation: Isolation,
        picture_layers: str,
        placement: float = 0.0,
    ):
        assert family.sequence is not None
        self.sequence = family.sequence
        self.drawn = drawn
        self.regions = [one.region for one in drawn]
        self.injection = Injection("full", drawn)
        self.roles = {
            site: role
            for site in self.injection.elsewhere
            if (role := family.role(site.path)) is not None
        }
        self.isolation = isolation
        self.picture_layers = picture_layers
        self.placement = placement
        self.texts = RegionTexts(drawn)
        self._attending: dict[str, str] = {}

    # --- who sees whom --------------------------------------------------------------------------

    def attending(self, model: torch.nn.Module) -> Mapping[str, str]:
        """Path of each module that attends -> what attends there."""
        if not self._attending:
            self._attending = self.sequence.attending(path for path, _ in model.named_modules())
        return self._attending

    @once
    def parts(self, image: ImagePlan) -> torch.Tensor:
        """(regions, image tokens), each region's share of each token; of those that belong to the
        picture as a whole, its share of the picture."""
        own = shares(self.regions, image.rows, image.columns).flatten(1)
        whole = own.mean(1)
        columns = [own, whole[:, None].expand(-1, image.padding)]
        for tokens, named in zip(image.references, self.named(len(image.references)), strict=True):
            share = named / named.sum() if named.any() else whole
            columns.append(share[:, None].expand(-1, tokens))
        return torch.cat(columns, 1)

    @once
    def members(self, image: ImagePlan) -> torch.Tensor:
        """(regions, image tokens) bool: which tokens are closed to other regions' ones."""
        own = self.isolation.members(self.regions, image.rows, image.columns)
        columns = [own, own.new_zeros(len(own), image.padding)]
        for tokens, named in zip(image.references, self.named(len(image.references)), strict=True):
            columns.append(named[:, None].bool().expand(-1, tokens))
        return torch.cat(columns, 1)

    @once
    def named(self, count: int) -> torch.Tensor:
        """(references, regions) float32, 1 where a region names a reference picture by its number.

        Raises RegionError for a number that none of `count` pictures has.
        """
        named = torch.zeros(count, len(self.regions))
        for number, region in enumerate(self.regions):
            if count and region.reference is not None:
                named[reference_number(region, count), number] = 1.0
        return named

    @once
    def groups(
        self,
        kind: str,
        plan: TextPlan,
        image: ImagePlan,
        placed: bool,
        device: torch.device,
        dtype: torch.dtype,
    ) -> tuple[SeenGroup, ...] | None:
        """tuple of SeenGroup, on the device; None where all see all. placed: see_jointly."""
        if kind == ALONE_TEXT:
            found = see_texts(plan)
        else:
            member = self.members(image)
            if kind == ALONE_IMAGE:
                found = see_image(member, self.isolation.mode)
            elif kind == CROSS:
                found = see_across(plan, member, self.parts(image), self.isolation.mode)
            else:
                mode = self.isolation.mode
                found = see_jointly(plan, member, self.parts(image), mode, placed)
        if len(found) == 1 and found[0].keys is None and found[0].bias is None:
            return None
        return tuple(_on(group, device, dtype) for group in found)

    def groups_of(self, kind: str, plans: Sequence[TextPlan], *place: Any) -> Groups:
        """`groups` of each chunk of a batch by its plan; None where all see all in all of them."""
        found = [self.groups(kind, plan, *place) for plan in plans]
        return None if all(groups is None for groups in found) else found

    def placed(self, options: Mapping) -> float:
        """What is added to the logits of own words in the step that is running."""
        return self.placement * placement_scale(progress_of(options)) if self.placement else 0.0

    # --- deltas ---------------------------------------------------------------------------------

    @once
    def bundles(
        self, site: Site, device: torch.device, dtype: torch.dtype
    ) -> tuple[Bundle | Single, ...]:
        return make_bundles(self.injection.elsewhere[site], device, dtype)

    @once
    def whole(self, choice: str) -> torch.Tensor:
        """(concepts,): what of each concept's delta acts on the picture as a whole."""
        total = torch.zeros(len(self.injection.concepts))
        grid = ImagePlan(64, 64)
        for one, area in zip(self.drawn, self.parts(grid).mean(1), strict=True):
            if one.concept is None or choice == SKIP:
                continue
            number, strength = self.injection.numbers[id(one.concept)], one.region.strength
            if choice == BY_AREA:
                total[number] += area * strength
            elif area > 0:
                total[number] = max(total[number], strength)
        return total

    @once
    def in_text(self, plan: TextPlan) -> torch.Tensor:
        """(concepts, tokens): each concept's share of each token of the texts."""
        part = torch.zeros(len(self.injection.concepts), plan.total)
        texts = list(zip(plan.starts, plan.words, strict=True))[1:]
        for one, (start, (_, room)) in zip(self.drawn, texts, strict=True):
            if one.concept is not None:
                number = self.injection.numbers[id(one.concept)]
                part[number, start : start + room] = one.region.strength
        return part

    @once
    def in_image(self, image: ImagePlan) -> torch.Tensor:
        """(concepts, tokens) of the image."""
        own = self.injection.shares(image.rows, image.columns)
        columns = [own, own.mean(1, keepdim=True).expand(-1, image.padding)]
        for tokens, named in zip(image.references, self.named(len(image.references)), strict=True):
            share = self.whole(self.picture_layers)
            if named.any():
                share = torch.zeros_like(share)
                for one, part in zip(self.drawn, named / named.sum(), strict=True):
                    if one.concept is not None:
                        number = self.injection.numbers[id(one.concept)]
                        share[number] += part * one.region.strength
            columns.append(share[:, None].expand(-1, tokens))
        return torch.cat(columns, 1)

    @once
    def gates(
        self,
        concepts: tuple[int, ...],
        ranks: tuple[int, ...],
        plan: TextPlan | None,
        image: ImagePlan | None,
        repeats: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Gates | None:
        """Of a bundle in a sequence of texts, image, or both. repeats: rows per token."""
        parts = [self.in_text(plan)] if plan is not None else []
        parts += [self.in_image(image)] if image is not None else []
        part = torch.cat(parts, 1).repeat_interleave(repeats, 1)
        return make_gates(concepts, ranks, part, device, dtype)

    @once
    def whole_gates(
        self,
        concepts: tuple[int, ...],
        ranks: tuple[int, ...],
        device: torch.device,
        dtype: torch.dtype,
    ) -> Gates | None:
        """Of a bundle where the picture is one row."""
        part = self.whole(self.picture_layers)[:, None]
        return make_gates(concepts, ranks, part, device, dtype)


def progress_of(options: Mapping) -> float:
    """How far the sampling is, 0 to 1; 1 where that is not known. Waits for the device."""
    sigmas, sigma = options.get("sample_sigmas"), options.get("sigmas")
    if not isinstance(sigmas, torch.Tensor) or not isinstance(sigma, torch.Tensor):
        return 1.0
    done = int((sigmas[:-1] > sigma.reshape(-1)[0].to(sigmas) * 1.001).sum())
    return done / max(1, len(sigmas) - 1)


def reference_number(region: Region, count: int) -> int:
    """Which of `count` reference pictures a region names, from 0. Raises RegionError."""
    found = re.search(r"\d+", region.reference or "")
    number = int(found[0]) if found else 0
    if not 1 <= number <= count:
        raise RegionError(
            f"the region '{region.name}' names the reference picture '{region.reference}', and "
            f"the prompt has {count}; write its number, 1 to {count}, in the order of the nodes "
            "that add them"
        )
    return number - 1


def _on(group: SeenGroup, device: torch.device, dtype: torch.dtype) -> SeenGroup:
    keys = None if group.keys is None else group.keys.to(device)
    bias, own = (None if t is None else t.to(device, dtype) for t in (group.bias, group.own))
    return replace(group, queries=group.queries.to(device), keys=keys, bias=bias, own=own)
