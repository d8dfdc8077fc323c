"""``python -m edge_hands`` is the command ``edge-hands``."""

from edge_hands.cli.main import main

if __name__ == "__main__":
    main()
