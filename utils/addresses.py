"""Addresses of cameras, services and shares, as they may be printed and written."""

import re

ADDRESS = re.compile(
    r"""(?ix)
    [a-z][a-z0-9+.-]+ :/+ (?: [^/@\s:]* (?: :|%3a ) .*@ )? \S*  # scheme://, or :/ by pathlib
    | [^\s/:@'"]+ (?: :|%3a ) (?![/\\]) \S*@\S+                   # user:password@host
    | \S+ \? \S*=\S*                                            # a query
    | \S* (?: pass|pw|token|secret|apikey|api_key ) [^\s=]* =\S*
    """
)
HARMLESS = {
    *("user", "username", "width", "height", "resolution", "fps", "channel", "subtype", "stream"),
    *("profile", "camera", "transport", "unicast", "proto"),
}
"""Keys whose values are shown; any other one may be the one that a maker gave a password."""


def masked(text: str) -> str:
    """Return an address, or a text with addresses in it, with *** in place of what may be secret.

    That is a password before the host, and the value of any field (`?token=x`, `_password=x`) whose
    key is not in `HARMLESS`. Rather too much is masked than too little. Every text that may hold an
    address passes through here before it is printed.
    """
    return ADDRESS.sub(lambda found: _masked(found[0]), text)


def _masked(address: str) -> str:
    scheme, rest = re.fullmatch(r"(?is)([a-z][a-z0-9+.-]+:/+)?(.*)", address).groups("")
    # The last @ ends the login: passwords with @ and / in them are often written as they are.
    login, at, host = rest.rpartition("@")
    user, colon, _ = re.fullmatch(r"(?is)(.*?)(:|%3a|$)(.*)", login).groups()
    port_and_path = re.match(r"[^:/]+:\d+/", login) and host.isdecimal()  # h:554/live@2
    if at and colon and not port_and_path:
        return f"{scheme}{user}{colon}***@{_fields(host)}"
    if at and "/" not in login:
        return f"{scheme}***@{_fields(host)}"  # a token in place of a user
    return scheme + _fields(rest)


def _fields(rest: str) -> str:
    """Mask key=value, anywhere in an address without its login, and what has no key in a query."""

    def field(found: re.Match) -> str:
        key, value = found[1], found[2]
        # Some makers join fields in the path by underscores: user=admin_password=x_channel=1
        return f"{key}={value if key.lower().lstrip('_') in HARMLESS else '***'}"

    rest = re.sub(r"([^?&;#/=]+)=((?:(?!_[a-zA-Z]+=)[^&;#])*)", field, rest)
    return re.sub(r"(?<=[?&;#])[^=?&;#\s]+(?=[&;#\s]|$)", "***", rest)
