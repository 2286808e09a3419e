"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "objects",
        sa.Column("path", sa.LargeBinary(4096), primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("identity", TEXT, nullable=False),
        sa.Column("problem", TEXT),
        sa.Column("duplicate_of", TEXT),
        sa.Column("seen", sa.Integer, nullable=False),
    )
    op.create_table(
        "studies",
        sa.Column("study", TEXT, primary_key=True),
        sa.Column("attributes", TEXT, nullable=False),
        *(sa.Column(name, TEXT) for name in ("study_date", "study_time", "accession_number")),
        *(sa.Column(name, TEXT) for name in ("referring_physician_name", "patient_name", "patient_id")),
        *(sa.Column(name, TEXT) for name in ("patient_birth_date", "study_id", "study_description")),
    )
    op.create_table(
        "series",
        sa.Column("study", TEXT, sa.ForeignKey("studies.study"), primary_key=True),
        sa.Column("series", TEXT, primary_key=True),
        sa.Column("attributes", TEXT, nullable=False),
        sa.Column("modality", TEXT),
        sa.Column("series_number", sa.BigInteger),
        sa.Column("series_description", TEXT),
    )
    op.create_table(
        "instances",
        sa.Column("instance", TEXT, primary_key=True),
        sa.Column("study", TEXT, nullable=False),
        sa.Column("series", TEXT, nullable=False),
        sa.Column(
            "path",
            sa.LargeBinary(4096),
            sa.ForeignKey("objects.path", ondelete="CASCADE"),
            nullable=False,
            unique=True,
        ),
        sa.Column("syntax", TEXT, nullable=False),
        sa.Column("attributes", TEXT, nullable=False),
        sa.Column("facts", TEXT, nullable=False),
        sa.Column("header_size", sa.BigInteger, nullable=False),
        sa.Column("header", sa.LargeBinary),
        sa.Column("frame_index", sa.LargeBinary),
        sa.Column("sop_class_uid", TEXT),
        *(sa.Column(name, sa.BigInteger) for name in ("instance_number", "rows", "columns", "number_of_frames")),
        sa.ForeignKeyConstraint(["study", "series"], ["series.study", "series.series"]),
    )
    op.create_table(
        "scans",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("running", sa.Boolean, nullable=False),
        sa.Column("updated", sa.Double, nullable=False),
        sa.Column("counts", TEXT, nullable=False),
    )
    op.create_index("duplicates", "objects", ["duplicate_of"])
    op.create_index("studies_by_date", "studies", ["study_date", "study_time", "study"])
    op.create_index("studies_by_patient", "studies", ["patient_id"])
    op.create_index("studies_by_accession", "studies", ["accession_number"])
    op.create_index("series_by_uid", "series", ["series"])
    op.create_index("series_by_modality", "series", ["modality", "study"])
    op.create_index("instances_by_series", "instances", ["study", "series", "instance_number", "instance"])


def downgrade() -> None:
    for table in ("scans", "instances", "series", "studies", "objects"):
        op.drop_table(table)
