#!/usr/bin/env bash
# Software:  PyPI fdt 0.3.3, beside dtc 1.6.1 (Debian device-tree-compiler)
# Guess:     fdt.parse_dts reads a property of a string and a cell, `mixed = "abc", <1>;`, as dtc does
#            (4 bytes of string, 4 bytes of cell), or raises for what it does not support, as for /bits/.
# Happens:   the value becomes text: two strings, "abc" and "<1>". The blob is valid, the cell is gone.
#            An empty string, `x = "";`, becomes a property without a value.
# Where:     fdt/__init__.py, parse_dts: a value that begins with a quote is split at commas and stripped of quotes.
# Meaning:   a guest reads a phandle or a flag from ASCII digits. Nothing fails until a driver does.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
chmod 755 "$tmp"; cd "$tmp"
apt-get -q download device-tree-compiler=1.6.1-4+b1 libfdt1=1.6.1-4+b1 >/dev/null 2>&1 || { echo "cannot get dtc 1.6.1"; exit 2; }
for deb in *.deb; do dpkg -x "$deb" deb; done
dtc() { LD_LIBRARY_PATH=$(dirname "$(find "$tmp/deb" -name 'libfdt.so.1' | head -1)") "$tmp/deb/usr/bin/dtc" -q "$@"; }
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check fdt==0.3.3
cat > tree.dts <<'EOF'
/dts-v1/;
/ {
	mixed = "abc", <1>;
	empty = "";
	node {
		x = <1>;
	};
};
EOF
dtc -I dts -O dtb -o dtc.dtb tree.dts
venv/bin/python -c 'import fdt; open("fdt.dtb","wb").write(fdt.parse_dts(open("tree.dts").read()).to_dtb(version=17))'
value() {  # the bytes of a property of the root, in hexadecimal
    venv/bin/python - "$1" "$2" <<'EOF'
import struct, sys
blob, wanted = open(sys.argv[1], "rb").read(), sys.argv[2]
_, _, structure, strings = struct.unpack(">4I", blob[:16])
at = structure + 8
while struct.unpack(">I", blob[at:at + 4])[0] == 3:
    length, name = struct.unpack(">2I", blob[at + 4:at + 12])
    end = blob.index(b"\0", strings + name)
    if blob[strings + name:end].decode() == wanted:
        print(blob[at + 12:at + 12 + length].hex() or "nothing")
    at += 12 + (length + 3) // 4 * 4
EOF
}
echo "software: fdt 0.3.3, $(dtc --version)"
echo "expected: as dtc, mixed = $(value dtc.dtb mixed), empty = $(value dtc.dtb empty)"
echo "seen:     mixed = $(value fdt.dtb mixed), empty = $(value fdt.dtb empty)"
[[ $(value dtc.dtb mixed) == 6162630000000001 && $(value fdt.dtb mixed) == 616263003c313e00 &&
   $(value dtc.dtb empty) == 00 && $(value fdt.dtb empty) == nothing ]] || { echo "the behaviour has changed"; exit 1; }
