"""`python -m gpt4image`."""

import sys

from gpt4image.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
