"""What a node tells while it works."""


def send_text(node_id, text: str) -> None:
    """Shows a line of text on the node, where the running ComfyUI can."""
    try:
        from server import PromptServer

        send = PromptServer.instance.send_progress_text
    except (ImportError, AttributeError):  # no server (tests), or an older one
        return
    if node_id is not None:
        send(text, node_id)
