"""``python -m bitclass3_core``: the same as the command ``bitclass3``."""

from bitclass3_core.cli.app import main

if __name__ == "__main__":
    main()
