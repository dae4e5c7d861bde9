"""`python -m bench` is the same thing as `gatebench`."""

from bench.cli import main

if __name__ == "__main__":
    main()
