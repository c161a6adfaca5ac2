"""Ethernet frames: what a switch reads of them, and the few that the lab itself sends."""

import struct

BROADCAST = b"\xff" * 6

ARP, RARP, IPV4, IPV6 = 0x0806, 0x8035, 0x0800, 0x86DD
ICMP = 1
ECHO_REPLY, ECHO_REQUEST = 0, 8
SHORTEST = 14
# The kinds of frame by which a machine, or its host, says where its address is now.
ANNOUNCEMENTS = ("RARP", "gratuitous ARP")


def mac(text):
    """The bytes of a MAC address such as 52:54:00:00:00:01."""
    return bytes.fromhex(text.replace(":", ""))


def mac_text(address):
    """A MAC address for people."""
    return address.hex(":")


def ipv4(text):
    """The bytes of an IPv4 address."""
    return bytes(int(part) for part in text.split("."))


def kind(frame):
    """What a frame is, for people who look for the cause of something."""
    ethertype = struct.unpack_from(">H", frame, 12)[0]
    if ethertype == ARP and len(frame) >= 42:
        # Its sender tells everybody where its own address is.
        return "gratuitous ARP" if frame[28:32] == frame[38:42] else "ARP"
    return {RARP: "RARP", ARP: "ARP", IPV4: "IPv4", IPV6: "IPv6"}.get(ethertype, f"ethertype {ethertype:#06x}")


def rarp_fault(frame):
    """What is wrong with a RARP frame that announces its sender, in words that follow 'a RARP'; nothing if it is well made (RFC 903)."""
    sender = frame[6:12]
    wanted = {
        "that is no broadcast": frame[:6] == BROADCAST,
        "that is not for Ethernet and IPv4": frame[14:20] == struct.pack(">HHBB", 1, IPV4, 6, 4),
        "that is no request": frame[20:22] == b"\0\3",
        "with a wrong address in it": frame[22:28] == sender and frame[32:38] == sender,
        f"of {len(frame)} bytes": len(frame) >= 60,
    }
    return next((fault for fault, right in wanted.items() if not right), "")


def arp_answer(frame, own_mac, own_address):
    """The answer to a request for our address; None if the frame is none."""
    asked = frame[12:14] == struct.pack(">H", ARP) and len(frame) >= 42 and frame[20:22] == b"\0\1" and frame[38:42] == own_address
    if not asked:
        return None
    asker_mac, asker_address = frame[22:28], frame[28:32]
    return asker_mac + own_mac + frame[12:20] + b"\0\2" + own_mac + own_address + asker_mac + asker_address


def echo_request(to_mac, own_mac, to_address, own_address, identity, sequence):
    """An ICMP echo request, numbered."""
    icmp = _with_checksum(struct.pack(">BBHHH", ECHO_REQUEST, 0, 0, identity, sequence) + b"whimbrel" * 3, 2)
    # Time to live 64, no fragments.
    ip = _with_checksum(struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(icmp), 0, 0x4000, 64, ICMP, 0, own_address, to_address), 10)
    return to_mac + own_mac + struct.pack(">H", IPV4) + ip + icmp


def echo_answer(frame):
    """Identity and sequence number of an ICMP echo reply; None if the frame is none."""
    if len(frame) < 42 or frame[12:14] != struct.pack(">H", IPV4) or frame[14] != 0x45 or frame[23] != ICMP or frame[34] != ECHO_REPLY:
        return None
    return struct.unpack_from(">HH", frame, 38)


def _with_checksum(data, at):
    """The Internet checksum (RFC 1071) put in its place; the place holds zeros."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return data[:at] + struct.pack(">H", ~total & 0xFFFF) + data[at + 2 :]
