#!/usr/bin/env bash
# Software:  npm lz4js 0.2.0, beside the lz4 tool
# Guess:     a frame with block checksums (flag in the header, 4 bytes behind each block; `lz4 -BX` writes it)
#            is unpacked, or refused if block checksums are not supported.
# Happens:   the checksums are skipped at the wrong place: the result is wrong from its first byte, some bytes
#            too short, and nothing is thrown. Frames without block checksums are unpacked well.
# Where:     lz4js lz4.js, decompressFrame: the size of the block checksum is taken off before the block's data.
# Meaning:   memory or disk images that were packed with the safest setting come out silently damaged, the
#            others do not. The content checksum, if there is one, is not looked at either.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
command -v lz4 >/dev/null && command -v npm >/dev/null || { echo "lz4 and npm are needed"; exit 2; }
npm install --silent --no-audit --no-fund --prefix "$tmp" lz4js@0.2.0 >/dev/null
for n in $(seq 20000); do echo "page $((n * 7919 % 1000)) of the guest's memory"; done > data
lz4 -q -f data plain.lz4
lz4 -q -f -BX data checked.lz4
lz4 -q -t checked.lz4
cat > unpack.js <<'EOF'
const lz4 = require("lz4js"), fs = require("fs");
const data = fs.readFileSync("data");
for (const name of ["plain", "checked"]) {
  const out = Buffer.from(lz4.decompress(fs.readFileSync(name + ".lz4")));
  console.log(name, out.equals(data) ? "same" : "different", "without an error");
}
EOF
seen=$(timeout 60 node unpack.js)
echo "software: lz4js 0.2.0, $(lz4 --version | grep -o 'v[0-9.]*')"
echo "expected: both the same, or an error for the second"
echo "seen:"
sed 's/^/          /' <<< "$seen"
[[ $seen == $'plain same without an error\nchecked different without an error' ]] || { echo "the behaviour has changed"; exit 1; }
