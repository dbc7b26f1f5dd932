"""Texts of regions that change while a picture is drawn (a CLIP's scheduled hooks)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ...compose.drawn import Conditioning, Drawn, RegionText
from .run import Texts

Choice = tuple[int | None, ...]


class ScheduledTexts:
    """Which entries of the regions' texts hold at a time. make: of chosen entries, one each.

    sampling: the model's `model_sampling`, which knows the times; None outside a sampling, where
    the first entry holds.
    """

    def __init__(self, drawn: Sequence[Drawn], make: Callable[[Sequence[Drawn]], Texts]):
        self.drawn, self.make = drawn, make
        texts = [text for one in drawn for text in (one.text.positive, one.text.negative)]
        self.scheduled = any(text is not None and len(text) > 1 for text in texts)
        self.sampling = None
        self.made: dict[Choice, Texts] = {}

    def at(self, options: Mapping) -> Texts:
        """The texts of the step that is running. Waits for the device only where texts change."""
        if not self.scheduled:
            return self._made_of((0,) * (2 * len(self.drawn)))
        sigma = options.get("sigmas")
        known = sigma is not None and self.sampling is not None
        now = float(sigma.reshape(-1)[0]) if known else None  # type: ignore[union-attr]
        texts = [text for one in self.drawn for text in (one.text.positive, one.text.negative)]
        return self._made_of(tuple(self._active(text, now) for text in texts))

    def _active(self, text: Conditioning | None, now: float | None) -> int | None:
        """The first entry that holds at a sigma; None: none does, the global text stays."""
        if text is None:
            return None
        for number, (_, extras) in enumerate(text):
            if now is None or self._begins(extras) >= now >= self._ends(extras):
                return number
        return None

    def _begins(self, extras: Mapping) -> float:
        assert self.sampling is not None
        return float(self.sampling.percent_to_sigma(extras.get("start_percent", 0.0)))

    def _ends(self, extras: Mapping) -> float:
        assert self.sampling is not None
        return float(self.sampling.percent_to_sigma(extras.get("end_percent", 1.0)))

    def _made_of(self, choice: Choice) -> Texts:
        if choice not in self.made:
            chosen = []
            for one, positive, negative in zip(self.drawn, choice[::2], choice[1::2], strict=True):
                text = RegionText(
                    _entry(one.text.positive, positive), _entry(one.text.negative, negative)
                )
                chosen.append(replace(one, text=text))
            self.made[choice] = self.make(chosen)
        return self.made[choice]


def _entry(text: Conditioning | None, number: int | None) -> Conditioning | None:
    return None if text is None or number is None else [text[number]]
