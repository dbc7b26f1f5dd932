"""Keys and values of the regions' texts in the cross-attentions of one UNet call."""

from collections.abc import Mapping, Sequence

import torch

from ...compose.attention import common_length, repeat_tokens
from ...errors import RegionError
from ...families import AttentionLayer
from .block import rows_of
from .run import Deltas, Texts, attention_path

MOST_REPEATS = 16  # of the longest text: texts of unlike lengths are repeated to a common one
Tensors = tuple[torch.Tensor, ...]
Lengths = Mapping[int, int] | Sequence[int]  # region -> tokens


class KeysValues:
    """texts: that hold in the call. unet: the live module, from which only text projections are
    read. placement: what is added to the logits of own words."""

    def __init__(self, texts: Texts, deltas: Deltas, unet: torch.nn.Module, placement: float):
        self.texts, self.deltas = texts, deltas
        self.unet = unet
        self.placement = placement

    def length(self, region: int, roles: Sequence[int], global_length: int, added: int) -> int:
        """Text tokens of a region that serve all roles of this batch. added: tokens that another
        pack has put behind the global text."""
        own = (self.texts.length(region, role) for role in set(roles))
        lengths = [n + added if n else global_length for n in own]
        length = common_length(lengths)
        if length > MOST_REPEATS * max(lengths):
            raise RegionError(
                f"a region's prompts and the picture's have {' and '.join(map(str, lengths))} "
                "tokens, which cannot be drawn as one batch; encode the picture's prompts with the "
                "stock text encode node and the same CLIP as the regions'"
            )
        return length

    def keys_values(
        self,
        members: Sequence[int],
        layer: AttentionLayer,
        roles: Sequence[int],
        global_kv: Sequence[torch.Tensor],
        global_text: Sequence[torch.Tensor],
        lengths: Lengths,
        added: int,
    ) -> Tensors:
        """k and v (members * batch, tokens, inner): each member's text for each chunk's role, and
        behind it what another pack has added. lengths: region -> tokens, the members' alike."""
        made = []
        for part, kv, text in zip(("to_k", "to_v"), global_kv, global_text, strict=False):
            chunks = []
            for chunk, role in enumerate(roles):
                at = rows_of(chunk, roles, kv.shape[0])
                rows = self.of_role(members, layer, role, part, kv[at], text[at], added)
                if rows.shape[2] != lengths[members[0]]:
                    rows = repeat_tokens(rows.flatten(0, 1), lengths[members[0]])
                    rows = rows.unflatten(0, (len(members), -1))
                chunks.append(rows)
            made.append(torch.cat(chunks, 1).flatten(0, 1))
        return tuple(made)

    def of_role(
        self,
        members: Sequence[int],
        layer: AttentionLayer,
        role: int,
        part: str,
        kv: torch.Tensor,
        text: torch.Tensor,
        added: int,
    ) -> torch.Tensor:
        """One part of the members' texts, (members, count, tokens, inner): their own, or the global
        one through their concepts. kv: (count, tokens, inner) and text: (count, tokens, width) of
        the global one."""
        known = [self.texts.length(member, role) for member in members]
        if not any(known):
            rows = kv.expand(len(members), *kv.shape)
            path = attention_path(layer)
            delta = self.deltas.in_cross(tuple(members), path, part, text.device, text.dtype)
            return (
                rows if delta is None else rows + delta.on(text.expand(len(members), *text.shape))
            )
        if len(set(known)) > 1:  # some have none, or one of another length
            one_by_one = [
                self.of_role((member,), layer, role, part, kv, text, added) for member in members
            ]
            length = common_length([rows.shape[2] for rows in one_by_one])
            return torch.cat([repeat_tokens(rows[0], length)[None] for rows in one_by_one])
        rows = torch.cat(
            [
                self.texts.keys_values(member, role, layer, part, self.unet, kv.device, kv.dtype)
                for member in members
            ]
        )
        rows = rows[:, None].expand(-1, len(kv), -1, -1)  # (members, count, tokens, inner)
        if not added:
            return rows
        return torch.cat([rows, kv[:, -added:].expand(len(members), -1, -1, -1)], 2)

    def placing(
        self,
        members: Sequence[int],
        roles: Sequence[int],
        like: torch.Tensor,
        lengths: Lengths,
        added: int,
    ) -> torch.Tensor | None:
        """(members * batch, 1, tokens): what is added for the members' own words, in the order of
        keys_values; None: nothing."""
        if not self.placement or not any(self.texts.words[member] for member in members):
            return None
        count = like.shape[0] // len(roles)
        rows = [
            self.texts.placed(m, role, lengths[m], added, like.device, like.dtype).expand(count, -1)
            for m in members
            for role in roles
        ]
        return self.placement * torch.cat(rows)[:, None]
