import asyncio
import http.server
import json
import socket
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from streams import alerts
from streams.alerts import Mqtt, Webhook
from utils.errors import UserError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(alerts, "PAUSES", (0.05, 0.1))


@contextmanager
def server(*statuses, port=0, location=None):
    """A web server that answers with these, then 200; gives its port and what it was sent."""
    answers, requests = iter(statuses), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802  (http.server's name)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            requests.append((self.path, self.headers, json.loads(body or "null")))
            self.send_response(next(answers, 200))
            if location:
                self.send_header("Location", location)
            self.end_headers()

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving.server_port, requests
        serving.shutdown()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_messages_arrive_in_order_through_failures(capsys):
    with (
        server(500, 503) as (port, requests),
        Webhook(f"http://me:a%40b@127.0.0.1:{port}/x") as hook,
    ):
        for number in range(3):
            hook.post(json.dumps({"number": number}))
    assert [body["number"] for _, _, body in requests] == [0, 0, 0, 1, 2]
    path, headers, _ = requests[0]
    assert (path, headers["Content-Type"]) == ("/x", "application/json")
    assert headers["Authorization"] == "Basic bWU6YUBi"
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"FAILED  webhook at 127.0.0.1:{port}: status 500; trying again",
        f"webhook at 127.0.0.1:{port} is back",
    ]


def test_a_server_that_is_down_holds_nothing_up_and_gets_all_later(capsys):
    port = free_port()
    with Webhook(f"http://127.0.0.1:{port}") as hook:
        started = time.perf_counter()
        for number in range(20):
            hook.post(json.dumps(number))
        assert time.perf_counter() - started < 0.1
        time.sleep(0.2)
        with server(port=port) as (_, requests):
            end = time.monotonic() + 5
            while len(requests) < 20 and time.monotonic() < end:
                time.sleep(0.02)
    assert [body for _, _, body in requests] == list(range(20))


def test_what_is_refused_or_too_much_is_counted(capsys, monkeypatch):
    monkeypatch.setattr(alerts, "WAITING", 5)
    monkeypatch.setattr(alerts, "END", 0.2)
    with server(404) as (port, requests), Webhook(f"http://127.0.0.1:{port}") as hook:
        hook.post("1")
        hook.post("2")
    assert [body for _, _, body in requests] == [1, 2]  # not tried again
    assert "1 messages not delivered" in capsys.readouterr().err
    with Webhook(f"http://127.0.0.1:{free_port()}") as hook:
        for _ in range(20):
            hook.post("1")
    assert "20 messages not delivered" in capsys.readouterr().err


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_counts_as_undelivered(status, capsys):
    with server() as (elsewhere, stolen):
        location = f"http://127.0.0.1:{elsewhere}/"
        with (
            server(status, location=location) as (port, requests),
            Webhook(f"http://me:secret@127.0.0.1:{port}/x") as hook,
        ):
            hook.post("1")
    assert [body for _, _, body in requests] == [1]
    assert stolen == []
    assert hook.dropped == 1
    said = capsys.readouterr().err
    assert f"status {status}; redirects are not followed" in said and "secret" not in said


def test_no_error_ends_the_sending_of_messages(capsys):
    errors = iter([UnicodeError("odd rtsp://me:secret@host/x"), KeyError("odd"), TypeError()])

    class Odd(alerts.Alert):
        sent = []

        def _send(self, text):
            for error in errors:
                raise error
            self.sent.append(text)
            self._report(None)
            return True

    with Odd("odd one") as alert:
        alert.post("1")
        alert.post("2")
    assert Odd.sent == ["1", "2"] and alert.dropped == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("FAILED  odd one: odd rtsp://me:***@host/x; trying again")
    assert said[1:] == ["odd one is back"]


def test_a_host_that_is_not_found_is_tried_again(capsys, monkeypatch):
    monkeypatch.setattr(alerts, "END", 0.3)
    with Webhook("http://é.invalid/ü") as hook:
        hook.post("1")
    assert hook.dropped == 1
    assert "trying again" in capsys.readouterr().err


@contextmanager
def broker(port):
    """An MQTT broker with a subscriber; gives what that receives."""
    amqtt = pytest.importorskip("amqtt.broker")
    paho = pytest.importorskip("paho.mqtt.client")
    loop, received = asyncio.new_event_loop(), []
    settings = {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }

    async def start():
        serving = amqtt.Broker(settings)
        await serving.start()
        return serving

    serving = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    subscribed = threading.Event()
    subscriber = paho.Client(paho.CallbackAPIVersion.VERSION2)
    subscriber.on_message = lambda client, data, message: received.append(message)
    subscriber.on_subscribe = lambda *_: subscribed.set()
    subscriber.connect("127.0.0.1", port)
    subscriber.subscribe("line/#", qos=1)
    subscriber.loop_start()
    assert subscribed.wait(5)
    yield received
    subscriber.disconnect()
    subscriber.loop_stop()
    asyncio.run_coroutine_threadsafe(serving.shutdown(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def test_messages_reach_an_mqtt_broker_also_one_that_starts_later(capsys, monkeypatch):
    pytest.importorskip("amqtt")
    monkeypatch.setattr(alerts, "PAUSES", (1, 1))  # paho counts in seconds
    port = free_port()
    with Mqtt(f"mqtt://127.0.0.1:{port}/line/7/defects") as sender:
        sender.post('{"number": 0}')
        time.sleep(0.2)
        with broker(port) as received:
            sender.post('{"number": 1}')
            end = time.monotonic() + 10
            while len(received) < 2 and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(0.1)
    assert sorted(json.loads(message.payload)["number"] for message in received) == [0, 1]
    assert {message.topic for message in received} == {"line/7/defects"}
    assert "cannot be reached; trying again" in capsys.readouterr().err


def test_addresses_are_checked_and_paho_is_asked_for(monkeypatch):
    for wrong in ("file:///x", "http://", "http://host:port/x", "http://a b/", "http://a..b/", ""):
        with pytest.raises(UserError, match="http://host/path"):
            Webhook(wrong)
    for wrong in ("http://h/\n", "http://h/" + "x" * 70_000):
        with pytest.raises(UserError):
            Webhook(wrong)
    for wrong in ("mqtt://h/" + "x" * 70_000, "mqtt://h/a+", "mqtt://h/a/#", "mqtt://h"):
        with pytest.raises(UserError, match="topic"):
            Mqtt(wrong)
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(UserError, match="paho-mqtt.*requirements-deploy.txt"):
        Mqtt("mqtt://host/topic")
