"""Headers that others of their series are like: those keep what they have of their own. What is kept stays as it is."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "patterns",
        sa.Column("study", TEXT, primary_key=True),
        sa.Column("series", TEXT, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("header", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(["study", "series"], ["series.study", "series.series"], ondelete="CASCADE"),
    )
    op.add_column("instances", sa.Column("pattern", sa.BigInteger))


def downgrade() -> None:
    op.execute("UPDATE instances SET header = NULL WHERE pattern IS NOT NULL")  # they are read from their files
    op.drop_column("instances", "pattern")
    op.drop_table("patterns")
