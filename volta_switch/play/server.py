"""The page and its requests, on this machine alone.

| request, below ``/<token>/`` | answer |
|---|---|
| GET ``/`` | the page |
| GET ``/picture/<key>`` | what the page shows of a picture (``Session.picture``) |
| POST ``/picture`` | a dropped picture's key; the body is its file |
| POST ``/ask`` | an answer (``Session.ask``); the body is JSON |

The server listens on the loopback interface. The token in the address keeps out other users of the machine; the name of
the host, which must be this one's, keeps out pages of the web whose own name is made to lead here. What is asked
wrongly is answered by one line and a status from 400 on.
"""

from __future__ import annotations

import argparse
import hmac
import json
import secrets
import signal
import sys
import tempfile
import threading
import traceback
import webbrowser
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volta_switch.command import typed_program
from volta_switch.errors import UserError
from volta_switch.play.album import Album
from volta_switch.play.session import Session

if TYPE_CHECKING:
    from werkzeug.serving import BaseWSGIServer

HOST = "127.0.0.1"
HOSTS = (HOST, "localhost")
MOST_BYTES = 32 << 20  # of a dropped picture
MOST_JSON = 1 << 18  # bytes of a request
_HERE = Path(__file__).parent
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_POLICY = (
    "default-src 'none'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; style-src 'nonce-{0}'; script-src 'nonce-{0}'"
)


class Application:
    """A WSGI application.

    Args:
        session: that answers.
        folder: for the files of dropped pictures while their regions are found.
        title: what the page calls the model.
        token: the first part of every address.
    """

    def __init__(self, session: Session, folder: Path, title: str, token: str) -> None:
        self._session, self._folder, self._title, self._token = session, folder, title, token

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answers one request."""
        from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
        from werkzeug.wrappers import Request, Response

        request = Request(environ)
        try:
            response = self._answer(request)
        except UserError as error:
            response = _error(str(error), 400)
        except RequestEntityTooLarge:
            response = _error(f"too large; a picture has at most {MOST_BYTES >> 20} MB", 413)
        except HTTPException as error:
            response = _error(str(error.description or error.name), error.code or 400)
        except Exception:  # a fault of the program: the page goes on, and the terminal has what to report
            traceback.print_exc()
            response = _error("a fault of volta-switch; the terminal says more", 500)
        assert isinstance(response, Response)
        response.headers.extend(_HEADERS)
        return response(environ, start_response)

    def _answer(self, request: Any) -> Any:
        from werkzeug.exceptions import Forbidden, MethodNotAllowed, NotFound

        if request.host.partition(":")[0] not in HOSTS:
            raise Forbidden(f"the page's address begins with http://{HOST}")
        token, slash, path = request.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            raise Forbidden("not the page's address; volta-switch play has printed it")
        if not slash:
            raise NotFound("the page's address ends with /")
        place, _, rest = path.partition("/")
        pictures = ("picture", "thumbnail")
        wanted = {"": "GET", "ask": "POST", "picture": "GET" if rest else "POST", "thumbnail": "GET"}.get(place)
        if wanted is None or (rest and place not in pictures):
            raise NotFound("nothing is here; reload the page")
        if request.method != wanted:
            raise MethodNotAllowed([wanted])
        if place == "":
            return self._page()
        if place == "ask":
            return _json(self._session.ask(_read_json(request)))
        if place == "thumbnail":
            return _json(self._session.thumbnail(rest))
        if rest:
            return _json(self._session.picture(rest))
        request.max_content_length = MOST_BYTES
        return _json({"key": self._session.album.drop(request.get_data(), self._folder)})

    def _page(self) -> Any:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from werkzeug.wrappers import Response

        environment = Environment(loader=FileSystemLoader(_HERE), undefined=StrictUndefined, autoescape=True)
        nonce = secrets.token_urlsafe(16)
        page = environment.get_template("play.html.j2").render(
            title=self._title,
            nonce=nonce,
            style=(_HERE / "play.css").read_text(encoding="utf-8"),
            script=(_HERE / "play.js").read_text(encoding="utf-8"),
            facts=self._session.facts(),
        )
        return Response(page, mimetype="text/html", headers={"Content-Security-Policy": _POLICY.format(nonce)})


def _read_json(request: Any) -> Any:
    request.max_content_length = MOST_JSON
    try:
        return json.loads(request.get_data())
    except (ValueError, RecursionError):
        raise UserError("expected JSON; reload the page") from None


def _json(value: Any, status: int = 200) -> Any:
    from werkzeug.wrappers import Response

    return Response(json.dumps(value), status, mimetype="application/json")


def _error(message: str, status: int) -> Any:
    return _json({"error": message}, status)


def make_server(application: Application, port: int) -> BaseWSGIServer:
    """Returns a server that listens on the loopback interface.

    Raises:
        UserError: the port is taken or not allowed, or the server's library is missing.
    """
    try:
        from werkzeug import serving
    except ImportError:
        raise UserError('the page needs the package werkzeug: pip install "volta-switch[play]"') from None

    class Silent(serving.WSGIRequestHandler):
        """Prints no line for each request, and ends idle connections."""

        timeout = 60  # seconds

        def log(self, *args: Any) -> None:
            """Prints nothing."""

    try:
        return serving.make_server(HOST, port, application, threaded=True, request_handler=Silent)
    except (OSError, SystemExit):
        raise UserError(f"--port {port}: cannot be listened on; give another, or 0") from None


def _open(address: str, folder: Path) -> None:
    """Opens the page in the browser, which may take its time.

    A browser's command line can be read by all users of the machine, and the address holds the token. So a file is
    opened that its owner alone can read.
    """
    start = folder / "open.html"
    start.write_text(f'<meta http-equiv="refresh" content="0;url={address}">', encoding="utf-8")
    threading.Thread(target=webbrowser.open, args=(start.as_uri(),), daemon=True).start()


def serve(args: argparse.Namespace) -> None:
    """Loads the model, gathers pictures, and serves the page until Ctrl-C.

    Raises:
        UserError: something that the flags name cannot be used, or nothing is at hand to ask about.
    """
    from volta_switch.predict.run import loaded_predictor

    predictor = loaded_predictor(args, args.model)
    chosen = {"--detector": args.detector, "--select": args.select, "--regions": args.regions, "--task": args.task}
    chosen |= {"--device": args.device, "--cache": args.cache}
    flags = [part for flag, value in chosen.items() if value for part in (flag, str(value))]
    album = Album(predictor, [*typed_program(), "explain", args.model, *flags])
    if args.tasks_config_file:
        album.add_task(args.tasks_config_file, args.split, args.data_root)
    if args.features:
        album.add_features(args.features)
    if args.images:
        album.add_folder(Path(args.images))
    if not album.offers and not predictor.sources.has_detector:
        raise UserError(
            "nothing to ask about: give --tasks_config_file (a world's tasks.yml), --features FILE, or --detector for "
            "pictures"
        )
    token = secrets.token_urlsafe(16)
    with tempfile.TemporaryDirectory(prefix="volta-switch-play-") as folder:
        server = make_server(Application(Session(album), Path(folder), args.model, token), args.port)
        address = f"http://{HOST}:{server.server_port}/{token}/"
        print(address, flush=True)
        print("Ctrl-C ends it; the address works on this machine alone", file=sys.stderr)
        for number in (signal.SIGTERM, signal.SIGHUP):  # so that the folder goes
            if signal.getsignal(number) != signal.SIG_IGN:  # which nohup asks for
                signal.signal(number, signal.default_int_handler)
        if args.open:
            _open(address, Path(folder))
        with suppress(KeyboardInterrupt):
            server.serve_forever()
        server.server_close()
        print("ended", file=sys.stderr)
