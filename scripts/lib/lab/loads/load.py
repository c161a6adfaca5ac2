"""What all loads have in common: nothing, unless they say so."""


class Load:
    """Something that a guest does. Each step raises `LabFailed` with what is wrong."""

    def shape(self, plan):
        """The plan with what this load needs of the guest."""
        return plan

    def prepare(self, bench, plan):
        """The plan with what had to be made first, such as a disk."""
        return plan

    def begin(self, bench, guest):
        """The guest is ready: waits until the load works."""

    def moving(self, bench, guest):
        """A move is about to begin."""

    def moved(self, bench, guest, move):
        """A move has ended: checks that the load goes on."""

    def ended(self, bench, guest):
        """The guest is off, in good order: checks what it left behind."""
