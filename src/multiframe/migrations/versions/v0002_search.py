"""What QIDO-RS needs: words of names, requests, how many instances a series has.

Attributes are kept of sequences too from now on. They can only be had from the files: none is taken for what it was, so
the next scan reads each one anew. Until then searches find what they found before.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    for name in ("referring_physician_name_words", "patient_name_words"):
        op.add_column("studies", sa.Column(name, TEXT))
    for name in ("performed_date", "performed_time"):
        op.add_column("series", sa.Column(name, TEXT))
    op.add_column("series", sa.Column("instances", sa.Integer, nullable=False, server_default="0"))
    op.create_table(
        "requests",
        sa.Column("study", TEXT, primary_key=True),
        sa.Column("series", TEXT, primary_key=True),
        sa.Column("item", sa.Integer, primary_key=True),
        sa.Column("step_id", TEXT, nullable=False),
        sa.Column("procedure_id", TEXT, nullable=False),
        sa.ForeignKeyConstraint(["study", "series"], ["series.study", "series.series"], ondelete="CASCADE"),
    )
    op.create_index("requests_by_step", "requests", ["step_id"])
    op.create_index("requests_by_procedure", "requests", ["procedure_id"])
    op.create_index("instances_by_class", "instances", ["study", "sop_class_uid"])
    op.execute(
        "UPDATE series SET instances = (SELECT count(*) FROM instances "
        "WHERE instances.study = series.study AND instances.series = series.series)"
    )
    op.execute("UPDATE objects SET identity = '[]' WHERE path IN (SELECT path FROM instances)")


def downgrade() -> None:
    op.drop_index("instances_by_class", "instances")
    op.drop_table("requests")
    for name in ("instances", "performed_date", "performed_time"):
        op.drop_column("series", name)
    for name in ("referring_physician_name_words", "patient_name_words"):
        op.drop_column("studies", name)
