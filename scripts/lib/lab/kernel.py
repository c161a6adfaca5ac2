"""A Debian kernel and the modules wanted of it, in the order in which they load."""

import re
from pathlib import Path

from .progress import LabFailed


class Kernel:
    """An unpacked kernel package."""

    def __init__(self, folder):
        self.image = _only(Path(folder).glob("boot/vmlinuz-*"), "kernel")
        modules = _only([*Path(folder).glob("lib/modules/*"), *Path(folder).glob("usr/lib/modules/*")], "folder of modules")
        self.version = modules.name
        self._files = {_name(path): path for path in modules.rglob("*.ko*")}
        self._builtin = {_name(Path(line)) for line in (modules / "modules.builtin").read_text().split()}

    def modules(self, wanted):
        """The files of these modules and of all that they depend on, each after what it needs."""
        order = []
        for name in wanted:
            self._add(name.replace("-", "_"), order)
        return order

    def _add(self, name, order):
        if name in self._builtin:
            return
        path = self._files.get(name)
        if path is None:
            raise LabFailed(f"kernel {self.version} has no module {name}")
        if path in order:
            return
        for needed in dependencies(path.read_bytes()):
            self._add(needed, order)
        order.append(path)


def dependencies(module):
    """What a module says of itself that it needs. (A package brings no modules.dep: depmod writes that when one is installed.)"""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name.decode().replace("-", "_") for name in found[1].split(b",") if name] if found else []


def _name(path):
    return path.name.partition(".ko")[0].replace("-", "_")


def _only(paths, what):
    paths = list(paths)
    if len(paths) != 1:
        raise LabFailed(f"the kernel package has {len(paths)} times a {what} in it where one was expected; remove it from the cache")
    return paths[0]
