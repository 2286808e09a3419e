"""How the catalog's database came to be what it is: one module a step, in order.

`REVISIONS` is all the catalog needs to know to open a database that is up to date: Alembic, slow to import, is asked
only for what is older. A new step is one module in ``versions/`` and one more name here.
"""

REVISIONS: tuple[str, ...] = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
"""All revisions, oldest first; the last one is what ``catalog.py`` declares."""
