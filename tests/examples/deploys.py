"""Runs the deploys of examples/ under load: nobody may notice them."""

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from load import Load

ROOT = pathlib.Path(__file__).resolve().parents[2]
EVENKEEL = sys.argv[1]
PATIENCE = 30
# Longer than what is in flight may take, and then the servers end one after the other.
END = 45


def eventually(what, check):
    end = time.monotonic() + PATIENCE
    while not (found := check()):
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.05)
    return found


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_block():
    """A hundred ports that nobody has, below those that the system hands out."""
    while True:
        block = random.randint(110, 320)
        if all(is_free(block * 100 + port) for port in range(30)):
            return block


class Example:
    """A copy of an example with ports of its own."""

    def __init__(self, there, name):
        self.dir = pathlib.Path(there, name)
        self.block, own = free_block(), {"rolling_deploy": 181, "blue_green": 182}[name]
        for file in self.dir.rglob("*"):
            if file.suffix in (".sh", ".toml"):
                file.write_text(file.read_text().replace(f"127.0.0.1:{own}", f"127.0.0.1:{self.block}"))
        self.address = ("127.0.0.1", self.block * 100)

    def __enter__(self):
        self.log = open(self.dir / "up.log", "w", encoding="utf-8")
        self.up = subprocess.Popen(["./up.sh", EVENKEEL], cwd=self.dir, stdout=self.log, stderr=self.log,
                                   start_new_session=True)
        try:
            eventually("all servers are healthy", self.is_whole)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, failed, *_):
        subprocess.run([EVENKEEL, "--quiet", "stop"], cwd=self.dir, check=False)
        try:
            code = self.up.wait(END)
        except subprocess.TimeoutExpired:
            self.kill()
            code = "a kill"
        self.log.close()
        if failed:
            print((self.dir / "up.log").read_text(), file=sys.stderr)
            for log in sorted(self.dir.glob("run/*.log")):
                print(f"{log.name}:\n{log.read_text()[-3000:]}", file=sys.stderr)
        else:
            assert code == 0, f"up.sh ended with {code}"
            assert not self.pids(), f"left behind: {self.pids()}"

    def kill(self):
        """Ends all of it: up.sh with its evenkeel, and the servers, which have sessions of their own."""
        os.killpg(self.up.pid, signal.SIGKILL)
        self.up.wait()
        for server in self.pids():
            upstream, _, name = server.partition("-")
            subprocess.run([self.dir.parent / "rolling_deploy" / "restart.sh", "stop"], check=False,
                           env={**os.environ, "RUN": str(self.dir / "run"), "EVENKEEL_UPSTREAM": upstream,
                                "EVENKEEL_SERVER": name})

    def evenkeel(self, *args):
        done = subprocess.run([EVENKEEL, *args], cwd=self.dir, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"evenkeel {args}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def servers(self, upstream):
        """Those that serve, with their addresses."""
        status = json.loads(self.evenkeel("status", "--output", "json"))
        found = next(u for u in status["upstreams"] if u["name"] == upstream)
        return {s["name"]: s["address"] for s in found["servers"] if (s["admin"], s["operational"]) == ("ready", "healthy")}

    def is_whole(self):
        assert self.up.poll() is None, "up.sh has ended"
        done = subprocess.run([EVENKEEL, "status", "--output", "json"], cwd=self.dir, capture_output=True, check=False)
        if done.returncode != 0:
            return False
        servers = [s for u in json.loads(done.stdout)["upstreams"] for s in u["servers"]]
        return all(s["operational"] == "healthy" for s in servers)

    def pids(self):
        return {file.stem: int(file.read_text()) for file in self.dir.glob("run/*.pid")}


def quiet(upstream):
    return ["--watch", "500ms", "--max-failed", "0", "--max-lost", "0", "--proof", f"{upstream}.json"]


def rolling(there):
    with Example(there, "rolling_deploy") as example:
        with Load(example.address) as load:
            before = example.pids()
            assert len(before) == 4, before
            (example.dir / "run" / "version").write_text("2")
            for upstream in ("shop", "board"):
                print(example.evenkeel("deploy", upstream, "--exec", "./restart.sh", *quiet(upstream)))
                proof = json.loads((example.dir / f"{upstream}.json").read_text())
                assert (proof["outcome"], proof["failed"], proof["sessions_lost"]) == ("done", 0, 0), proof
                assert [turn["result"] for turn in proof["servers"]] == ["restarted"] * 2, proof
            # The next answers of all servers are those of the new processes.
            load.versions.clear()
            eventually("each new server answers", lambda: load.versions == {"a": "2", "b": "2"})
        load.check(example.dir / "run" / "orders")
        after = example.pids()
        for server, pid in before.items():
            assert after[server] != pid, f"{server} was not replaced"
            assert not os.path.exists(f"/proc/{pid}/exe"), f"the old {server} still runs"


def switch(example, load, colour, version):
    """Switches to a set, and waits until all that is answered is answered by it."""
    gone = example.pids()
    (example.dir / "run" / "version").write_text(version)
    proof = f"{colour}.json"
    done = subprocess.run(["./switch.sh", colour, "--watch", "500ms", "--max-failed", "0", "--proof", proof],
                          cwd=example.dir, capture_output=True, text=True, check=False,
                          env={**os.environ, "EVENKEEL": EVENKEEL})
    assert done.returncode == 0, f"switch.sh {colour}: {done.returncode}\n{done.stdout}{done.stderr}"
    print(done.stdout)
    proof = json.loads((example.dir / proof).read_text())
    assert (proof["outcome"], proof["failed"]) == ("done", 0), proof
    names = {f"{colour}-a", f"{colour}-b"}
    assert set(example.servers("shop")) == names, example.servers("shop")
    load.versions.clear()
    eventually("the new servers answer, and nobody else",
               lambda: load.versions == {name: version for name in names})
    assert set(example.pids()) == {f"shop-{name}" for name in names}, example.pids()
    for server, pid in gone.items():
        assert not os.path.exists(f"/proc/{pid}/exe"), f"{server} still runs"


def blue_green(there):
    with Example(there, "blue_green") as example:
        with Load(example.address, board=False) as load:
            switch(example, load, "green", "2")
            switch(example, load, "blue", "3")
        load.check(example.dir / "run" / "orders")


def main():
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as there:
        for example in (ROOT / "examples").iterdir():
            if example.is_dir():
                shutil.copytree(example, pathlib.Path(there, example.name), ignore=shutil.ignore_patterns("run"))
        rolling(there)
        blue_green(there)
    print(f"all deploys went unnoticed, in {time.monotonic() - began:.0f} s")


main()
