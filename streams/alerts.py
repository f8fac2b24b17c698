"""Messages about defects to other machines; none of them ever holds up the inspection."""

import base64
import http.client
import queue
import sys
import threading
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from typing import Any
from urllib.parse import unquote, urlsplit

from utils.errors import UserError
from utils.optional_packages import need

WAITING = 1000  # messages that wait at most; further ones are dropped
PAUSES = 1.0, 60.0  # seconds before the first retry, and between later ones at most
TIMEOUT = 10.0  # seconds for a message to be taken
FAREWELL = 5.0  # seconds at the end for what still waits


class Alert(ABC):
    """Somewhere to send messages to, in order, in a thread; retried with growing pauses.

    A context manager that at the end sends what waits for a few seconds.

    Args:
        name: what it is called, without passwords.

    Attributes:
        dropped: messages that were not delivered.
    """

    def __init__(self, name: str) -> None:
        self.name, self.dropped = name, 0
        self._failing = False
        self._queue: queue.Queue[str] = queue.Queue(WAITING)
        self._ending = threading.Event()

    def __enter__(self) -> "Alert":
        threading.Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        end = time.monotonic() + FAREWELL
        while self._queue.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.05)
        self.dropped += self._queue.unfinished_tasks
        self._ending.set()
        if self.dropped:
            print(f"FAILED  {self.name}: {self.dropped} messages not delivered", file=sys.stderr)

    def post(self, text: str) -> None:
        """Send a message of JSON, now or later; returns at once."""
        try:
            self._queue.put_nowait(text)
        except queue.Full:
            self.dropped += 1

    def _work(self) -> None:
        while not self._ending.is_set():
            text = self._queue.get()
            pause, longest = PAUSES
            while not self._send(text) and not self._ending.wait(pause):
                pause = min(2 * pause, longest)
            self._queue.task_done()

    @abstractmethod
    def _send(self, text: str) -> bool:
        """Send a message; False if it is to be tried again."""

    def _tell(self, failure: object) -> None:
        """Say once that it fails (None: that it works) and once when that changes."""
        if failure is not None and not self._failing:
            print(f"FAILED  {self.name}: {failure}", file=sys.stderr)
        elif failure is None and self._failing:
            print(f"{self.name} is back", file=sys.stderr)
        self._failing = failure is not None


class Webhook(Alert):
    """Posts messages to an address.

    Args:
        url: http or https; a user and a password in it become Basic authentication.

    Raises:
        UserError: if it is no such address.
    """

    def __init__(self, url: str) -> None:
        parts, host = _split(url, ("http", "https"))
        super().__init__(f"webhook at {host}")  # the path may be secret, too
        self._url = parts._replace(netloc=host).geturl()
        self._headers = {"Content-Type": "application/json"}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()

    def _send(self, text: str) -> bool:
        request = urllib.request.Request(self._url, text.encode(), self._headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT):
                self._tell(None)
            return True
        except urllib.error.HTTPError as error:
            reason = f"status {error.code}"
            if 400 <= error.code < 500 and error.code not in (408, 429):  # it will never do
                self.dropped += 1
                self._tell(f"{reason}; not trying again")
                return True
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
        self._tell(f"{reason}; trying again")
        return False


class Mqtt(Alert):
    """Publishes messages at a broker, once at least each, through paho-mqtt, which connects anew.

    Args:
        address: mqtt://[user:password@]host[:port]/topic, or mqtts:// for TLS.

    Raises:
        UserError: if it is no such address, or paho-mqtt is not installed.
    """

    def __init__(self, address: str) -> None:
        parts, host = _split(address, ("mqtt", "mqtts"))
        super().__init__(f"MQTT broker at {host}")
        self._topic, self._taken = unquote(parts.path.strip("/")), threading.Event()
        if not self._topic or set(self._topic) & {"+", "#"}:
            raise UserError("the address of a broker must end with a topic: mqtt://host/topic")
        paho = need("paho.mqtt.client")
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_connect = self._connected
        self._client.on_connect_fail = lambda *_: self._tell("cannot be reached; trying again")
        self._client.on_disconnect = self._disconnected
        self._client.on_publish = lambda *_: self._taken.set()
        self._client.reconnect_delay_set(int(PAUSES[0]), int(PAUSES[1]))
        if parts.username is not None:
            self._client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        secure = parts.scheme == "mqtts"
        if secure:
            self._client.tls_set()
        self._client.connect_async(parts.hostname, parts.port or (8883 if secure else 1883))
        self._client.loop_start()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._client.disconnect()
        self._client.loop_stop()

    def _send(self, text: str) -> bool:
        """Have paho send a message until the broker has taken it; False if the end comes first."""
        self._client.publish(self._topic, text, qos=1)
        while not self._taken.wait(0.1):
            if self._ending.is_set():
                return False
        self._taken.clear()
        return True

    def _connected(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        self._tell(f"{reason}; trying again" if reason.is_failure else None)

    def _disconnected(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        if reason.is_failure:
            self._tell("broke off; trying again")


def _split(address: str, schemes: tuple[str, ...]) -> tuple[Any, str]:
    """The parts of an address, and its host with the port; raises `UserError` if it is none."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises where it is no number
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in schemes or not parts.hostname:
        raise UserError(f"not an address such as {schemes[0]}://host/path")
    return parts, parts.netloc.rpartition("@")[2]
