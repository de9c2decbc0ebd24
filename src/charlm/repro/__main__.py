"""`python -m charlm.repro` is `charlm repro`."""

from charlm.repro.command import main

if __name__ == "__main__":
    main()
