"""Attributes, and where values lie, are kept beside a pattern, too; PostgreSQL asks no row what it points to.

What is kept stays as it is.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

POINT_TO = {
    "instances_path_fkey": (["path"], "objects", "CASCADE"),
    "instances_study_series_fkey": (["study", "series"], "series", None),
}


def upgrade() -> None:
    op.add_column("patterns", sa.Column("attributes", TEXT, nullable=False, server_default="{}"))
    op.add_column("patterns", sa.Column("facts", TEXT, nullable=False, server_default=""))
    if op.get_context().dialect.name == "postgresql":
        for name in POINT_TO:
            op.drop_constraint(name, "instances", type_="foreignkey")


def downgrade() -> None:
    connection = op.get_bind()
    some = sa.text(
        """
        SELECT i.instance, i.attributes, i.facts, p.attributes AS like_attributes, p.facts AS like_facts
        FROM instances AS i JOIN patterns AS p ON p.study = i.study AND p.series = i.series AND p.number = i.pattern
        WHERE p.facts <> '' AND i.instance > :last ORDER BY i.instance LIMIT 1000
        """
    )
    whole = sa.text("UPDATE instances SET attributes = :attributes, facts = :facts WHERE instance = :instance")
    last = ""
    while rows := connection.execute(some, {"last": last}).all():
        last = rows[-1].instance
        told = [
            {
                "instance": row.instance,
                "attributes": together(row.attributes, row.like_attributes),
                "facts": row.facts or row.like_facts,
            }
            for row in rows
        ]
        connection.execute(whole, told)
    if op.get_context().dialect.name == "postgresql":
        for name, (columns, table, ondelete) in POINT_TO.items():
            op.create_foreign_key(name, "instances", table, columns, columns, ondelete=ondelete)
    op.drop_column("patterns", "attributes")
    op.drop_column("patterns", "facts")


def together(own: str, like: str) -> str:
    told = sorted({**json.loads(like), **json.loads(own)}.items())
    kept = {tag: json.dumps(value, ensure_ascii=False, separators=(",", ":")) for tag, value in told if value}
    return "{" + ",\n".join(f'"{tag}":{value}' for tag, value in kept.items()) + "}"
