"""ComfyUI's entry: this folder below its `custom_nodes` is a pack of nodes, and nothing else imports it.

pytest takes a folder with such a file for a package, and imports it where there is no ComfyUI.
"""

from importlib.util import find_spec

if find_spec("comfy") is not None:
    from .modules.instruct_pix2pix.hosts.comfy.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

    __all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
