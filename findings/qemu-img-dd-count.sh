#!/usr/bin/env bash
# Software:  qemu-img 7.2 (Debian 12 qemu-utils 1:7.2+dfsg), beside coreutils dd
# Guess:     `qemu-img dd bs=64k skip=1 count=2` copies two blocks behind the first one, as dd does; its manual says
#            "count=BLOCKS copies only BLOCKS input blocks".
# Happens:   count is measured from the start of the input, before the skip: that copies *one* block, and
#            skip=2 count=2 makes an empty output. Exit status 0, no message.
# Where:     QEMU qemu-img.c img_dd: size = min(size, count * bs), then the skip is taken off that size.
# Meaning:   cutting a partition out of an image by dd's well-known arithmetic gives its first part or nothing.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
qemu-img --version | grep -q 'version 7\.2\.' || echo "note: $(qemu-img --version | head -1), stated for 7.2"
for letter in A B C D E F G H; do head -c 64K /dev/zero | tr '\0' $letter; done > in.raw
run() {  # tool, skip, count: the letters that come out, one for each block
    rm -f out.raw
    case $1 in
        dd) dd if=in.raw of=out.raw bs=64k skip="$2" count="$3" status=none ;;
        qemu-img) qemu-img dd -f raw -O raw if=in.raw of=out.raw bs=64k skip="$2" count="$3" ;;
    esac
    echo "$(tr -s A-Z < out.raw) ($(stat -c %s out.raw) bytes)"
}
echo "software: $(qemu-img --version | head -1)"
for case in '1 2' '3 4' '2 2'; do
    read -r skip count <<< "$case"
    echo "skip=$skip count=$count expected: $(run dd $skip $count)"
    echo "skip=$skip count=$count seen:     $(run qemu-img $skip $count)"
done | tee seen
diff -q <(grep -o 'seen: .*' seen) - > /dev/null <<'EOF' || { echo "the behaviour has changed"; exit 1; }
seen:     B (65536 bytes)
seen:     D (65536 bytes)
seen:      (0 bytes)
EOF
