"""Clients of the example apps, who check every answer.

A GET that meets the close of its kept connection is sent again on a fresh one, as browsers do, and counted. A POST
is sent once.
"""

import collections
import http.client
import json
import threading
import time


class Failed(Exception):
    pass


class Connection:
    """A connection that is kept, or opened for each request."""

    def __init__(self, load, kept=True):
        self.load, self.kept, self.cookies = load, kept, {}
        self.connection = None

    def ask(self, method, path, headers=None, body=None, status=200):
        headers = dict(headers or {})
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        while True:
            fresh = self.connection is None
            if fresh:
                self.connection = http.client.HTTPConnection(*self.load.address, timeout=15)
            try:
                self.connection.request(method, path, body, headers)
                answer = self.connection.getresponse()
                break
            except (http.client.RemoteDisconnected, ConnectionError) as error:
                self.connection.close()
                self.connection = None
                if fresh or method != "GET":
                    raise Failed(f"{method} {path}: {error!r} on a {'fresh' if fresh else 'kept'} connection") from error
                self.load.races += 1
        told = answer.read()
        if not self.kept or answer.will_close:
            self.connection.close()
            self.connection = None
        if answer.status != status:
            raise Failed(f"{method} {path}: {answer.status} {answer.headers.get('server-timing')} {told[:200]!r}")
        for cookie in answer.headers.get_all("set-cookie") or []:
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        told = json.loads(told)
        with self.load.lock:
            self.load.versions[told["server"]] = told["version"]
        return told

    def end(self):
        if self.connection:
            self.connection.close()


class Load:
    """Runs from `with` to its end."""

    def __init__(self, address, board=True):
        self.address, self.board = address, board
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.answered = collections.Counter()
        self.failed, self.orders, self.versions, self.races = [], [], {}, 0

    def __enter__(self):
        kinds = [(self.visitor, 6), (self.orders_kept, 3), (self.orders_new, 3), (self.reports, 4)]
        kinds += [(self.users, 6)] if self.board else []
        self.threads = [threading.Thread(target=self.run, args=(kind, i)) for kind, count in kinds for i in range(count)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def run(self, kind, number):
        while not self.over.is_set():
            try:
                kind(number)
            except Failed as failed:
                with self.lock:
                    self.failed.append(f"{time.strftime('%X')} {kind.__name__}: {failed}")
            except Exception as error:  # a client that is wrong is a failure, too
                with self.lock:
                    self.failed.append(f"{kind.__name__}: {error!r}")
                raise

    def count(self, kind, pause):
        with self.lock:
            self.answered[kind] += 1
        # How long a client takes from one request to the next.
        self.over.wait(pause)

    def visitor(self, _):
        """A session in a signed cookie: any server goes on with it."""
        connection = Connection(self)
        visits = 0
        while not self.over.is_set():
            visits += 1
            told = connection.ask("GET", "/")
            if told["visits"] != visits:
                raise Failed(f"visit {visits} was counted as {told['visits']}")
            self.count("visits of the shop", 0.08)
        connection.end()

    def orders_kept(self, number):
        self.take_orders(number, True)

    def orders_new(self, number):
        self.take_orders(number, False)

    def take_orders(self, number, kept):
        connection = Connection(self, kept)
        while not self.over.is_set():
            with self.lock:
                order = f"{kept}-{number}-{len(self.orders)}"
                self.orders.append(order)
            body = b"x" * (1 + len(self.orders) % 5000)
            told = connection.ask("POST", "/orders", {"X-Order": order}, body, 201)
            if (told["order"], told["bytes"]) != (order, len(body)):
                raise Failed(f"{order} of {len(body)} bytes was taken as {told}")
            self.count("orders", 0.12)
        connection.end()

    def reports(self, _):
        connection = Connection(self)
        while not self.over.is_set():
            if connection.ask("GET", "/report")["report"] != "x" * 1000:
                raise Failed("another report")
            self.count("reports", 0.1)
        connection.end()

    def users(self, _):
        """A session in the memory of one server, over when the user leaves."""
        connection = Connection(self)
        connection.ask("POST", "/board/login")
        for visit in range(1, 16):
            visits = connection.ask("GET", "/board/visits")["visits"]
            if visits != visit:
                raise Failed(f"visit {visit} was counted as {visits}")
            self.count("visits of the board", 0.06)
        connection.end()

    def check(self, orders_file):
        """What is wrong with what was seen."""
        taken = collections.Counter(orders_file.read_text().split())
        twice = [order for order, times in taken.items() if times > 1]
        lost = [] if self.failed else [order for order in self.orders if order not in taken]
        print(f"  {dict(self.answered)}, {len(self.failed)} failed, {len(twice)} orders taken twice, {len(lost)} lost, "
              f"{self.races} GETs met a close and were sent again")
        assert not self.failed, "\n".join(self.failed[:20])
        assert not twice, f"taken twice: {twice}"
        assert not lost, f"answered and not taken: {lost}"
        assert all(count > 20 for count in self.answered.values()), "hardly any load"
