"""The three wrappers of a model with regions, whatever its kind."""

from collections.abc import Callable
from typing import Any

import comfy.patcher_extension

KEY = "mix_of_show_regional"  # of our wrappers on a ModelPatcher
HOOKED = "mix_of_show_hooked"  # key in transformer_options: weights change between steps
WrappersMP = comfy.patcher_extension.WrappersMP


class RegionalWrappers:
    """Holds no module and no weight of the model.

    new_run: makes what is computed once per sampling run.
    """

    def __init__(self, new_run: Callable[[], Any]):
        self.new_run = new_run
        self.runs: list = []  # the sampling runs that are going on; the last is ours

    def __deepcopy__(self, memo):
        return self

    def put_on(self, patcher) -> None:
        """Adds the wrappers to a ModelPatcher clone of ours."""
        for kind, wrapper in (
            (WrappersMP.OUTER_SAMPLE, self.sample),
            (WrappersMP.APPLY_MODEL, self.note_call),
            (WrappersMP.DIFFUSION_MODEL, self.run_model),
        ):
            patcher.add_wrapper_with_key(kind, KEY, wrapper)

    def sample(self, executor, *args, **kwargs):
        """OUTER_SAMPLE wrapper: what is computed once lives for one sampling run."""
        self.runs.append(self.new_run())
        try:
            return executor(*args, **kwargs)
        finally:
            self.runs.pop()

    def note_call(self, executor, *args, **kwargs):
        """APPLY_MODEL wrapper: with ComfyUI's hooks, weights may change from step to step."""
        options = kwargs.get("transformer_options") or (args[5] if len(args) > 5 else None)
        patcher = getattr(executor.class_obj, "current_patcher", None)
        if options is not None and getattr(patcher, "current_hooks", None) is not None:
            options[HOOKED] = True
        return executor(*args, **kwargs)

    def run_model(self, executor, *args, **kwargs):
        """DIFFUSION_MODEL wrapper."""
        raise NotImplementedError

    def run_of(self, options) -> Any:
        """What was computed for this sampling run; anew if weights may have changed since."""
        return self.runs[-1] if self.runs and not options.get(HOOKED) else self.new_run()
