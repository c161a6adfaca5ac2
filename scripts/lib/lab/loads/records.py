"""Records on a disk that outlive moves and a shutdown."""

import dataclasses

from .. import disk
from ..progress import LabFailed
from .load import Load


class Records(Load):
    """A program writes numbered records to an ext4 disk, each synced before its number is printed."""

    def __init__(self, image_format="raw", backed=False):
        self.format = image_format
        # Whether the image begins empty, with the file system in a backing file.
        self.backed = backed
        self.name = f"records on {image_format}{' with a backing file' if backed else ''}"

    def shape(self, plan):
        """The program runs."""
        return dataclasses.replace(plan, programs=(*plan.programs, "records"), disk_format=self.format)

    def prepare(self, bench, plan):
        """Makes the disk, on the shared storage."""
        self.image = f"{plan.name}.{self.format}"
        self.base = {}
        if self.backed:
            name = f"{plan.name}.base"
            self.base = {name: disk.make("raw", name, bench.folder)}
            bench.share(self.base[name], name)
            content = disk.make_overlay(self.image, name, bench.folder)
        else:
            content = disk.make(self.format, self.image, bench.folder)
        return dataclasses.replace(plan, disk=bench.share(content, self.image))

    def begin(self, bench, guest):
        """It has begun to write."""
        guest.reaches("records", 0)

    def moved(self, bench, guest, move):
        """It writes on."""
        guest.reaches("records", guest.numbers("records")[-1][1])

    def ended(self, bench, guest):
        """The file system is clean and holds every record that was told of; a backing file is what it was."""
        for name, content in self.base.items():
            if bench.hosts.take_shared(name) != content:
                raise LabFailed(f"the backing file {name} was written to")
        told = guest.numbers("records")[-1][1]
        kept = disk.check(self.format, self.image, bench.hosts.take_shared(self.image), bench.folder, self.base)
        if kept < told:
            raise LabFailed(f"the disk holds {kept} records, but {told} had been acknowledged")
