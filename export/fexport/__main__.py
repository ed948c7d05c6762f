"""`python -m fexport` is the `fexport` command."""

from fexport.cli import main

if __name__ == "__main__":
    main()
