"""What a node tells while it works."""

import html


def send_text(node_id, text: str) -> None:
    """Shows a line of text on the node, where the running ComfyUI can.

    text: as it is to be read. The editor takes what it gets here for HTML; prompts, names and
    what stands in files come through this function alone, which makes them plain text.
    """
    try:
        from server import PromptServer

        send = PromptServer.instance.send_progress_text
    except (ImportError, AttributeError):  # no server (tests), or an older one
        return
    if node_id is not None:
        send(as_html(text), node_id)


def as_html(text: str) -> str:
    """HTML that a page shows as `text`, character for character.

    Beside HTML's own signs the editor knows two of its own: [[label|address]] is a link, and
    __LNK0__ stands in for one while it looks for addresses.
    """
    return html.escape(text).replace("[", "&#91;").replace("__LNK", "&#95;_LNK")
