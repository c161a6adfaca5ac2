#!/usr/bin/env bash
# Software:  nbdkit 1.32.5 (Debian 12), its gzip filter, beside its xz filter
# Guess:     a .gz of several members (what `cat a.gz b.gz`, bgzip or an appending backup make) is served as
#            gunzip unpacks it: the members one after the other. RFC 1952 defines a gzip file as a series of members.
# Happens:   the disk ends after the first member. Size, content and exit status look right for a smaller disk.
#            The xz filter of the same nbdkit does serve all streams of the same two parts.
# Where:     nbdkit filters/gzip/gzip.c stops at the first Z_STREAM_END; nbdkit-gzip-filter(1) says nothing of it.
# Meaning:   an image that was compressed in pieces and joined boots from a truncated disk; the partition
#            table is there, the partitions behind the first piece are not.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
nbdkit --version | grep -q 'nbdkit 1\.32\.' || echo "note: $(nbdkit --version), stated for 1.32.5"
head -c 3M /dev/zero | tr '\0' A > a
head -c 2M /dev/zero | tr '\0' B > b
gzip -k a b; xz -k a b
cat a.gz b.gz > disk.gz
cat a.xz b.xz > disk.xz
size() { timeout 30 nbdkit -U - file "$1" --filter="$2" --run 'nbdinfo --size "$uri"'; }
gunzip=$(gunzip -c disk.gz | wc -c)
gzip=$(size disk.gz gzip)
xz=$(size disk.xz xz)
echo "software: $(nbdkit --version), $(gzip --version | head -1)"
echo "expected: $gunzip bytes, as gunzip unpacks them (xz filter with the same parts: $xz)"
echo "seen:     $gzip bytes from the gzip filter"
[[ $gunzip == 5242880 && $xz == 5242880 && $gzip == 3145728 ]] || { echo "the behaviour has changed"; exit 1; }
