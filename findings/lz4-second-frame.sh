#!/usr/bin/env bash
# Software:  crate lz4_flex 0.14.2, npm lz4js 0.2.0, PyPI lz4 4.4.5, beside the lz4 tool
# Guess:     frames one behind the other are one stream, as the frame format says ("frames can be concatenated")
#            and as the lz4 tool unpacks them; read_to_end reads to the end.
# Happens:   three independent libraries give the first frame and report success: FrameDecoder::read_to_end
#            returns Ok at the end of a frame with the rest unread, the other two drop it. lz4.frame.open reads both.
# Where:     lz4_flex src/frame/decompress.rs (read returns Ok(0) once per frame), lz4js decompress, lz4.frame.decompress.
# Meaning:   what was appended to, or written by several workers in pieces, loses all but its first piece.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"; mkdir src
command -v lz4 >/dev/null && command -v npm >/dev/null || { echo "lz4 and npm are needed"; exit 2; }
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check lz4==4.4.5
npm install --silent --no-audit --no-fund --prefix "$tmp" lz4js@0.2.0 >/dev/null
cat > Cargo.toml <<'EOF'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
lz4_flex = "=0.14.2"
EOF
cat > src/main.rs <<'EOF'
use std::io::Read;

fn main() {
    let mut out = Vec::new();
    let mut decoder = lz4_flex::frame::FrameDecoder::new(std::fs::File::open("two.lz4").unwrap());
    decoder.read_to_end(&mut out).unwrap();
    println!("{}", out.len());
}
EOF
head -c 100000 /dev/zero | tr '\0' A | lz4 -q > a.lz4
head -c 50000 /dev/zero | tr '\0' B | lz4 -q > b.lz4
cat a.lz4 b.lz4 > two.lz4
tool=$(lz4 -q -d -c two.lz4 | wc -c)
rust=$(cargo run -q)
node=$(timeout 30 node -e 'console.log(require("lz4js").decompress(require("fs").readFileSync("two.lz4")).length)')
python=$(timeout 30 venv/bin/python -c 'import lz4.frame; print(len(lz4.frame.decompress(open("two.lz4","rb").read())))')
echo "software: lz4_flex 0.14.2, lz4js 0.2.0, lz4 4.4.5 (Python), $(lz4 --version | grep -o 'v[0-9.]*')"
echo "expected: $tool bytes from each, as from the tool"
echo "seen:     lz4_flex $rust, lz4js $node, lz4 (Python) $python"
[[ $tool == 150000 && $rust == 100000 && $node == 100000 && $python == 100000 ]] || { echo "the behaviour has changed"; exit 1; }
