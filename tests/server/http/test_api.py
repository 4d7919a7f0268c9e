"""The management API over real sockets: a broker process, Python's own HTTP client, raw octets where they matter."""

import base64
import http.client
import json
import socket

import pytest
from waiting import HANG_S, PATIENT

from tools.bench.control import running_jackalope

GUEST = {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()}


@pytest.fixture(scope="module")
def api():
    """(host, port) of the HTTP listener of a fresh broker."""
    with running_jackalope() as broker:
        yield (broker.host, broker.http_port)


def ask(api, method, path, body=None, headers=GUEST):
    """(status, decoded JSON or None)."""
    connection = http.client.HTTPConnection(*api, timeout=HANG_S)
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    raw = response.read()
    connection.close()
    return response.status, json.loads(raw) if raw else None


def raw(api, octets):
    """What comes back for octets, up to the close."""
    with socket.create_connection(api, timeout=HANG_S) as sock:
        sock.sendall(octets)
        answer = b""
        while part := sock.recv(65536):
            answer += part
    return answer


def test_overview_says_who_it_is_and_what_storage_means(api):
    """GET /api/overview names the product and says that everything is in memory."""
    status, overview = ask(api, "GET", "/api/overview")
    assert status == 200
    assert overview["product_name"] == "Jackalope"
    assert overview["storage"] == "disk"
    assert overview["object_totals"]["exchanges"] == 6  # Five predeclared and the default one.


def test_the_overview_counts_streams_as_queues(api):
    """`object_totals` is the length of the lists (rabbit_mgmt_wm_overview.erl); a stream is a queue."""
    body = {"durable": True, "arguments": {"x-queue-type": "stream"}}
    assert ask(api, "PUT", "/api/queues/%2F/counted", body)[0] == 201
    count = ask(api, "GET", "/api/overview")[1]["object_totals"]["queues"]
    assert count == len(ask(api, "GET", "/api/queues")[1]) >= 1
    assert ask(api, "DELETE", "/api/queues/%2F/counted")[0] == 204


def test_vhost_is_split_before_it_is_decoded(api):
    """`%2F` is the vhost `/`, as RabbitMQ's clients send it; an unknown vhost is 404, with its name."""
    status, exchanges = ask(api, "GET", "/api/exchanges/%2F?columns=name,type")
    assert status == 200
    assert {"name": "amq.topic", "type": "topic"} in exchanges
    assert ask(api, "GET", "/api/exchanges/nope") == (404, {"error": "Object Not Found", "reason": "no vhost 'nope'"})


@pytest.mark.parametrize("path", ["/", "/api", "/api/nope", "/api/queues/%2F/q/nope", "/metrics"])
def test_unknown_paths_are_404(api, path):
    """A path that is not served is 404 with a JSON body."""
    assert ask(api, "GET", path)[0] == 404


def test_wrong_method_is_405(api):
    """A known path with another method says which methods there are."""
    status, body = ask(api, "DELETE", "/api/overview")
    assert (status, body["reason"]) == (405, "use GET")


@pytest.mark.parametrize(
    "header", [None, "Basic", "Basic !!!", "Bearer abc", "Basic " + base64.b64encode(b"guest:x").decode()]
)
def test_without_a_valid_login_401(api, header):
    """No, malformed, or wrong credentials: 401, and which scheme is meant."""
    headers = {} if header is None else {"Authorization": header}
    connection = http.client.HTTPConnection(*api, timeout=HANG_S)
    connection.request("GET", "/api/overview", headers=headers)
    response = connection.getresponse()
    assert response.status == 401
    assert response.getheader("www-authenticate", "").startswith("Basic")
    connection.close()


def test_publish_get_and_purge(api):
    """Published over HTTP is routed as over AMQP; get with requeue leaves it in its place, marked as redelivered."""
    import pika

    with running_jackalope() as broker:
        connection = pika.BlockingConnection(pika.ConnectionParameters(broker.host, broker.port, **PATIENT))
        channel = connection.channel()
        channel.queue_declare("q")
        properties = {"content_type": "text/plain", "headers": {"n": 1}, "delivery_mode": 2}
        body = {"routing_key": "q", "payload": "hello", "properties": properties}
        assert ask((broker.host, broker.http_port), "POST", "/api/exchanges/%2F/amq.default/publish", body) == (
            200,
            {"routed": True},
        )
        nowhere = {"routing_key": "nowhere", "payload": "x"}
        assert ask((broker.host, broker.http_port), "POST", "/api/exchanges/%2F/amq.default/publish", nowhere) == (
            200,
            {"routed": False},
        )
        _, first = ask(
            (broker.host, broker.http_port),
            "POST",
            "/api/queues/%2F/q/get",
            {"count": "5", "ackmode": "ack_requeue_true"},
        )
        assert [(one["payload"], one["redelivered"], one["properties"]) for one in first] == [
            ("hello", False, properties)
        ]
        method, received, payload = channel.basic_get("q")
        assert (payload, received.headers, method.redelivered) == (b"hello", {"n": 1}, True)
        channel.basic_nack(method.delivery_tag)
        assert ask((broker.host, broker.http_port), "GET", "/api/queues/%2F/q")[1]["messages"] == 1
        assert ask((broker.host, broker.http_port), "DELETE", "/api/queues/%2F/q/contents") == (204, None)
        assert channel.queue_declare("q", passive=True).method.message_count == 0
        connection.close()


def test_lists_show_what_a_client_holds(api):
    """Connections, channels and consumers of a connected client, and its queue's bindings."""
    import pika

    with running_jackalope() as broker:
        connection = pika.BlockingConnection(pika.ConnectionParameters(broker.host, broker.port, **PATIENT))
        channel = connection.channel()
        channel.queue_declare("q")
        channel.queue_bind("q", "amq.topic", "a.#")
        channel.basic_qos(prefetch_count=7)
        channel.basic_consume("q", lambda *_: None, consumer_tag="me")
        (one,) = ask((broker.host, broker.http_port), "GET", "/api/connections")[1]
        assert (one["user"], one["vhost"], one["channels"]) == ("guest", "/", 1)
        (one,) = ask((broker.host, broker.http_port), "GET", "/api/channels")[1]
        assert (one["number"], one["consumer_count"]) == (1, 1)
        (one,) = ask((broker.host, broker.http_port), "GET", "/api/consumers/%2F")[1]
        assert (one["consumer_tag"], one["prefetch_count"], one["queue"]["name"]) == ("me", 7, "q")
        keys = {
            (one["source"], one["routing_key"])
            for one in ask((broker.host, broker.http_port), "GET", "/api/bindings/%2F")[1]
        }
        assert keys == {("", "q"), ("amq.topic", "a.#")}
        connection.close()


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"GET /api/overview HTTP/1.1\r\n\r\n", b"400"),  # No Host.
        (b"GET /api/overview HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 20_000 + b"\r\n\r\n", b"431"),
        (b"POST /api/overview HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + b"z" * 1_100_000, b"413"),
        (b"POST /api/overview HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", b"413"),  # Before it comes.
    ],
)
def test_malformed_and_oversized_requests_are_refused(api, octets, status):
    """A broken request gets its status and a close; the next request is served."""
    assert raw(api, octets).split(b" ")[1] == status
    assert ask(api, "GET", "/api/whoami") == (200, {"name": "guest", "tags": ["administrator"]})


def test_a_body_that_is_no_json_object_is_400(api):
    """Deep nesting included: no RecursionError reaches the peer or the log."""
    for body in (b"[1]", b"{", b"[" * 100_000):
        connection = http.client.HTTPConnection(*api, timeout=HANG_S)
        connection.request("POST", "/api/queues/%2F/q/get", body, GUEST)
        assert connection.getresponse().status == 400
        connection.close()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ('"routing_key":"\\ud800"', "not Unicode"),
        ('"routing_key":"k","properties":{"headers":{"a":1180591620717411303424}}', "headers"),
        ('"routing_key":"k","properties":{"headers":{"a":-9223372036854775809}}', "headers"),
        ('"routing_key":"k","properties":{"headers":' + '{"a":' * 40 + "1" + "}" * 40 + "}", "a field table can hold"),
        ('"routing_key":"k","properties":{"headers":{"a":' + "[" * 40 + "]" * 40 + "}}", "a field table can hold"),
        ('"routing_key":"k","properties":{"headers":{"a":"' + "x" * 140_000 + '"}}', "do not fit a frame"),
        ('"routing_key":"k","properties":{"headers":{"a":[' + "null," * 5000 + "null]}}", "too many elements"),
        ('"routing_key":"k","properties":{"expiration":"soon"}', "invalid expiration 'soon': no_integer"),
        ('"routing_key":"k","properties":{"expiration":-1}', "value_negative,-1"),
        ('"routing_key":"k","properties":{"headers":{"CC":5}}', '{unacceptable_type_in_header,"CC",signedint}'),
        ('"routing_key":"k","properties":{"headers":{"BCC":"k"}}', '{unacceptable_type_in_header,"BCC",longstr}'),
        ('"routing_key":"k","properties":{"user_id":"mallory"}', "authenticated user was 'guest'"),
        ('"routing_key":"k","properties":{"reply_to":"amq.rabbitmq.reply-to"}', "fast reply consumer does not exist"),
        ('"routing_key":"k","properties":["expiration"]', "properties are not an object"),
        ('"routing_key":"k","properties":5', "properties are not an object"),
    ],
)
def test_what_amqp_cannot_carry_is_400(api, fields, reason):
    """Nothing that JSON can say becomes a message no client could have sent, or ends in a bug."""
    body = '{"payload":"","payload_encoding":"string",' + fields + "}"
    connection = http.client.HTTPConnection(*api, timeout=HANG_S)
    connection.request("POST", "/api/exchanges/%2F/amq.default/publish", body, GUEST)
    response = connection.getresponse()
    assert response.status == 400
    assert reason in json.loads(response.read())["reason"]
    connection.close()


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN"])
def test_numbers_that_are_no_json(api, number):
    """Python reads them; nobody else does, and no count is one."""
    body = '{"from": ' + number + "}"
    octets = (
        f"POST /api/queues/%2F/q/replay HTTP/1.1\r\nHost: x\r\nAuthorization: {GUEST['Authorization']}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    )
    assert raw(api, octets.encode()).startswith(b"HTTP/1.1 400 ")
