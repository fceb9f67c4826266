"""Commands for data files, above data and tasks, which never import them: ``volta-switch data``.

| module | subject |
|---|---|
| ``commands`` | the commands and their flags |
| ``check``, ``check_annotations``, ``check_tasks`` | what files hold and what is wrong with them |
| ``convert`` | one format into another, and what is lost |
| ``extract``, ``extract_commands`` | features of pictures, by the detector; resumable |
| ``picture_sources``, ``detected`` | pictures in folders, lists and tars; what the detector says of them, in order |
| ``self_test`` | the detector beside features that are known to be right |
| ``repack``, ``packing`` | compact stores and shards, written anew and resumable |
"""
