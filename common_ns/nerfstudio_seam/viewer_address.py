"""`ns-viewer` on this suite's runs answers this machine only, as `ns-train` does, unless it is told otherwise.

nerfstudio 1.1.5's `ns-viewer` replaces the viewer's options in a run's config by its own, whose default address is that
of all networks the machine is in.
"""

from __future__ import annotations

import sys
from typing import Any

EVERYWHERE, HERE = "0.0.0.0", "127.0.0.1"
OPTION = "--viewer.websocket-host"


def listen_here_by_default() -> None:
    """Let viewers of our models listen on this machine only where nobody has asked for more. Calling it again changes
    nothing."""
    from nerfstudio.viewer.viewer import Viewer

    from common_ns.nerfstudio_seam.pipeline import FieldPipeline

    begin = Viewer.__init__
    if getattr(begin, "listens_here", False):
        return

    def __init__(self: Viewer, config: Any, log_filename: Any, datapath: Any, pipeline: Any, *rest: Any, **named: Any):
        asked = any(word.replace("_", "-").split("=")[0] == OPTION for word in sys.argv)
        of_a_training = named.get("trainer", rest[0] if rest else None) is not None
        if isinstance(pipeline, FieldPipeline) and config.websocket_host == EVERYWHERE and not (asked or of_a_training):
            config.websocket_host = HERE
        begin(self, config, log_filename, datapath, pipeline, *rest, **named)

    __init__.listens_here = True  # type: ignore[attr-defined]
    Viewer.__init__ = __init__  # type: ignore[method-assign]
