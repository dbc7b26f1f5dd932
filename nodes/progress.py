"""What a node tells while it works."""

import html
from collections.abc import Callable
from functools import partial

NOTED: set[str] = set()  # ids of nodes on which a text stands
CLEARED = " "  # the editor leaves an empty text unread, and the old one stands


def send_text(node_id, text: str) -> None:
    """Shows a line of text on the node, where the running ComfyUI can.

    text: as it is to be read. The editor takes what it gets here for HTML; prompts, names and
    what stands in files come through this function alone, which makes them plain text. Empty: what
    stood there goes.
    """
    try:
        from server import PromptServer

        send = PromptServer.instance.send_progress_text
    except (ImportError, AttributeError):  # no server (tests), or an older one
        return
    if node_id is not None and (text or node_id in NOTED):
        send(as_html(text) or CLEARED, node_id)
        (NOTED.add if text else NOTED.discard)(node_id)


def teller(node) -> Callable[[str], None]:
    """`send_text` to the node of a class whose schema asks for its unique id."""
    return partial(send_text, node.hidden.unique_id if node.hidden else None)


def as_html(text: str) -> str:
    """HTML that a page shows as `text`, character for character.

    Beside HTML's own signs the editor knows two of its own: [[label|address]] is a link, and
    __LNK0__ stands in for one while it looks for addresses.
    """
    return html.escape(text).replace("[", "&#91;").replace("__LNK", "&#95;_LNK")
