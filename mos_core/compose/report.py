"""A ComposerLog in words."""

from .log import ComposerLog


def write_report(log: ComposerLog) -> str:
    """How many steps were led, how the loss went, what each region adds to it, and the notes."""
    lines = []
    if not log.done:
        lines.append("Nothing has been sampled with this MODEL yet.")
    elif not log.steps:
        lines.append(f"None of {log.total_steps} steps was led.")
    else:
        first, last = log.steps[0], log.steps[-1]
        lines.append(f"{len(log.steps)} of {log.total_steps} steps were led.")
        lines.append(f"loss {first.losses[0]:.2f} -> {last.losses[0]:.2f}")
        for number, name in enumerate(log.names):
            terms = ", ".join(f"{term} {last.terms[term][number]:.2f}" for term in last.terms)
            lines.append(f"{number + 1}  {name}: {terms}")
    return "\n".join([*lines, *log.notes])
