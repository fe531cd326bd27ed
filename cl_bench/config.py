"""From YAML to checked objects, and from a configuration to the name of its run's folder.

A constructor's typed signature is the schema of its YAML: `build` refuses an unknown key or a value of the
wrong type in one line before anything is trained. Nothing here imports torch.
"""

from __future__ import annotations


class InputError(ValueError):
    """What a person asked for can't be done; the message is one line that names the key and the way out."""
