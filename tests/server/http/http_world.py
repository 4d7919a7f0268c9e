"""The HTTP API without a socket: requests go through the server's own code, over a broker whose disk is in memory."""

import json
import random

import trio
import trio.lowlevel
from amqp_harness import World
from sim_disk import SimDisk

from broker.config.limits import Limits
from broker.server.http.api import Created, HttpError, LongAnswer, Request, answer, split_target
from broker.server.http.encoding import encode
from broker.server.http.server import HttpServer


class HttpWorld(World):
    """A broker with a disk, unless it is to keep all in memory, and its HTTP API. `guest` is an administrator."""

    def __init__(self, disk=None, *, in_memory=False):
        super().__init__(None if in_memory else disk or SimDisk(random.Random(1).randrange))
        self.server = HttpServer(self.hub, None, None, Limits(), dict)
        self.access.put_user("guest", ["administrator"])

    def allow(self, name, configure, write, read, tags=("management",)):
        """A user who may ask, with these permissions."""
        super().allow(name, configure, write, read)
        self.access.put_user(name, tags)

    def ask(self, method, target, body=None, user="guest"):
        """(status, what the JSON says or None), once it is durable."""
        octets = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        return trio.run(self._ask, method, f"/api/{target}", octets, self.access.users[user])

    async def _ask(self, method, target, octets, user):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._turns)
            try:
                found = await self.server.answer(method, target, octets, user, "127.0.0.1")
                text = None if found is None or isinstance(found, Created) else await encode(found)
            except HttpError as error:
                return error.status, error.body
            finally:
                nursery.cancel_scope.cancel()
        status = 204 if found is None else 201 if isinstance(found, Created) else 200
        return status, None if text is None else json.loads(text)

    async def _turns(self):
        while True:
            self.settle()
            await trio.lowlevel.checkpoint()

    def good(self, method, target, body=None, **options):
        """The answer to a request that is taken."""
        status, found = self.ask(method, target, body, **options)
        assert status < 400, found
        return found

    def refused(self, method, target, body=None, **options):
        """(status, reason) of a request that is not."""
        status, found = self.ask(method, target, body, **options)
        assert status >= 400, found
        return status, found["reason"]

    def steps(self, method, target, body=None, user="guest"):
        """An answer that takes several steps, before the first of them."""
        parts, query = split_target(f"/api/{target}")
        request = Request(
            method, parts, query, body or {}, self.access.users[user], self.hub, dict, 1 << 24, "127.0.0.1"
        )
        found = answer(request)
        assert isinstance(found, LongAnswer)
        return found

    def finish(self, steps):
        """Its answer, and how many pauses it took. Raises HttpError."""
        pauses = 0
        while not steps.advance():
            self.settle()
            pauses += 1
        return steps.answer, pauses

    def next_run(self):
        """The broker is killed and starts again, on the same disk."""
        self.disk.kill()
        return HttpWorld(self.disk)

    # What most tests need.

    def topic(self, name="t", partitions=1, **config):
        """A new topic."""
        body = {"partitions": partitions, "config": {key.replace("_", "."): value for key, value in config.items()}}
        assert self.ask("PUT", f"topics/%2F/{name}", body) == (201, None)
        return self.broker.vhosts["/"].topics.get(name)

    def produce(self, *records, name="t", **options):
        """Append records; where they are."""
        return self.good("POST", f"topics/%2F/{name}/records", {"records": list(records)}, **options)["offsets"]

    def records(self, query="", name="t"):
        """What a page of them shows."""
        return self.good("GET", f"topics/%2F/{name}/records?{query}")

    def all_records(self, query="", name="t"):
        """Page after page, up to the end."""
        found = []
        onward = 0
        while True:
            page = self.records(f"{query}&from={onward}", name)
            found += page["items"]
            if page["next"] >= page["high_watermark"]:
                return found
            assert page["next"] > onward
            onward = page["next"]
