"""``python -m volta_switch``, the same as ``volta-switch``; Python looks for a file of this name."""

from volta_switch.cli import main

if __name__ == "__main__":
    main()
