#!/usr/bin/env bash
# Software:  PyPI dissect.hypervisor 3.21 (dissect.util 3.24, dissect.cstruct 4.7) and libvmdk-python 20260714,
#            beside qemu-img 7.2
# Guess:     the last number of a FLAT extent line is the sector in the data file where the extent begins
#            (`RW 2048 FLAT "disk.bin" 128` begins 64 KiB into the file), so a reader starts there.
# Happens:   dissect reads from the file's first sector, libvmdk from *byte* 128. The size is right, nearly every
#            sector is the wrong one, nothing is said. qemu-img reads from the offset.
# Where:     dissect/hypervisor/disk/vmdk.py opens RawDisk(handle, size) without an offset; libvmdk takes the
#            sector number for a number of bytes.
# Meaning:   descriptors over a partition of a raw disk, or over one file that holds several extents, show
#            the file's head instead: a wrong disk that parses, not an error.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check dissect.hypervisor==3.21 dissect.util==3.24 dissect.cstruct==4.7 libvmdk-python==20260714
cat > descriptor.py <<'EOF'
import sys
kind, *extents = sys.argv[2:]
open(sys.argv[1], "w").write(f"""# Disk DescriptorFile
version=1
CID=12345678
parentCID=ffffffff
createType="{kind}"

# Extent description
{chr(10).join(extents)}

# The Disk Data Base
#DDB
ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "4"
ddb.geometry.heads = "16"
ddb.geometry.sectors = "63"
ddb.adapterType = "ide"
""")
EOF
{ head -c 64K /dev/zero | tr '\0' H; head -c 1M /dev/zero | tr '\0' D; } > disk.bin
python3 descriptor.py disk.vmdk monolithicFlat 'RW 2048 FLAT "disk.bin" 128'
qemu-img convert -f vmdk -O raw disk.vmdk disk.raw
cat > count.py <<'EOF'
from pathlib import Path
import pyvmdk
from dissect.hypervisor.disk.vmdk import VMDK
ours = open("disk.raw", "rb").read()
disk = VMDK(Path("disk.vmdk"))
theirs = disk.read(disk.size)
handle = pyvmdk.handle()
handle.open("disk.vmdk")
handle.open_extent_data_files()
other = handle.read(handle.get_media_size())
for name, data in ("qemu-img", ours), ("dissect", theirs), ("libvmdk", other):
    print(name, len(data), data.count(b"H"))
EOF
seen=$(timeout 60 venv/bin/python count.py)
echo "software: dissect.hypervisor 3.21, libvmdk-python 20260714, $(qemu-img --version | head -1)"
echo "expected: (reader, size, bytes from before the extent's offset) 1048576 0 from all three"
echo "seen:"
sed 's/^/          /' <<< "$seen"
[[ $seen == $'qemu-img 1048576 0\ndissect 1048576 65536\nlibvmdk 1048576 65408' ]] || { echo "the behaviour has changed"; exit 1; }
