#!/usr/bin/env bash
# Software:  PyPI libqcow-python 20260703 (pyqcow, libyal's libqcow), beside qemu-img 7.2
# Guess:     a compressed qcow2 that `qemu-img convert -c` wrote (zlib, the default) either reads as what went
#            in or raises. libqcow opens it and lists no unsupported feature.
# Happens:   many clusters come back as zeros without an error, others are right. Which ones depends on
#            where in its 512-byte sectors the compressed data of a cluster lies. Uncompressed images are read well.
# Where:     pyqcow.file.read of a compressed cluster; qemu's format is docs/interop/qcow2.txt, "Compressed
#            Clusters Descriptor".
# Meaning:   distribution cloud images are compressed qcow2. A tool that mounts or hashes them by libqcow
#            sees holes where there are files, and no error says so.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
qemu-img --version | grep -q 'version 7\.2\.' || echo "note: $(qemu-img --version | head -1), stated for 7.2"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check libqcow-python==20260703

# 64 clusters of half-compressible bytes: no cluster is zero.
python3 - <<'EOF'
import random
numbers = random.Random(7)
open("disk.raw", "wb").write(bytes(numbers.getrandbits(4) + 1 for _ in range(64 * 65536)))
EOF
qemu-img convert -f raw -O qcow2 disk.raw plain.qcow2
qemu-img convert -c -f raw -O qcow2 disk.raw packed.qcow2
qemu-img compare -q -f qcow2 -F raw packed.qcow2 disk.raw && back=identical || back=different
seen=$(timeout 60 venv/bin/python - <<'EOF'
import pyqcow
truth = open("disk.raw", "rb").read()
for name in ("plain.qcow2", "packed.qcow2"):
    image = pyqcow.file()
    image.open(name)
    wrong = zeros = 0
    for at in range(0, len(truth), 65536):
        image.seek(at)
        data = image.read(65536)
        wrong += data != truth[at:at + 65536]
        zeros += not any(data)
    print(name, "clusters wrong:", wrong, "all zero:", zeros, "errors: 0")
EOF
)
echo "software: libqcow-python 20260703, qemu-img 7.2"
echo "expected: 0 of 64 clusters wrong in both (qemu-img itself finds its packed image $back with the source)"
echo "seen:"
sed 's/^/          /' <<< "$seen"
plain=$(sed -n 's/^plain.*wrong: \([0-9]*\) .*/\1/p' <<< "$seen")
packed=$(sed -n 's/^packed.*wrong: \([0-9]*\) .*/\1/p' <<< "$seen")
[[ $back == identical && $plain == 0 && $packed -gt 0 ]] || { echo "the behaviour has changed"; exit 1; }
