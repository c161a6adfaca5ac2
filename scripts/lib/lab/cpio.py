"""Writing an initramfs: the kernel's cpio format 'newc' (Documentation/driver-api/early-userspace/buffer-format.rst)."""

import os
import stat


class Archive:
    """An initramfs in memory. Folders appear by themselves; all belongs to root, and no file has a date."""

    def __init__(self):
        self._parts = []
        self._known = set()
        self._inode = 0

    def file(self, path, content, mode=0o644):
        """Adds a file with these bytes."""
        self._entry(path, stat.S_IFREG | mode, content)

    def copy(self, source, path):
        """Adds a file of this machine, executable or not as it is here."""
        with open(source, "rb") as file:
            self.file(path, file.read(), 0o755 if os.access(source, os.X_OK) else 0o644)

    def folder(self, path):
        """Adds a folder."""
        self._entry(path, stat.S_IFDIR | 0o755, b"")

    def link(self, path, target):
        """Adds a symbolic link."""
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path, major, minor):
        """Adds a character device."""
        self._entry(path, stat.S_IFCHR | 0o600, b"", major, minor)

    def bytes(self):
        """The archive, complete."""
        trailer = _header(0, 0, 0, 0, 0, "TRAILER!!!")
        return b"".join([*self._parts, trailer])

    def _entry(self, path, mode, content, major=0, minor=0):
        path = path.strip("/")
        if path in self._known:
            return
        parent = os.path.dirname(path)
        if parent:
            self.folder(parent)
        self._known.add(path)
        self._inode += 1
        self._parts += [_header(self._inode, mode, len(content), major, minor, path), content, b"\0" * (-len(content) % 4)]


def _header(inode, mode, size, major, minor, name):
    """The header of an entry and its name, up to where the content begins."""
    raw = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(raw), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
    return head + b"\0" * (-len(head) % 4)
