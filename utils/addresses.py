"""Addresses of cameras and services, as they may be shown."""

import re

# The last @ ends the password, which people write with @ and / in it; digits before a / are a port.
LOGIN = re.compile(r"(:/+[^:/@\s]*):(?!\d+/)\S*@")
FIELD = re.compile(r"(?i)\b(password|passwd|pass|pwd|token|secret|key)=[^&;?#/\s]*")


def masked(address: str) -> str:
    """An address, or a text with one in it, with *** in the place of passwords.

    These stand before the host (`rtsp://user:secret@host`), or in a field (`?password=secret`).
    Every address goes through here before it is printed or written.
    """
    return FIELD.sub(r"\1=***", LOGIN.sub(r"\1:***@", address))
