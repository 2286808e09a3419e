"""What pages of searches need besides: the modalities of each study at hand, and the few instances of a rare value."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

NAMES = ["study_date", "study_time", "study", "patient_name", "patient_name_words"]
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
VALUES = {"number": "instance_number", "rows": "rows", "columns": "columns", "frames": "number_of_frames"}


def upgrade() -> None:
    op.add_column("studies", sa.Column("modalities", TEXT, nullable=False, server_default=""))
    s = sa.table("series", sa.column("study", TEXT), sa.column("modality", TEXT))
    t = sa.table("studies", sa.column("study", TEXT), sa.column("modalities", TEXT))
    each = sa.select(s.c.modality).where(s.c.study == t.c.study, s.c.modality != "").correlate(t).distinct().subquery()
    listed = sa.select(sa.func.coalesce(sa.func.aggregate_strings(each.c.modality, "\\"), "")).scalar_subquery()
    op.execute(sa.update(t).values(modalities=listed))
    op.drop_index("studies_by_name", "studies")
    op.create_index("studies_by_name", "studies", [*NAMES, "patient_id"])
    for name, column in VALUES.items():
        op.create_index(f"instances_by_{name}", "instances", [column])


def downgrade() -> None:
    for name in VALUES:
        op.drop_index(f"instances_by_{name}", "instances")
    op.drop_index("studies_by_name", "studies")
    op.create_index("studies_by_name", "studies", NAMES)
    op.drop_column("studies", "modalities")
