"""The `foundry` command. The version is answered before anything else is imported: it is what scripts ask most."""

import sys


def main() -> None:
    """Entry point of the console script."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from localfoundry import __version__

        print(__version__)
        return
    from localfoundry.cli.main import run

    sys.exit(run())


if __name__ == "__main__":
    main()
