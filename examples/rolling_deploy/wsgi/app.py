"""A small shop without a framework: any WSGI server runs it, here it is gunicorn.

Sessions are in a signed cookie, so any server of the same secret can go on with them. Orders are appended to
the file that SHOP_ORDERS names, in place of a database.
"""

import hashlib
import hmac
import json
import os
import time
from http.cookies import SimpleCookie

SERVER = os.environ.get("EVENKEEL_SERVER", "?")
VERSION = os.environ.get("VERSION", "1")
SECRET = os.environ.get("SHOP_SECRET", "change me").encode()
ORDERS = os.environ.get("SHOP_ORDERS", os.devnull)


def sign(value):
    return f"{value}.{hmac.new(SECRET, value.encode(), hashlib.sha256).hexdigest()}"


def unsign(signed):
    value = signed.rpartition(".")[0]
    return value if hmac.compare_digest(sign(value), signed) else None


def visit(environ):
    """Counts the visits of a session."""
    cookie = SimpleCookie(environ.get("HTTP_COOKIE", "")).get("shop")
    before = cookie and unsign(cookie.value)
    visits = str(int(before or 0) + 1)
    return "200 OK", {"visits": int(visits)}, [("Set-Cookie", f"shop={sign(visits)}; Path=/; HttpOnly; SameSite=Lax")]


def order(environ):
    """Takes an order. Written down first: whoever gets an answer has ordered."""
    number = environ.get("HTTP_X_ORDER", "")
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    with open(ORDERS, "a", encoding="ascii") as orders:
        orders.write(number + "\n")
    return "201 Created", {"order": number, "bytes": len(body)}, []


def report(_environ):
    """Takes a while, so that there is something in flight when a server is drained."""
    time.sleep(0.2)
    return "200 OK", {"report": "x" * 1000}, []


PAGES = {("GET", "/"): visit, ("POST", "/orders"): order, ("GET", "/report"): report}


def application(environ, start_response):
    path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
    if path == "/healthz":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
        return [b"ok\n"]
    page = PAGES.get((method, path))
    if page is None:
        start_response("404 Not Found", [("Content-Length", "0")])
        return [b""]
    status, told, headers = page(environ)
    body = json.dumps({**told, "server": SERVER, "version": VERSION}).encode()
    headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response(status, headers)
    return [body]
