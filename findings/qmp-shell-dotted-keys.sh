#!/usr/bin/env bash
# Software:  PyPI qemu.qmp 0.0.6 (qmp-shell), QEMU's own QMP library
# Guess:     dotted keys build nested arguments (file.driver=, file.filename=), and plain keys behind them belong to
#            the command again, as they do for -blockdev on QEMU's command line.
# Happens:   after the first dotted key every later key goes into that object: node-name becomes
#            file.node-name, and a second `file.filename=` becomes file.file.filename.
# Where:     qemu/qmp/qmp_shell.py, _cli_expr: the loop over the keys rebinds `parent` and never goes back.
# Meaning:   QEMU refuses some such commands with a message about a key that was not typed; where the inner
#            object knows the key (node-name, read-only, discard), the command succeeds and means something else.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv venv
venv/bin/pip -q install --disable-pip-version-check qemu.qmp==0.0.6
cat > talk.py <<'EOF'
# A monitor that writes down what arrives; qmp-shell is its client.
import json, socket, subprocess, sys
server = socket.socket(socket.AF_UNIX)
server.bind("monitor")
server.listen(1)
server.settimeout(30)
shell = subprocess.Popen(["venv/bin/qmp-shell", "monitor"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
peer, _ = server.accept()
peer.settimeout(30)
peer.sendall(b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}\r\n')
shell.stdin.write(b"blockdev-add driver=qcow2 file.driver=file file.filename=disk.qcow2 read-only=true node-name=disk\n")
shell.stdin.flush()
decoder, text = json.JSONDecoder(), ""
while True:
    text += peer.recv(65536).decode()
    while text.strip():
        try:
            command, end = decoder.raw_decode(text.lstrip())
        except ValueError:
            break
        text = text.lstrip()[end:]
        if command["execute"] == "blockdev-add":
            print(json.dumps(command["arguments"], sort_keys=True))
            peer.close()
            shell.kill()
            shell.wait()
            sys.exit()
        answer = [] if command["execute"] == "query-commands" else {}
        peer.sendall(json.dumps({"return": answer, "id": command.get("id")}).encode() + b"\r\n")
EOF
seen=$(timeout 60 python3 talk.py)
echo "software: qemu.qmp 0.0.6"
echo 'typed:    blockdev-add driver=qcow2 file.driver=file file.filename=disk.qcow2 read-only=true node-name=disk'
echo 'expected: {"driver": "qcow2", "file": {"driver": "file", "filename": "disk.qcow2"}, "node-name": "disk", "read-only": true}'
echo "seen:     $seen"
[[ $seen == '{"driver": "qcow2", "file": {"driver": "file", "file": {"filename": "disk.qcow2", "node-name": "disk", "read-only": true}}}' ]] ||
    { echo "the behaviour has changed"; exit 1; }
