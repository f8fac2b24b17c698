"""Messages about defects to other machines; none of them ever holds up the inspection."""

import queue
import sys
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from utils.addresses import masked
from utils.errors import UserError
from utils.optional_packages import need

WAITING = 1000  # messages that wait at most; further ones are dropped
PAUSES = 1.0, 60.0  # seconds before the first retry, and between later ones at most
TIMEOUT = 10.0  # seconds for a message to be taken
END = 5.0  # seconds at the end for messages that still wait
TOPIC = 65535  # bytes, the longest topic of MQTT


class Alert(ABC):
    """A receiver of messages; they are sent in order, in a thread, and again after failures.

    A context manager, which at the end waits some seconds for messages that are not sent.

    Args:
        name: as it is printed, without passwords.

    Attributes:
        dropped: number of messages that were not delivered.
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
        end = time.monotonic() + END
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
            while not self._try(text) and not self._ending.wait(pause):
                pause = min(2 * pause, longest)
            self._queue.task_done()

    def _try(self, text: str) -> bool:
        try:
            return self._send(text)
        except Exception as error:  # of any kind: it must not end the thread
            self._report(f"{str(error) or type(error).__name__}; trying again")
            return False

    @abstractmethod
    def _send(self, text: str) -> bool:
        """Send a message; returns False, or raises an error, if it is to be sent again."""

    def _report(self, failure: str | None) -> None:
        """Print a failure, or None for a success, if the time before it went the other way."""
        with suppress(OSError):  # of a log on a full disk
            if failure is not None and not self._failing:
                print(f"FAILED  {self.name}: {masked(failure)}", file=sys.stderr)
            elif failure is None and self._failing:
                print(f"{self.name} is back", file=sys.stderr)
        self._failing = failure is not None


class Webhook(Alert):
    """Posts messages to an address, through httpx.

    Args:
        url: http or https; a user and a password in it become Basic authentication.

    Raises:
        UserError: if it is no such address, or httpx is not installed.
    """

    def __init__(self, url: str) -> None:
        parts = _split(url, ("http", "https"))
        super().__init__(f"webhook at {_host(parts)}")  # the path may be secret, too
        httpx = need("httpx")
        options = {"headers": {"Content-Type": "application/json"}, "timeout": TIMEOUT}
        try:
            self._url = httpx.URL(url)
            # A redirect is no delivery: followed, the message would go by GET, without content.
            self._client = httpx.Client(follow_redirects=False, **options)
        except (httpx.InvalidURL, ValueError, ImportError) as error:  # of HTTP_PROXY, too
            raise UserError(f"cannot use {url}: {error}") from None

    def _send(self, text: str) -> bool:
        status = self._client.post(self._url, content=text).status_code
        if 200 <= status < 300:
            self._report(None)
            return True
        if 300 <= status < 500 and status not in (408, 429):  # will be so the next time, too
            self.dropped += 1
            reason = "redirects are not followed; name the new address" if status < 400 else ""
            self._report(f"status {status}; {reason or 'not trying again'}")
            return True
        self._report(f"status {status}; trying again")
        return False


class Mqtt(Alert):
    """Publishes messages at a broker, once at least each, through paho-mqtt, which reconnects.

    Args:
        address: mqtt://[user:password@]host[:port]/topic, or mqtts:// for TLS.

    Raises:
        UserError: if it is no such address, or paho-mqtt is not installed.
    """

    def __init__(self, address: str) -> None:
        parts = _split(address, ("mqtt", "mqtts"))
        super().__init__(f"MQTT broker at {_host(parts)}")
        self._topic, self._taken = unquote(parts.path.strip("/")), threading.Event()
        # An unquoted # begins what urlsplit takes for a fragment.
        if not self._topic or "#" in address or set(self._topic) & {"+", "#", "\0"}:
            raise UserError("the address of a broker must end with a topic: mqtt://host/topic")
        if len(self._topic.encode()) > TOPIC:
            raise UserError(f"the topic of --mqtt is longer than {TOPIC} bytes")
        paho = need("paho.mqtt.client")
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_connect = self._connected
        self._client.on_connect_fail = lambda *_: self._report("cannot be reached; trying again")
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
        self._client.publish(self._topic, text, qos=1)
        # paho sends it until the broker has taken it, through broken connections, too.
        while not self._taken.wait(0.1):
            if self._ending.is_set():
                return False
        self._taken.clear()
        return True

    def _connected(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        self._report(f"{reason}; trying again" if reason.is_failure else None)

    def _disconnected(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        if reason.is_failure:
            self._report("broke off; trying again")


def _split(address: str, schemes: tuple[str, ...]) -> SplitResult:
    """Split an address; raises `UserError` for one that can never be reached."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises ValueError where it is no number
        (parts.hostname or "").encode("idna")  # UnicodeError, a ValueError: such as a..b
    except ValueError:
        parts = urlsplit("")
    host = parts.hostname or ""
    if parts.scheme not in schemes or not host or not host.isprintable() or " " in host:
        raise UserError(f"{address} is no address such as {schemes[0]}://host/path")
    return parts


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]
