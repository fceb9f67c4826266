"""Published weights by name: ``volta-switch weights list``, ``fetch`` and ``verify``.

| module | subject |
|---|---|
| ``registry.yml`` | where published weights are and what is published about them, each with its page |
| ``entries`` | such a file, read and checked |
| ``fetching``, ``archives`` | a file from the web, whole and verified; one file out of an archive |
| ``models`` | what was fetched as a model's folder |
| ``verifying`` | measured scores beside published ones |
"""
