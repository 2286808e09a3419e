"""What searches over a million instances need: narrow indexes to look through, and how much each study has."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

ORDER = ["study_date", "study_time", "study"]
NAMES = ["patient_name", "patient_name_words"]
TEXTS = ["study_description", "referring_physician_name", "referring_physician_name_words"]


def upgrade() -> None:
    op.add_column("studies", sa.Column("n_series", sa.Integer, nullable=False, server_default="0"))
    op.add_column("studies", sa.Column("n_instances", sa.Integer, nullable=False, server_default="0"))
    op.execute(
        "UPDATE studies SET "
        "n_series = (SELECT count(*) FROM series WHERE series.study = studies.study), "
        "n_instances = (SELECT coalesce(sum(instances), 0) FROM series WHERE series.study = studies.study)"
    )
    op.drop_index("studies_by_date", "studies")
    op.create_index("studies_by_date", "studies", [*ORDER, "n_series", "n_instances"])
    op.create_index("studies_by_name", "studies", [*ORDER, *NAMES])
    op.create_index("studies_by_text", "studies", [*ORDER, *TEXTS])


def downgrade() -> None:
    for name in ("studies_by_text", "studies_by_name", "studies_by_date"):
        op.drop_index(name, "studies")
    op.create_index("studies_by_date", "studies", ORDER)
    op.drop_column("studies", "n_instances")
    op.drop_column("studies", "n_series")
