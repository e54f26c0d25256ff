"""``python -m tritonfleet`` is ``tritonfleet``."""

from tritonfleet.cli import main

if __name__ == "__main__":
    main()
