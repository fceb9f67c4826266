"""Other programs' checkpoints as models of this project, these as other programs', and the command line of weights.

| module | subject |
|---|---|
| ``importing`` | a file read, placed, checked name by name, and written as a folder |
| ``exporting``, ``own_models`` | a model's folder read, brought into a layout, imported again, compared, and written |
| ``layouts`` | whose files are known |
| ``single_stream``, ``two_streams`` | where UNITER's, VisualBERT's, LXMERT's and ViLBERT's weights go |
| ``places`` | what these have in common: names of theirs -> names of ours |
| ``registered`` | published weights by name: list, fetch, verify |
| ``commands`` | ``volta-switch weights`` |
"""
