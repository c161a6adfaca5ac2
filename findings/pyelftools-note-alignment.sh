#!/usr/bin/env bash
# Software:  PyPI pyelftools 0.33, beside GNU readelf
# Guess:     iter_notes honours the segment's alignment: in a PT_NOTE with p_align 8 each name and each
#            description is padded to 8, as readelf, the kernel (for .note.gnu.property) and the linker do it.
# Happens:   it always pads to 4. The first note is right; the second begins 4 bytes early and is made of
#            the padding and of pieces of the real one. Records with odd types and lengths, no error.
# Where:     elftools/elf/notes.py, iter_notes: roundup(..., 2) for name and description. Usual notes hide it, since
#            their lengths happen to be multiples of 8.
# Meaning:   tools that look for a kernel's notes (PVH entry, build id, vmcoreinfo) in such a segment report
#            that they are not there.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check pyelftools==0.33
cat > image.py <<'EOF'
import struct, sys
def note(owner, kind, data, align):
    owner += b"\0"
    out = struct.pack("<III", len(owner), len(data), kind) + owner
    out += bytes(-len(out) % align) + data
    return out + bytes(-len(out) % align)
def image(name, segments):  # one PT_NOTE per (alignment, bytes)
    at = 64 + 56 * len(segments)
    heads = body = b""
    for align, data in segments:
        body += bytes(-(at + len(body)) % 8)
        place = at + len(body)
        heads += struct.pack("<IIQQQQQQ", 4, 4, place, 0, 0, len(data), len(data), align)
        body += data
    head = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x200000, 64, 0, 0, 64, 56, len(segments), 64, 0, 0)
    open(name, "wb").write(head + heads + body)
for align in 4, 8:
    image(f"align{align}", [(align, note(b"Demo", 1, b"0123456789ab", align) + note(b"Xen", 18, b"\0\0\x20\0", align))])
EOF
python3 image.py
cat > list.py <<'EOF'
import sys
from elftools.elf.elffile import ELFFile
for align in 4, 8:
    with open(f"align{align}", "rb") as file:
        for segment in ELFFile(file).iter_segments():
            print(align, [(it["n_name"], it["n_type"], it["n_descsz"]) for it in segment.iter_notes()])
EOF
seen=$(timeout 30 venv/bin/python list.py)
echo "software: pyelftools 0.33, $(readelf --version | head -1)"
echo "expected: in both files the owners Demo and Xen; readelf finds $(for n in 4 8; do readelf -n align$n 2>/dev/null | grep -oE '^  (Demo|Xen) ' | tr -d '\n'; done)"
echo "seen:     (alignment, [(owner, type, length)])"
sed 's/^/          /' <<< "$seen"
[[ $(head -1 <<< "$seen") == *"('Xen', 18, 4)]" && $(tail -1 <<< "$seen") == "8 ["* && $(tail -1 <<< "$seen") != *Xen* &&
   $(readelf -n align8 2>/dev/null | grep -c '^  Xen ') == 1 ]] || { echo "the behaviour has changed"; exit 1; }
