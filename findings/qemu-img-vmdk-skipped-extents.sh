#!/usr/bin/env bash
# Software:  qemu-img 7.2 (Debian 12 qemu-utils 1:7.2+dfsg), beside PyPI libvmdk-python 20260714
# Guess:     each extent line of a VMDK descriptor takes its sectors of the disk: access is RW, RDONLY or
#            NOACCESS, type ZERO is a hole (VMware, "Virtual Disk Format", extent descriptions). What cannot
#            be opened is an error, as an unknown type is.
# Happens:   lines that are not RW, and ZERO lines, are skipped without a word. The disk is shorter and
#            all that comes behind a skipped extent moves down. Exit status 0.
# Where:     QEMU block/vmdk.c vmdk_parse_extents: `continue` for other accesses and for lines with no file name.
# Meaning:   a disk with a read-only or an empty piece is converted into one whose second partition lies
#            where the first should be; qemu-img check finds no errors in it.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
qemu-img --version | grep -q 'version 7\.2\.' || echo "note: $(qemu-img --version | head -1), stated for 7.2"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check libvmdk-python==20260714
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
head -c 1M /dev/zero | tr '\0' a > a.bin
head -c 1M /dev/zero | tr '\0' b > b.bin
python3 descriptor.py rdonly.vmdk twoGbMaxExtentFlat 'RDONLY 2048 FLAT "a.bin" 0' 'RW 2048 FLAT "b.bin" 0'
python3 descriptor.py zero.vmdk twoGbMaxExtentFlat 'RW 2048 FLAT "a.bin" 0' 'RW 2048 ZERO' 'RW 2048 FLAT "b.bin" 0'
find_b() { python3 -c 'import sys; d=open(sys.argv[1],"rb").read(); print(len(d), d.find(b"b"))' "$1"; }
for name in rdonly zero; do
    qemu-img convert -f vmdk -O raw $name.vmdk $name.raw
    echo "$name $(find_b $name.raw)"
done > seen
other=$(timeout 30 venv/bin/python - <<'EOF'
import pyvmdk
disk = pyvmdk.handle()
disk.open("rdonly.vmdk")
disk.open_extent_data_files()
data = disk.read(disk.get_media_size())
print(len(data), data.find(b"b"))
EOF
)
echo "software: $(qemu-img --version | head -1)"
echo "expected: (bytes, where b.bin begins) rdonly 2097152 1048576, zero 3145728 2097152; libvmdk says rdonly $other"
echo "seen:     $(head -1 seen), $(tail -1 seen)"
[[ $other == '2097152 1048576' && $(cat seen) == $'rdonly 1048576 0\nzero 2097152 1048576' ]] || { echo "the behaviour has changed"; exit 1; }
