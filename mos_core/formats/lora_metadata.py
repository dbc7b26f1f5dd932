"""What a LoRA's metadata says beside its base model: words that call it."""

from __future__ import annotations

import json
from collections.abc import Mapping

WORDS = ("modelspec.trigger_phrase", "trigger_words", "trigger_word", "ss_trigger_words")
MANY = 3  # words that every caption had, at most


def trigger_words_of(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The words that a file names: its trigger phrase, or the tags that all its captions had."""
    for key in WORDS:
        phrase = metadata.get(key)
        if isinstance(phrase, str) and phrase.strip():
            return tuple(word.strip() for word in phrase.split(",") if word.strip())
    return _common_tags(metadata.get("ss_tag_frequency", ""))


def _common_tags(text: str) -> tuple[str, ...]:
    """kohya's `{folder: {tag: count}}`: the tags of the highest count, if they are few."""
    try:
        folders = json.loads(text)
        counts: dict[str, int] = {}
        for tags in folders.values():
            for tag, count in tags.items():
                counts[tag.strip()] = counts.get(tag.strip(), 0) + int(count)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return ()
    most = max(counts.values(), default=0)
    common = tuple(tag for tag, count in counts.items() if tag and count == most)
    return common if len(common) <= MANY else ()
