"""A page to play with a model: a picture, a text, the answer, the boxes and the routes, which a click forces otherwise.

| module | subject |
|---|---|
| ``commands`` | the command ``volta-switch play`` |
| ``album`` | the pictures at hand: of a task's data, of a folder, of a feature file, dropped on the page |
| ``session`` | a model that is asked; answers as JSON values |
| ``server`` | the page and its requests, on this machine alone |
"""
