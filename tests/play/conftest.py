"""Pages of small models, asked through the server's own application."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from werkzeug.test import Client

from volta_switch.play.album import Album
from volta_switch.play.server import Application
from volta_switch.play.session import Session
from volta_switch.predict.predictor import Predictor

TOKEN = "t0ken"
HOST = "127.0.0.1:5000"


class Page:
    """One that is asked as the browser asks."""

    def __init__(self, session, folder):
        self.session, self.client = session, Client(Application(session, folder, "a <model>", TOKEN))

    def send(self, method, path, data=b"", token=TOKEN, host=HOST):
        return self.client.open(f"/{token}/{path}", method=method, data=data, headers={"Host": host})

    def ask(self, pictures, texts, forced=()):
        asked = json.dumps({"pictures": list(pictures), "texts": list(texts), "forced": list(forced)})
        response = self.send("POST", "ask", asked.encode())
        return SimpleNamespace(status=response.status_code, **{"error": None, **response.json})


@pytest.fixture(scope="session")
def page_of(world, asked, tmp_path_factory):
    """page_of(key, model): a page of a task's model with its examples; made once."""
    made = {}

    def of(key, model="switchbert", detector=None):
        name = (key, model, id(detector))
        if name not in made:
            folder = asked(key, model).folder
            predictor = Predictor.load(folder, detector=detector, cache=tmp_path_factory.mktemp("cache"))
            album = Album(predictor)
            album.add_task(str(world.tasks_file), "", "")
            made[name] = Page(Session(album), tmp_path_factory.mktemp("dropped"))
            made[name].predictor, made[name].predictor_folder = predictor, folder
        return made[name]

    return of
