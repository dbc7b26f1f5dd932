"""The three wrappers of a model with regions, whatever its kind."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import comfy.patcher_extension

from ..host.compiled import uncompiled
from .missed import Pieces, Say
from .roles import OTHER, ROLES, with_roles

LOG = logging.getLogger(__name__)
KEY = "mix_of_show_regional"  # of our wrappers on a ModelPatcher
HOOKED = "mix_of_show_hooked"  # key in transformer_options: weights change between steps
WrappersMP = comfy.patcher_extension.WrappersMP


class RegionalWrappers:
    """Holds no module and no weight of the model.

    new_run: makes what is computed once per sampling run. say: hears after each sampling, a
    sentence each, what did not act in it.
    """

    def __init__(self, new_run: Callable[[], Any], say: Say = LOG.warning):
        self.new_run = new_run
        self.say = say
        self.runs: list = []  # the sampling runs that are going on; the last is ours
        self.pieces: list[Pieces] = []  # of each of them

    def __deepcopy__(self, memo: dict) -> "RegionalWrappers":
        return self

    def put_on(self, patcher: Any) -> None:
        """Adds the wrappers to a ModelPatcher clone of ours."""
        for kind, wrapper in (
            (WrappersMP.OUTER_SAMPLE, self.sample),
            (WrappersMP.APPLY_MODEL, self.note_call),
            (WrappersMP.DIFFUSION_MODEL, self.run_model),
        ):
            patcher.add_wrapper_with_key(kind, KEY, wrapper)

    def sample(
        self, executor: Any, noise: Any, latent_image: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """OUTER_SAMPLE wrapper: what is computed once lives for one sampling run. Conditionings
        are marked with what they draw, and nothing runs compiled."""
        guider = executor.class_obj
        conds = guider.conds
        self.runs.append(self.new_run())
        self.pieces.append(Pieces(latent_image))
        try:
            guider.conds = with_roles(conds)
            with uncompiled():
                return executor(noise, latent_image, *args, **kwargs)
        finally:
            guider.conds = conds
            for sentence in (*self.missed_in(self.runs.pop()), *self.pieces.pop().sentences()):
                self.say(sentence)

    def note_call(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """APPLY_MODEL wrapper: takes off the marks, and notes whether ComfyUI's hooks change
        weights from step to step."""
        roles = kwargs.pop(ROLES, None)
        if self.pieces:
            self.pieces[-1].note(args[0])
        named = "transformer_options" in kwargs or len(args) < 6
        options = dict((kwargs.get("transformer_options") if named else args[5]) or {})
        if roles is not None:
            options[ROLES] = tuple(roles.tolist())  # on the CPU
        elif self.runs:
            options[ROLES] = (OTHER,) * len(args[0])  # a pass of another node's own
        patcher = getattr(executor.class_obj, "current_patcher", None)
        if getattr(patcher, "current_hooks", None) is not None:
            options[HOOKED] = True
        if named:
            return executor(*args, **{**kwargs, "transformer_options": options})
        return executor(*args[:5], options, *args[6:], **kwargs)

    def run_model(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """DIFFUSION_MODEL wrapper."""
        raise NotImplementedError

    def missed_in(self, run: Any) -> tuple[str, ...]:
        """What did not act in a run, a sentence each."""
        return ()

    def run_of(self, options: Mapping) -> Any:
        """What was computed for this sampling run; anew if weights may have changed since."""
        return self.runs[-1] if self.runs and not options.get(HOOKED) else self.new_run()


def regional_of(patcher: Any) -> RegionalWrappers | None:
    """The regions of a model that has some."""
    for wrapper in patcher.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY):
        return wrapper.__self__
    return None
