"""A web page, or another user of this machine, against our servers: nothing is answered or run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from support.browser import PROGRAM, browser
from support.running import deconstruct, environment
from support.served import Served, children, serving
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

PLAIN_RUN = """
import os, signal
from deconstruct.activations import shards

def wait(*arguments, **named):
    print(os.environ["PREFECT_API_URL"], os.environ.get("PREFECT_API_AUTH_STRING"), flush=True)
    signal.pause()

shards.write = wait
from flows.cli import app
app()
"""
"""The command `run`, which says the address of its server and the secret, and stands still."""

SOCKETS = ("events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled")
REFUSED = (401, 403, 421)


class Target(NamedTuple):
    """A server of ours."""

    url: str
    secret: str

    def ask(self, method: str, path: str, secret: str | None = None, **more: Any) -> httpx.Response:
        login = httpx.BasicAuth(*secret.split(":", maxsplit=1)) if secret else None
        url = self.url.removesuffix("/api") + path
        return httpx.request(method, url, auth=login, timeout=60, **more)

    def flows(self) -> list[str]:
        found = self.ask("POST", "/api/flows/filter", self.secret, json={}).json()
        return [flow["name"] for flow in found]

    def socket(self, path: str, token: str | None, origin: str | None = None) -> Any:
        """What the server says to who comes with a token."""
        url = f"{self.url.replace('http', 'ws', 1)}/{path}"
        own = Origin(origin) if origin else None
        with connect(url, origin=own, subprotocols=[Subprotocol("prefect")], proxy=None) as socket:
            socket.send(json.dumps({"type": "auth", "token": token}))
            return json.loads(socket.recv(timeout=60))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served"), "--no-gpu") as found:
        yield found


@contextmanager
def plain_run(home: Path, config: Path) -> Iterator[Target]:
    command = [sys.executable, "-c", PLAIN_RUN, "run", str(config)]
    with subprocess.Popen(
        command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url, secret = process.stdout.readline().split()
            yield Target(url, secret)
        finally:
            process.kill()


@pytest.fixture(scope="module", params=["serve", "run"])
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, config: Path
) -> Iterator[Target]:
    """The server of ``serve``, and that of a plain run."""
    if request.param == "serve":
        served: Served = request.getfixturevalue("served")
        yield Target(served.url, served.secret)
    else:
        with plain_run(tmp_path_factory.mktemp("plain") / "home", config) as found:
            yield found


FOREIGN = {
    "other origin": {"Origin": "http://page.example"},
    "file or sandbox": {"Origin": "null"},
    "other port here": {"Origin": "http://127.0.0.1:9"},
    "other scheme": {"Origin": "https://{host}"},
    "rebound": {"Host": "page.example:{port}"},
    "rebound, of its own origin": {
        "Host": "page.example:{port}",
        "Origin": "http://page.example:{port}",
    },
    "alike": {"Host": "127.0.0.1.page.example:{port}"},
    "by another port": {"Host": "localhost:9"},
    "picture": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    "frame": {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "iframe",
    },
}


@pytest.mark.parametrize("who", FOREIGN.values(), ids=FOREIGN)
def test_a_page_of_another_origin_or_name_is_answered_nothing(
    who: dict[str, str], target: Target
) -> None:
    """Not even where it had the secret; and a POST without a type is sent without asking first."""
    host = target.url.split("/")[2]
    headers = {name: said.format(host=host, port=host.split(":")[1]) for name, said in who.items()}
    types = ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/json"})
    flow = b'{"name": "of the page"}'
    asked = [
        *(
            {"method": "POST", "path": "/api/flows/", "headers": of, "content": flow}
            for of in types
        ),
        {"method": "GET", "path": "/api/health"},
        {"method": "GET", "path": "/ui-settings"},
        {"method": "GET", "path": "/"},
        {
            "method": "OPTIONS",
            "path": "/api/flows/",
            "headers": {"Access-Control-Request-Method": "POST"},
        },
    ]
    for request in asked:
        for secret in (None, target.secret):
            more = {**request, "headers": request.get("headers", {}) | headers}
            answer = target.ask(secret=secret, **more)
            assert answer.status_code in (403, 421), request
            assert "access-control-allow-origin" not in answer.headers
            assert len(answer.text.splitlines()) == 1
    assert "of the page" not in target.flows()


def test_without_the_secret_nothing_is_said_but_that_the_server_is_there(target: Target) -> None:
    assert target.ask("GET", "/api/health").json() is True
    for secret in (None, "deconstruct:wrong", f"{target.secret}x", "x:"):
        for method, path in (("GET", "/api/version"), ("POST", "/api/flows/")):
            answer = target.ask(method, path, secret, json={"name": "of another user"})
            assert answer.status_code == 401
        settings = target.ask("GET", "/api/admin/settings", secret)
        assert settings.status_code == 401
    assert "of another user" not in target.flows()
    assert target.secret not in target.ask("GET", "/api/admin/settings", target.secret).text


@pytest.mark.parametrize("path", SOCKETS)
def test_sockets_are_for_our_own(path: str, target: Target) -> None:
    """A browser opens one to whatever address a page names."""
    assert target.socket(path, target.secret)["type"] == "auth_success"
    for origin in ("http://page.example", "null", "http://localhost:9"):
        with pytest.raises(InvalidStatus) as refused:
            target.socket(path, target.secret, origin)
        assert refused.value.response.status_code == 403
    for token in (None, "deconstruct:wrong"):
        with pytest.raises(ConnectionClosed):
            target.socket(path, token)
    old = f"{target.url.replace('http', 'ws', 1)}/{path}"  # of clients that say no secret
    with pytest.raises(InvalidStatus), connect(old, proxy=None):
        pass


def test_links_lead_to_the_ui_which_no_page_may_frame(served: Served) -> None:
    link = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
        "Accept": "text/html",
    }
    target = Target(served.url, served.secret)
    opened = target.ask("GET", "/v2/deployments", headers=link)
    assert (opened.status_code, opened.headers["x-frame-options"]) == (200, "DENY")
    assert target.ask("POST", "/api/flows/", target.secret, headers=link).status_code == 403


def test_job_variables_that_name_what_runs_are_refused_and_run_nothing(
    served: Served, tmp_path: Path
) -> None:
    """Even with the secret; past the check, in a run put together by hand, they go nowhere."""
    mark = tmp_path / "mark"
    (tmp_path / "sitecustomize.py").write_text(f"open({str(mark)!r}, 'w')")
    hostile = {
        "command": f"touch {mark}",
        "env": {"PYTHONPATH": str(tmp_path)},
        "env.PYTHONPATH": str(tmp_path),
        "working_dir": str(tmp_path),
        "image": "other",
    }
    own = served.deployment("pipeline/on-demand")
    bad = {"config": {"model": {"name": "/nowhere"}}}
    scheduled = {"parameters": bad, "state": {"type": "SCHEDULED"}}
    like = {"name": "like it", "flow_id": own["flow_id"], "work_pool_name": "cpu"}
    for name, value in hostile.items():
        for path, body in (
            (f"/deployments/{own['id']}/create_flow_run", scheduled),
            ("/deployments/", like),
        ):
            with pytest.raises(httpx.HTTPStatusError) as refused:
                served.ask("POST", path, body | {"job_variables": {name: value}})
            assert refused.value.response.status_code == 422
            assert f"'{name}' was unexpected" in refused.value.response.text
    whole = {"deployment_id": own["id"], "flow_id": own["flow_id"], "job_variables": hostile}
    made = served.ask("POST", "/flow_runs/", scheduled | whole | {"work_pool_name": "cpu"})
    served.wait(lambda: served.state(made["id"]) in ("Failed", "Crashed", "Completed"))

    def own_code_ran() -> bool:  # the last lines arrive after the state does
        logs = served.ask("POST", "/logs/filter", logs={"flow_run_id": {"any_": [made["id"]]}})
        return any("/nowhere" in line["message"] for line in logs)

    served.wait(own_code_ran)
    assert not mark.exists()


def test_the_secret_is_read_by_its_user_alone_and_said_nowhere(served: Served) -> None:
    file = served.home / ".prefect" / "secret"
    assert file.stat().st_mode & 0o777 == 0o600
    password = served.secret.partition(":")[2]
    assert len(password) > 40
    assert not [line for _, line in children(served.process.pid) if password in line]
    said = [
        served.log,
        *(served.home / ".prefect").glob("*.log"),
        served.home / ".prefect/server.json",
    ]
    for path in said:
        assert password not in path.read_text()
    logs = served.ask("POST", "/logs/filter", {})
    assert password not in json.dumps(logs)


def test_commands_are_let_in_as_serve_and_the_docs_say(served: Served) -> None:
    exports = re.findall(r"(?:^commands)? +(export PREFECT_\w+=.+)$", served.log.read_text(), re.M)
    assert len(exports) == 2

    def prefect(*lines: str) -> subprocess.CompletedProcess[str]:
        script = "; ".join([*lines, f"{sys.executable} -m prefect deployment ls"])
        env = environment(served.home.parent / "elsewhere")
        return subprocess.run(
            ["bash", "-c", script], env=env, capture_output=True, text=True, check=False
        )

    assert "pipeline/nightly" in prefect(*exports).stdout
    alone = prefect(exports[0])
    assert alone.returncode != 0
    assert "401" in alone.stdout + alone.stderr

    for env in ({}, {"PREFECT_API_URL": served.url, "PREFECT_API_AUTH_STRING": ""}):
        own = deconstruct(served.home, "retry", "no-such-run", env=env)
        assert own.returncode == 1
        assert re.search("no run has failed|no failed run is called 'no-such-run'", own.stderr)
    wrong = {"PREFECT_API_URL": served.url, "PREFECT_API_AUTH_STRING": "deconstruct:wrong"}
    other = deconstruct(served.home.parent / "other", "retry", env=wrong)
    (line,) = other.stderr.splitlines()
    assert "refuses this command (401); set PREFECT_API_AUTH_STRING" in line
    assert ".prefect/secret" in line
    named = wrong | {"PREFECT_API_URL": served.url.replace("127.0.0.1", "127.1")}
    other = deconstruct(served.home.parent / "other", "retry", env=named)
    assert "is asked by its own address alone, not as 'http://127.1:" in other.stderr


PAGE = """<!doctype html><title>page</title><script>
const told = [];
async function attempt(name, how) {
  try { told.push([name, await how()]); } catch (error) { told.push([name, "refused"]); }
}
const flow = new Blob(['{"name": "of the page"}']);
const server = "SERVER";
const send = (more) => fetch(server + "/api/flows/", {method: "POST", body: flow, ...more});
const json = {"Content-Type": "application/json"};
(async () => {
  await attempt("read", async () => (await fetch(server + "/api/health")).status);
  await attempt("post", async () => (await send({})).status);
  await attempt("blind post", async () => (await send({mode: "no-cors"})).type);
  await attempt("json", async () => (await send({headers: json})).status);
  await attempt("socket", () => new Promise((yes, no) => {
    const socket = new WebSocket(server.replace("http", "ws") + "/api/events/in", "prefect");
    socket.onopen = () => yes("open"); socket.onerror = no;
  }));
  window.told = Object.fromEntries(told);
})();
</script>"""
"""What a page can try, and what came of it in ``window.told``."""


@pytest.mark.skipif(PROGRAM is None, reason="no chromium to play the page in")
def test_a_page_in_a_browser_gets_nothing_and_does_nothing(target: Target, tmp_path: Path) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE.replace("SERVER", target.url.removesuffix("/api")).encode())

        def log_message(self, *_: Any) -> None: ...

    port = target.url.split(":")[2].split("/")[0]
    rebinding = "--host-resolver-rules=MAP page.example 127.0.0.1"
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
        with browser(tmp_path, rebinding) as page:
            for host in ("127.0.0.1", "page.example"):
                page.go(f"http://{host}:{elsewhere.server_port}/")
                told = page.wait("window.told")
                blind = told.pop("blind post")
                assert set(told.values()) == {"refused"}
                assert blind in ("opaque", "refused")
            page.go(f"http://page.example:{port}/")  # the page's name is bound anew
            assert "ask by one of 127.0.0.1" in page.text()
            rebound = "fetch('/api/flows/', {method: 'POST', body: '{\"name\": \"of the page\"}'})"
            assert page.value(f"{rebound}.then(answer => answer.status)") == 421
        elsewhere.shutdown()
    assert "of the page" not in target.flows()
