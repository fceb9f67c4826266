"""What a model's folder says of the model, written without anybody's help.

| file | for | made of |
|---|---|---|
| ``training.json`` | programs (``record``) | what a run wrote down, its tests, the studies that it is part of |
| ``README.md`` | people and the hub (``card``) | ``training.json``, ``config.json``, ``preprocessor.json`` |

A model's folder is published, so that neither file has a place on this machine, a user's name or a host's.
``papers.json`` has what is to be cited, each entry with the pages that it was read from.
"""
