"""``python -m xmbench``."""

from xmbench.cli import main

if __name__ == "__main__":
    main()
