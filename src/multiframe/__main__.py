"""``python -m multiframe`` is the ``multiframe`` command."""

from multiframe.cli import main

main()
