#!/usr/bin/env bash
# Software:  PyPI fdt 0.3.3
# Guess:     in device tree source a string literal is one token: `//`, `/*` and `;` in it are text.
# Happens:   fdt.parse_dts strips comments first, without looking at quotes, so a value with `//` is cut there
#            and runs on to the next quote: it swallows the next line's property, name and value. A `;` in a
#            value is dropped. No exception; to_dtb writes a valid blob of what is left.
# Where:     fdt.parse_dts (fdt/__init__.py) and the text helpers that it calls.
# Meaning:   a command line with a URL in it (`inst.repo=http://server/path`) arrives in the guest cut in half
#            with another property's text behind it, and that other property is gone.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check fdt==0.3.3
cat > tree.dts <<'EOF'
/dts-v1/;
/ {
	chosen {
		first = "one";
		url = "http://server/image";
		after = "two";
		comment = "a/*b*/c";
		semicolon = "a;b";
		last = "three";
	};
};
EOF
seen=$(venv/bin/python - <<'EOF'
import fdt
blob = fdt.parse_dts(open("tree.dts").read()).to_dtb(version=17)
for item in fdt.parse_dtb(blob).get_node("/chosen").props:
    print(item.name, "=", repr(item.value))
EOF
)
echo "software: fdt 0.3.3"
echo "expected: six properties: first = one, url = http://server/image, after = two, comment = a/*b*/c, semicolon = a;b, last = three"
echo "seen:"
sed 's/^/          /' <<< "$seen"
[[ $seen == *"url = 'http: after = two'"* && $seen == *"comment = 'a c'"* && $seen == *"semicolon = 'ab'"* &&
   $(wc -l <<< "$seen") == 5 ]] || { echo "the behaviour has changed"; exit 1; }
