"""Commands for data files, above data and tasks, which never import them: ``volta-switch data``.

| module | subject |
|---|---|
| ``commands`` | the commands and their flags |
| ``check``, ``check_annotations``, ``check_tasks`` | what files hold and what is wrong with them |
| ``convert`` | one format into another, and what is lost |
| ``repack``, ``packing`` | compact stores and shards, written anew and resumable |
"""
