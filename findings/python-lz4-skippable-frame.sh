#!/usr/bin/env bash
# Software:  PyPI lz4 4.4.5, beside the lz4 tool
# Guess:     a skippable frame (user data before or between frames, part of the LZ4 frame format) is skipped:
#            lz4.frame.decompress gives the data frame that follows, as `lz4 -d` and lz4.frame.open do.
# Happens:   a leading skippable frame is "the frame": the result is b"", without an error, and everything
#            behind it is left over. return_bytes_read=True is the only hint (12 of some hundred bytes).
# Where:     lz4.frame.decompress and LZ4FrameDecompressor.decompress (lz4/frame/_frame.c): end at the first end of a frame.
# Meaning:   images with metadata in front become empty ones. A restore that writes the result has emptied the disk.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
command -v lz4 >/dev/null || { echo "lz4 is needed"; exit 2; }
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check lz4==4.4.5
head -c 100000 /dev/zero | tr '\0' A > data
lz4 -q -f data data.lz4
{ printf '\x50\x2a\x4d\x18\x04\0\0\0note'; cat data.lz4; } > noted.lz4
tool=$(lz4 -q -d -c noted.lz4 | wc -c)
seen=$(timeout 30 venv/bin/python -c '
import lz4.frame
packed = open("noted.lz4", "rb").read()
print(len(lz4.frame.open("noted.lz4").read()), len(lz4.frame.decompress(packed)))')
echo "software: lz4 4.4.5 (Python), $(lz4 --version | grep -o 'v[0-9.]*')"
echo "expected: $tool bytes, as from the tool"
echo "seen:     (lz4.frame.open, lz4.frame.decompress) $seen"
[[ $tool == 100000 && $seen == '100000 0' ]] || { echo "the behaviour has changed"; exit 1; }
