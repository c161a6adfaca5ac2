"""What the lab says while it works."""

import sys
import time


class LabFailed(Exception):
    """Why the lab cannot go on, in one sentence."""


class Progress:
    """Lines on standard error, each with the seconds since the lab began."""

    def __init__(self, quiet=False):
        self.began = time.monotonic()
        self.quiet = quiet

    def say(self, text):
        """Says what is going on."""
        if not self.quiet:
            # One write a line: several cases talk at once.
            sys.stderr.write(f"[{time.monotonic() - self.began:6.1f} s] {text}\n")
            sys.stderr.flush()
