"""Checks the files of the examples that cannot run here: units, Compose files, images, configurations."""

import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
EVENKEEL = sys.argv[1]
wrong = []


def check(good, what):
    if not good:
        wrong.append(what)


def run(what, *command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    check(done.returncode == 0, f"{what}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def units():
    """Units, with this binary in the place of the one that is to be installed."""
    found = sorted(EXAMPLES.rglob("*.service")) + sorted(EXAMPLES.rglob("*.socket"))
    with tempfile.TemporaryDirectory() as there:
        copies = []
        for unit in found:
            copy = pathlib.Path(there, unit.name)
            copy.write_text(unit.read_text().replace("/usr/local/bin/evenkeel", EVENKEEL))
            copies.append(str(copy))
        told = run("units", "systemd-analyze", "verify", "--man=no", *copies)
        # An unknown key is told and not refused.
        check(there not in told, told)
    return len(found)


def configurations():
    found = sorted(EXAMPLES.rglob("*.toml"))
    with tempfile.TemporaryDirectory() as there:
        token = pathlib.Path(there, "token")
        token.write_text("0123456789abcdef0123456789abcdef")
        for config in found:
            copy = pathlib.Path(there, "evenkeel.toml")
            copy.write_text(config.read_text().replace("/run/secrets/admin_token", str(token)))
            told = run(config.relative_to(ROOT), EVENKEEL, "check", "-c", str(copy))
            check("warning" not in told, f"{config.relative_to(ROOT)}: {told}")
    return len(found)


def image(dockerfile, context):
    """What is copied into an image has to be in its context."""
    check(dockerfile.is_file(), f"there is no {dockerfile}")
    if not dockerfile.is_file():
        return
    text = dockerfile.read_text().replace("\\\n", " ")
    check(re.match(r"(?:\s*#.*\n|\s*\n)*FROM \S+", text), f"{dockerfile} does not begin with an image")
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["COPY"] and not words[1].startswith("--from="):
            for source in words[1:-1]:
                check((context / source).exists(), f"{dockerfile} copies {source}, which {context} does not have")
        if words[:1] in (["ENTRYPOINT"], ["CMD"]):
            check(isinstance(yaml.safe_load(line.split(None, 1)[1]), list), f"{dockerfile}: {line} is no list")


def compose_files():
    found = sorted(EXAMPLES.rglob("compose*.yaml"))
    for file in found:
        compose = yaml.safe_load(file.read_text())
        here = file.parent
        addresses = {}
        for name, service in compose["services"].items():
            of = f"{file.relative_to(ROOT)}: {name}"
            build = service.get("build")
            check(build or service.get("image"), f"{of} has neither an image nor a build")
            if build:
                build = {"context": build} if isinstance(build, str) else build
                context = (here / build["context"]).resolve()
                image(context / build.get("dockerfile", "Dockerfile"), context)
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                known = (here / source).exists() if source[0] in "./" else source in compose.get("volumes", {})
                check(known, f"{of} mounts {source}, which is not there")
            for secret in service.get("secrets", []):
                check(secret in compose.get("secrets", {}), f"{of} wants the secret {secret}, which is not there")
            for network, how in service.get("networks", {}).items():
                check(network in compose.get("networks", {}), f"{of} is in {network}, which is not there")
                addresses[how["ipv4_address"]] = name
        # The servers of its configuration are containers, called UPSTREAM-SERVER as the deploy wants it.
        config = (here / "evenkeel.toml").read_text()
        table = r'\[\[upstream\.(\w+)\.server\]\]\nname = "(\w+)"\naddress = "([\d.]+):\d+"'
        servers = re.findall(table, config)
        check(servers, f"{file} has no servers")
        for upstream, server, address in servers:
            check(addresses.get(address) == f"{upstream}-{server}", f"{file}: who is {upstream}/{server} at {address}?")
    return len(found)


print(f"{units()} units, {configurations()} configurations, {compose_files()} Compose files", end="")
image(EXAMPLES / "Dockerfile", ROOT)
print(f": {len(wrong)} problems")
sys.exit("\n".join(wrong) or 0)
