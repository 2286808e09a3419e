"""Bring an older database up to date; imports Alembic, which takes a second and 50 MB."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def configured(connection: Connection) -> Config:
    """Point Alembic at the steps beside this module, and at an open connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Run all steps up to `revision`."""
    command.upgrade(configured(connection), revision)


def downgrade(connection: Connection, revision: str) -> None:
    """Undo all steps down to `revision`."""
    command.downgrade(configured(connection), revision)
