"""The server's safety: who may ask, from where and how much; and its start and end as a person meets them."""

import asyncio
import base64
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from instruct_pix2pix.cli import main
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models.registry import DEMO
from instruct_pix2pix.server import serve
from instruct_pix2pix.server.app import guarded
from instruct_pix2pix.server.security import Credentials
from tests.helpers.serving import Served, encoded, quick, served

ROOT = Path(__file__).parents[2]
LIMIT = 200_000


def page(api: FastAPI) -> FastAPI:
    """A page with an address that fails."""

    @api.get("/fails", include_in_schema=False)
    def fails() -> None:
        raise ZeroDivisionError(f"in {DEMO}")

    @api.get("/", include_in_schema=False)
    def hello() -> PlainTextResponse:
        return PlainTextResponse("hello")

    return api


@pytest.fixture(scope="module")
def open_server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("open"), most_body=LIMIT, page=page, host_names=["studio.local"]) as running:
        yield running


@pytest.fixture(scope="module")
def locked_server(tmp_path_factory):
    users = [Credentials("ann", "password:1"), Credentials("bob", "b")]
    with served(tmp_path_factory.mktemp("locked"), users=users) as running:
        yield running


def status(served: Served, path: str = "/sdapi/v1/progress", method: str = "GET", **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return served.client.request(method, path, headers=named).status_code


# --- where a request comes from ---


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}", "192.168.1.7", "Studio.local"]
)
def test_the_names_of_this_machine_are_answered(open_server, host):
    assert status(open_server, Host=host.format(port=open_server.port)) == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:7860", "127.0.0.1.evil.example", "", "[::1"])
def test_a_domain_that_was_made_to_point_here_is_refused(open_server, host):
    assert status(open_server, Host=host) == 403
    assert status(open_server, "/sdapi/v1/interrupt", "POST", Host=host) == 403


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://127.0.0.1:1",
        "http://localhost:{port}",
        "http://127.0.0.1:{port}.evil.example",
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET", "OPTIONS"])
def test_a_page_of_another_origin_is_refused(open_server, method, origin):
    path = "/sdapi/v1/progress" if method == "GET" else "/sdapi/v1/interrupt"
    answer = open_server.client.request(method, path, headers={"Origin": origin.format(port=open_server.port)})
    assert answer.status_code == 403 and "other sites" in answer.json()["detail"]
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_the_servers_own_page_is_answered(open_server):
    own = f"http://127.0.0.1:{open_server.port}"
    assert status(open_server, "/sdapi/v1/interrupt", "POST", Origin=own, Sec_Fetch_Site="same-origin") == 200
    assert status(open_server, Origin="http://localhost", Host="localhost:80") == 200
    assert status(open_server, Origin="https://studio.local", Host="studio.local") == 200  # behind a tunnel


def test_a_link_to_the_page_works_but_nothing_is_built_into_another_page(open_server):
    assert status(open_server, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate") == 200
    assert status(open_server, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors") == 403
    post = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert status(open_server, "/sdapi/v1/interrupt", "POST", **post) == 403


@pytest.mark.parametrize("path", ["/", "/docs", "/sdapi/v1/options", "/nothing", "/fails"])
def test_every_answer_tells_the_browser_to_load_nothing_from_elsewhere(open_server, path):
    headers = open_server.client.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "http" not in policy and "*" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "SAMEORIGIN"
    assert "server" not in headers


# --- who asks ---


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/sdapi/v1/options", "/nothing"])
def test_nothing_is_answered_without_the_password(locked_server, path):
    answer = locked_server.client.get(path)
    assert answer.status_code == 401 and answer.headers["WWW-Authenticate"].startswith("Basic")
    assert "ann" not in answer.text


WRONG = [
    ("ann", ""),
    ("ann", "password:2"),
    ("", ""),
    ("Ann", "password:1"),
    ("ann", "password"),
    ("a", "nn:password:1"),
    ("bob", "password:1"),
]


@pytest.mark.parametrize("given", WRONG)
def test_a_wrong_password_is_refused(locked_server, given):
    proxied = {"X-Forwarded-For": f"10.0.0.{WRONG.index(given)}"}  # each another guesser
    ask = locked_server.client
    assert ask.get("/sdapi/v1/options", auth=given, headers=proxied).status_code == 401
    assert ask.post("/sdapi/v1/img2img", json=quick(), auth=given, headers=proxied).status_code == 401


@pytest.mark.parametrize("header", ["Basic", "Basic &&&", "Bearer YW5u", "Basic YW5u", "basic " + "A" * 5000])
def test_a_malformed_password_is_refused(locked_server, header):
    assert status(locked_server, Authorization=header, X_Forwarded_For=f"10.0.1.{len(header) % 256}") == 401


def test_a_password_may_have_any_letters():
    right = "Basic " + base64.b64encode("ann:päss:☃".encode()).decode()
    assert Credentials("ann", "päss:☃").match(right) and not Credentials("ann", "päss:☂").match(right)


def test_every_user_gets_in_with_the_own_password(locked_server):
    for user in (("ann", "password:1"), ("bob", "b")):
        assert locked_server.client.get("/sdapi/v1/options", auth=user).status_code == 200


def newcomer(served: Served, address: str) -> httpx.Client:
    """Return a client without a cookie, as a proxy passes on what it sends from an address."""
    headers = {"X-Forwarded-For": address}
    return httpx.Client(base_url=f"http://127.0.0.1:{served.port}", headers=headers, timeout=60, trust_env=False)


def test_who_guesses_has_to_wait_and_nobody_else_does(locked_server):
    path, right = "/sdapi/v1/options", ("ann", "password:1")
    with newcomer(locked_server, "10.1.0.7") as guesser, newcomer(locked_server, "10.1.0.7, 10.1.0.8") as other:
        answers = [guesser.get(path, auth=("ann", f"{n}")) for n in range(8)]
        assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 3
        late = guesser.get(path, auth=right)
        assert late.status_code == 429 and int(late.headers["Retry-After"]) == 1
        assert "wrong passwords" in late.json()["detail"]
        assert other.get(path, auth=right).status_code == 200


def test_a_browser_that_has_logged_in_is_not_shut_out_by_others_at_its_address(locked_server):
    path, right = "/sdapi/v1/options", ("ann", "password:1")
    with newcomer(locked_server, "10.2.0.7") as browser, newcomer(locked_server, "10.2.0.7") as other:
        cookie = browser.get(path, auth=right).headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert [other.get(path, auth=("ann", f"{n}")).status_code for n in range(6)][-1] == 429
        assert browser.get(path, auth=right).status_code == 200
        forged = {"Cookie": "ip2p_browser=0123456789abcdef.0123456789abcdef"}
        assert other.get(path, auth=right, headers=forged).status_code == 429


def test_with_the_password_everything_works(locked_server):
    import webuiapi

    assert locked_server.client.get("/sdapi/v1/cmd-flags", auth=("ann", "password:1")).json() == {
        "api": True,
        "listen": False,
        "auth": True,
    }
    client = webuiapi.WebUIApi(port=locked_server.port, username="ann", password="password:1")
    assert client.util_get_current_model() == "demo"


# --- how much ---


def test_a_body_that_says_that_it_is_too_large_is_refused(open_server):
    answer = open_server.client.post("/sdapi/v1/img2img", content=b"x" * (LIMIT + 1))
    assert answer.status_code == 413 and "MB" in answer.json()["detail"]


def test_a_body_that_grows_too_large_is_refused(open_server):
    def grow():
        for _ in range(30):
            yield b"x" * 10_000

    headers = {"Content-Type": "application/json"}
    answer = open_server.client.post("/sdapi/v1/img2img", content=grow(), headers=headers)
    assert answer.status_code == 413 and "MB" in answer.json()["detail"]


def test_a_body_whose_last_piece_makes_it_too_large_is_refused_at_once():
    pieces = iter([b"x" * (LIMIT - 1), b"xx"])
    answers = []

    async def receive():
        body = next(pieces, None)
        assert body is not None, "it waits for more, and the client for its answer"
        return {"type": "http.request", "body": body, "more_body": len(body) > 2}

    async def send(message):
        answers.append(message)

    async def reads_all(scope, receive, send):
        while (await receive())["more_body"]:
            pass

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", b"localhost")]}

    async def ask():
        await guarded(reads_all, most_body=LIMIT)(scope, receive, send)

    asyncio.run(ask())
    assert answers[0]["status"] == 413


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "abc"])
def test_an_absurd_length_is_refused(open_server, length):
    with socket.create_connection(("127.0.0.1", open_server.port)) as connection:
        head = f"POST /sdapi/v1/img2img HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode())
        connection.settimeout(60)
        assert connection.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))


def test_after_refusals_the_server_still_edits(open_server):
    assert len(open_server.edit(width=64)) == 1
    body = quick(init_images=[encoded(b"\x89PNG\r\n\x1a\n" + bytes(1000))])
    assert open_server.post("img2img", **body).status_code == 422
    assert len(open_server.edit(width=64)) == 1


# --- what goes wrong inside ---


def test_a_fault_is_answered_without_its_details(open_server):
    answer = open_server.client.get("/fails")
    assert answer.status_code == 500 and "went wrong" in answer.json()["detail"]
    assert "Zero" not in answer.text and "/" not in answer.json()["detail"]


def test_a_page_can_be_added(open_server, locked_server):
    assert open_server.client.get("/").text == "hello"
    answer = locked_server.client.get("/", auth=("ann", "password:1"))
    assert answer.status_code == 307 and answer.headers["location"] == "docs"


# --- starting and stopping ---


def test_a_port_that_is_taken_is_passed_over_unless_it_was_asked_for(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(serve, "PORT", port)
        with serve.bound_socket("127.0.0.1", None) as found:
            assert port < found.getsockname()[1] < port + 20 and found.getsockname()[0] == "127.0.0.1"
        with pytest.raises(UserError, match=f"Port {port} is taken"):
            serve.bound_socket("127.0.0.1", port)


def test_the_body_of_an_answer_does_not_wait_for_an_acknowledgement_of_its_head():
    with (
        serve.bound_socket("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_others_are_let_in_only_with_a_password_or_on_purpose(monkeypatch, capsys):
    bound: list[str] = []

    def bind(host: str, port: int | None) -> socket.socket:
        bound.append(host)
        raise UserError("Far enough.")

    monkeypatch.setattr(serve, "bound_socket", bind)
    assert main.main(["--listen"]) == 1 and "--auth" in capsys.readouterr().err
    assert bound == []
    assert main.main(["--listen", "--auth", "ann"]) == 1 and "USER:PASSWORD" in capsys.readouterr().err
    assert bound == []
    for words in ([], ["--listen", "--auth", "ann:x"], ["--listen", "--insecure"], ["--auth", "ann:x"]):
        assert main.main([*words, "--device", "cpu", "--precision", "fp32"]) == 1
    assert bound == ["127.0.0.1", "0.0.0.0", "0.0.0.0", "127.0.0.1"]


@pytest.fixture
def told_users(monkeypatch):
    """What `serve` is told of users, in each of its runs."""
    told: list[tuple[tuple[str, str], ...]] = []
    monkeypatch.setattr(serve, "run", lambda options: told.append(options.users) or 0)
    monkeypatch.delenv("IP2P_AUTH", raising=False)
    return told


def test_passwords_come_from_a_file_or_the_environment_so_that_no_list_of_processes_shows_them(
    told_users, monkeypatch, tmp_path, capsys
):
    file = tmp_path / "users.txt"
    file.write_bytes(b"\xef\xbb\xbf# who may edit\r\nann:pass:word\r\n\r\n bob:b,c \r\n")
    file.chmod(0o600)
    assert main.main(["--listen", "--auth-file", str(file)]) == 0
    monkeypatch.setenv("IP2P_AUTH", "eve:é")
    assert main.main(["--listen"]) == 0
    assert main.main(["--auth-file", str(file), "--auth", "zoe:z"]) == 0
    ann, bob, eve, zoe = ("ann", "pass:word"), ("bob", "b,c"), ("eve", "é"), ("zoe", "z")
    assert told_users == [(ann, bob), (eve,), (zoe, eve, ann, bob)]
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(os.name != "posix", reason="other systems keep permissions elsewhere")
def test_a_file_of_passwords_that_others_can_read_gets_a_word(told_users, tmp_path, capsys):
    file = tmp_path / "users.txt"
    file.write_text("ann:secret")
    file.chmod(0o644)
    assert main.main(["--auth-file", str(file)]) == 0 and len(told_users) == 1
    said = capsys.readouterr().err
    assert "chmod 600" in said and str(file) in said and "secret" not in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"", "names no user"),
        (b"# nobody\n", "names no user"),
        (b"ann:secret\nsecret\n", "Line 2"),
        (b"ann:secret\nann:secret2", "'ann' has two passwords"),
        (b"ann:\xff\xfe", "not a list of passwords"),
        (b"a:b\n" * 1_000_000, "not a list of passwords"),
    ],
)
def test_a_file_that_is_no_list_of_passwords_lets_nobody_in(told_users, tmp_path, capsys, content, said):
    file = tmp_path / "users.txt"
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o600)
    assert main.main(["--listen", "--auth-file", str(file)]) == 1
    told = capsys.readouterr().err
    assert said in told and "secret" not in told and told_users == []


@pytest.mark.parametrize(("typed", "path"), [("/edit", "/edit"), ("edit/", "/edit"), ("/a/b-c/", "/a/b-c"), ("/", "")])
def test_the_page_may_lie_below_a_path(monkeypatch, typed, path):
    told: list[str] = []
    monkeypatch.setattr(serve, "run", lambda options: told.append(options.root_path) or 0)
    assert main.main(["--root-path", typed]) == 0 and told == [path]


@pytest.mark.parametrize("typed", ["https://pics.example/edit", "/a b", "/a//b", "/é", "/<b>"])
def test_what_is_no_path_is_bad_usage(typed):
    with pytest.raises(SystemExit):
        main.main(["--root-path", typed])


def test_an_empty_variable_in_the_environment_is_no_open_door(told_users, monkeypatch, capsys):
    monkeypatch.setenv("IP2P_AUTH", "")
    assert main.main([]) == 1 and told_users == []
    assert "IP2P_AUTH" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--port", "0"], ["--port", "70000"], ["--port", "x"], ["--nonsense"]])
def test_words_that_make_no_sense_are_bad_usage(words):
    with pytest.raises(SystemExit) as exit_:
        main.main(words)
    assert exit_.value.code == 2


def test_without_a_command_the_server_starts(monkeypatch):
    seen: list[int | None] = []
    monkeypatch.setattr(serve, "run", lambda options: seen.append(options.port) or 0)
    for words in ([], ["--port", "7999"], ["--debug"], ["--debug", "--port", "7998"], ["serve", "--port", "7997"]):
        assert main.main(words) == 0
    assert seen == [None, 7999, None, 7998, 7997]


def test_it_runs_as_a_program_and_stops_in_order_while_it_edits(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["--port", str(port), "--device", "cpu", "--precision", "fp32"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "modules"), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "instruct_pix2pix.cli.main", *words]
    process = subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert f"http://127.0.0.1:{port}" in process.stderr.readline()
        answers: list[httpx.Response] = []
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/sdapi/v1", timeout=60, trust_env=False) as client:
            while True:  # it listens before it answers
                try:
                    client.get("/progress")
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            long = quick(steps=150, n_iter=100)
            thread = threading.Thread(target=lambda: answers.append(client.post("/img2img", json=long)))
            thread.start()
            while not client.get("/progress").json()["progress"]:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            thread.join(60)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert answers[0].status_code == 200 and '"interrupted": true' in answers[0].json()["info"]
    assert process.returncode == 0 and said.strip() == "Stopped."
