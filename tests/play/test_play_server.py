"""Who may ask the page what: the token, the host, bounds, and one line for whatever cannot be answered."""

import http.client
import os
import re
import signal
import subprocess
import sys

import pytest

from play.conftest import HOST, TOKEN
from volta_switch.play.server import MOST_BYTES, MOST_JSON


@pytest.fixture
def page(page_of):
    return page_of("TASK10")


def test_the_page_holds_all_it_needs_and_nothing_of_the_web(page):
    response = page.send("GET", "")
    text = response.get_data(as_text=True)
    assert response.status_code == 200 and response.mimetype == "text/html"
    assert "a &lt;model&gt;" in text and "a <model>" not in text
    assert not re.findall(r"""(?:src|href)=["']?(?!data:)[^"'>]*//""", text) and "@import" not in text
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    nonces = set(re.findall(r'nonce="([^"]+)"', text))
    assert len(nonces) == 1 and f"'nonce-{nonces.pop()}'" in policy
    assert response.headers["Cache-Control"] == "no-store" and response.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "t%C3%B6ken"])
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "ask"), ("POST", "picture"), ("GET", "picture/x")])
def test_a_wrong_token_learns_nothing(page, token, method, path):
    response = page.send(method, path, b"{}", token=token)
    assert response.status_code == 403 and "not the page's address" in response.json["error"]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:5000", "127.0.0.1.evil.example:1", "", "[::1]:5000", "127.0.0.1.evil.example"],
)
def test_another_hosts_name_is_refused(page, host):
    assert page.send("GET", "", host=host).status_code in (400, 403)


def test_the_address_without_its_end_says_so(page):
    response = page.client.get(f"/{TOKEN}", headers={"Host": HOST})
    assert response.status_code == 404 and "ends with /" in response.json["error"]
    assert page.client.get("/wrong", headers={"Host": HOST}).status_code == 403


def test_port_80_is_not_named_by_browsers(page):
    assert page.send("GET", "", host="127.0.0.1").status_code == 200


def test_localhost_is_this_machine(page):
    assert page.send("GET", "", host="localhost:99").status_code == 200
    assert page.send("GET", "", host=HOST).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "ask", 405), ("GET", "nothing", 404), ("POST", "", 405), ("GET", "ask/more", 404), ("PUT", "picture", 405),
     ("DELETE", "picture/x", 405), ("GET", "../../etc/passwd", 404)],
)  # fmt: skip
def test_other_requests_are_refused(page, method, path, status):
    response = page.send(method, path)
    assert response.status_code == status and response.json["error"]


WRONG = {
    b"": "expected JSON", b"{": "expected JSON", b"\xff": "expected JSON", b"[]": "a request is a JSON object",
    b'{"pictures": []}': "pictures: expected a list", b'{"pictures": "x", "texts": ["x"]}': "pictures: expected a list",
    b'{"pictures": [1], "texts": ["x"]}': "pictures: expected a list",
    b'{"pictures": ["x"], "texts": []}': "texts: expected a list",
    b'{"pictures": ["x"], "texts": ["  "]}': "type a text",
    b'{"pictures": ["x"], "texts": ["a red cube"]}': "no picture 'x'",
    b'{"pictures": ["x", "y"], "texts": ["a"]}': "2 pictures; this model is asked about 1",
    b'{"pictures": ["x"], "texts": ["a", "b"]}': "2 texts; this model is asked one at a time",
    b'{"pictures": ["x"], "texts": ["a"], "other": 1}': "a request is a JSON object",
    b'{"pictures": ["x"], "texts": ["a"], "forced": {}}': "forced: expected a list",
    b'{"pictures": ["x"], "texts": ["a"], "forced": [{"row": true}]}': "is no choice",
}  # fmt: skip


@pytest.mark.parametrize("body", WRONG, ids=range(len(WRONG)))
def test_a_wrong_request_is_answered_by_one_line(page, body):
    response = page.send("POST", "ask", body)
    assert response.status_code == 400 and WRONG[body] in response.json["error"]
    assert "\n" not in response.json["error"]


@pytest.mark.parametrize(
    "choice",
    [{"row": 7}, {"row": -1}, {"layer": 99}, {"layer": -1}, {"block": "both"}, {"option": "Z"}, {"option": ""},
     {"block": "inputs", "layer": 0, "option": "l-1"}],
)  # fmt: skip
def test_a_choice_that_there_is_not_is_refused(page, choice):
    offer = page.session.album.offers[0]
    whole = {"row": 0, "layer": 1, "block": "modes", "option": "J"} | choice
    found = page.ask(offer.pictures, offer.texts, [whole])
    assert found.status == 400 and "no such choice" in found.error


def test_bodies_are_bounded(page):
    assert page.send("POST", "ask", b" " * (MOST_JSON + 1)).status_code == 413
    assert page.send("POST", "picture", b"x" * (MOST_BYTES + 1)).status_code == 413


def test_without_a_detector_a_dropped_picture_is_refused(page):
    response = page.send("POST", "picture", b"\x89PNG")
    assert response.status_code == 400 and "needs a detector" in response.json["error"]


def test_a_fault_of_the_program_is_one_line_and_the_page_goes_on(page, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(page.session, "ask", lambda asked: 1 / 0)
        response = page.send("POST", "ask", b"{}")
    assert response.status_code == 500 and response.json["error"] == "a fault of volta-switch; the terminal says more"
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert page.send("GET", "").status_code == 200


def test_pictures_have_addresses_boxes_and_names(page):
    offer = page.session.album.offers[0]
    found = page.send("GET", f"picture/{offer.pictures[0]}").json
    assert found["address"].startswith("data:image/png;base64,") and len(found["boxes"]) == len(found["names"])
    assert any(found["names"]) and (found["width"], found["height"]) == (480, 360)


def test_it_serves_this_machine_alone_until_it_is_interrupted(page_of, world, tmp_path):
    folder = page_of("TASK10").predictor_folder
    command = [
        sys.executable,
        "-m",
        "volta_switch",
        "play",
        folder,
        "--tasks_config_file",
        world.tasks_file,
        "--no-open",
    ]
    listen = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  a background job's is ignored
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = subprocess.Popen(list(map(str, command)), **pipes, text=True, preexec_fn=listen)
    try:
        address = running.stdout.readline().strip()
        host, port, token = re.fullmatch(r"http://(127\.0\.0\.1):(\d+)/([\w-]{20,})/", address).groups()
        with open(f"/proc/{running.pid}/net/tcp") as table:
            listening = [line.split()[1] for line in table if f":{int(port):04X} " in line.split()[1] + " "]
        assert {place.partition(":")[0] for place in listening} == {"0100007F"}
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        connection.request("GET", f"/{token}/")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 0 and said.strip().splitlines()[-1] == "ended"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), "nothing to ask about"),
        (("--images", "nowhere"), "no such folder"),
        (("--tasks_config_file", "nowhere.yml"), "nowhere.yml"),
        (("--features", "nowhere.lmdb"), "nowhere.lmdb"),
    ],
)
def test_what_cannot_be_played_is_one_line(page_of, flags, told, tmp_path):
    folder = page_of("TASK10").predictor_folder
    command = [sys.executable, "-m", "volta_switch", "play", str(folder), "--no-open", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100, env=dict(os.environ))
    assert done.returncode == 2 and told in done.stderr and len(done.stderr.strip().splitlines()) == 1
