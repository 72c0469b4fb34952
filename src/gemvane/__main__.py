"""python -m gemvane"""

from gemvane.cli import main

if __name__ == "__main__":
    main()
