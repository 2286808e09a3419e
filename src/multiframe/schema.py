"""The tables of the catalog: what of a study, a series and an instance lies in which column.

What is kept of a header is said in `levels`. It must not know how files are found or read, nor how a search is
answered.
"""

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from multiframe.levels import KEPT, WORDS, Level

__all__ = ["TABLES", "TEXT", "instances", "objects", "patterns", "requests", "scans", "schema", "series", "studies"]

TEXT: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Text that compares byte by byte, whatever the database thinks of languages: orders are total, and ranges of it and
patterns that begin with letters are answered by an index."""


def _columns(level: Level) -> list[sa.Column[Any]]:
    columns = [sa.Column(k.column, sa.BigInteger if k.kind == "number" else TEXT) for k in KEPT[level].values()]
    return columns + [sa.Column(WORDS[k.column], TEXT) for k in KEPT[level].values() if k.column in WORDS]


schema = sa.MetaData()
objects = sa.Table(
    "objects",
    schema,
    sa.Column("path", sa.LargeBinary(4096), primary_key=True),  # as the operating system has it: any bytes
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("identity", TEXT, nullable=False),  # JSON of `source.Identity`
    sa.Column("problem", TEXT),  # why it is no instance
    sa.Column("duplicate_of", TEXT),  # the instance another file had first
    sa.Index("duplicates", "duplicate_of"),
)
studies = sa.Table(
    "studies",
    schema,
    sa.Column("study", TEXT, primary_key=True),
    sa.Column("attributes", TEXT, nullable=False),
    *_columns("study"),
    sa.Column("n_series", sa.Integer, nullable=False, server_default="0"),  # how many it has
    sa.Column("n_instances", sa.Integer, nullable=False, server_default="0"),
    sa.Column("modalities", TEXT, nullable=False, server_default=""),  # of its series, each once, backslashes between
    # These hold all that is asked of them, in the order of the answer: they are looked through, not the wide rows.
    sa.Index("studies_by_date", "study_date", "study_time", "study", "n_series", "n_instances"),
    sa.Index(
        "studies_by_name", "study_date", "study_time", "study", "patient_name", "patient_name_words", "patient_id"
    ),
    sa.Index(
        "studies_by_text",
        "study_date",
        "study_time",
        "study",
        "study_description",
        "referring_physician_name",
        "referring_physician_name_words",
    ),
    sa.Index("studies_by_patient", "patient_id"),
    sa.Index("studies_by_accession", "accession_number"),
)
days = sa.Table(  # how much the studies of each day have: whoever leaves out half a million need not count them
    "days",
    schema,
    sa.Column("study_date", TEXT, primary_key=True),
    sa.Column("n_studies", sa.Integer, nullable=False),
    sa.Column("n_series", sa.Integer, nullable=False),
    sa.Column("n_instances", sa.Integer, nullable=False),
)
series = sa.Table(
    "series",
    schema,
    sa.Column("study", TEXT, sa.ForeignKey("studies.study"), primary_key=True),
    sa.Column("series", TEXT, primary_key=True),
    sa.Column("attributes", TEXT, nullable=False),
    *_columns("series"),
    sa.Column("instances", sa.Integer, nullable=False, server_default="0"),  # how many it has
    sa.Index("series_by_uid", "series"),
    sa.Index("series_by_modality", "modality", "study"),
)
requests = sa.Table(
    "requests",
    schema,
    sa.Column("study", TEXT, primary_key=True),
    sa.Column("series", TEXT, primary_key=True),
    sa.Column("item", sa.Integer, primary_key=True),  # of the Request Attributes Sequence, from 0
    sa.Column("step_id", TEXT, nullable=False),
    sa.Column("procedure_id", TEXT, nullable=False),
    sa.ForeignKeyConstraint(["study", "series"], ["series.study", "series.series"], ondelete="CASCADE"),
    sa.Index("requests_by_step", "step_id"),
    sa.Index("requests_by_procedure", "procedure_id"),
)
patterns = sa.Table(  # headers that others of their series are like: those keep what they have of their own
    "patterns",
    schema,
    sa.Column("study", TEXT, primary_key=True),
    sa.Column("series", TEXT, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),  # of its digest
    sa.Column("header", sa.LargeBinary, nullable=False),
    sa.ForeignKeyConstraint(["study", "series"], ["series.study", "series.series"], ondelete="CASCADE"),
    sa.Column("attributes", TEXT, nullable=False, server_default="{}"),
    sa.Column("facts", TEXT, nullable=False, server_default=""),
)
instances = sa.Table(
    "instances",
    schema,
    sa.Column("instance", TEXT, primary_key=True),
    sa.Column("study", TEXT, nullable=False),
    sa.Column("series", TEXT, nullable=False),
    sa.Column("path", sa.LargeBinary(4096), nullable=False, unique=True),
    sa.Column("syntax", TEXT, nullable=False),
    sa.Column("attributes", TEXT, nullable=False),  # beside a pattern, those of its own, as `levels.beside` has them
    sa.Column("facts", TEXT, nullable=False),  # nothing: as in its pattern
    sa.Column("header_size", sa.BigInteger, nullable=False),
    # zlib, or beside a pattern as `packing.whole` takes it; NULL: so long that it is read from the file again.
    sa.Column("header", sa.LargeBinary),
    sa.Column("frame_index", sa.LargeBinary),
    *_columns("instance"),
    sa.Column("pattern", sa.BigInteger),  # its number
    # Whoever writes sees to both (`registering`): PostgreSQL would ask for each row, in a third of its time.
    sa.ForeignKeyConstraint(["path"], ["objects.path"], ondelete="CASCADE").ddl_if(dialect="sqlite"),
    sa.ForeignKeyConstraint(["study", "series"], ["series.study", "series.series"]).ddl_if(dialect="sqlite"),
    sa.Index("instances_by_series", "study", "series", "instance_number", "instance"),
    sa.Index("instances_by_class", "study", "sop_class_uid"),
    # By these the few are found that have a rare value: they hold nothing else, for they grow with every instance.
    sa.Index("instances_by_number", "instance_number"),
    sa.Index("instances_by_rows", "rows"),
    sa.Index("instances_by_columns", "columns"),
    sa.Index("instances_by_frames", "number_of_frames"),
)
scans = sa.Table(
    "scans",
    schema,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("running", sa.Boolean, nullable=False),
    sa.Column("updated", sa.Double, nullable=False),
    sa.Column("counts", TEXT, nullable=False),
)
TABLES: Final[Mapping[Level, sa.Table]] = {"study": studies, "series": series, "instance": instances}

# The database keeps `days` itself: no writer, and nobody who repairs something by hand, can forget it.
_TRIGGERS = {
    "sqlite": (
        """
        CREATE TRIGGER studies_added AFTER INSERT ON studies BEGIN
            INSERT INTO days VALUES (coalesce(NEW.study_date, ''), 1, NEW.n_series, NEW.n_instances)
            ON CONFLICT (study_date) DO UPDATE SET n_studies = n_studies + excluded.n_studies,
                n_series = n_series + excluded.n_series, n_instances = n_instances + excluded.n_instances;
        END
        """,
        """
        CREATE TRIGGER studies_counted AFTER UPDATE OF n_series, n_instances ON studies BEGIN
            UPDATE days SET n_series = n_series + NEW.n_series - OLD.n_series,
                n_instances = n_instances + NEW.n_instances - OLD.n_instances
            WHERE study_date = coalesce(OLD.study_date, '');
        END
        """,
        """
        CREATE TRIGGER studies_removed AFTER DELETE ON studies BEGIN
            UPDATE days SET n_studies = n_studies - 1, n_series = n_series - OLD.n_series,
                n_instances = n_instances - OLD.n_instances
            WHERE study_date = coalesce(OLD.study_date, '');
        END
        """,
    ),
    "postgresql": (
        """
        CREATE OR REPLACE FUNCTION studies_of_days() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF TG_OP = 'INSERT' THEN
                INSERT INTO days AS d VALUES (coalesce(NEW.study_date, ''), 1, NEW.n_series, NEW.n_instances)
                ON CONFLICT (study_date) DO UPDATE SET n_studies = d.n_studies + 1,
                    n_series = d.n_series + excluded.n_series, n_instances = d.n_instances + excluded.n_instances;
            ELSIF TG_OP = 'UPDATE' THEN
                UPDATE days SET n_series = n_series + NEW.n_series - OLD.n_series,
                    n_instances = n_instances + NEW.n_instances - OLD.n_instances
                WHERE study_date = coalesce(OLD.study_date, '');
            ELSE
                UPDATE days SET n_studies = n_studies - 1, n_series = n_series - OLD.n_series,
                    n_instances = n_instances - OLD.n_instances
                WHERE study_date = coalesce(OLD.study_date, '');
            END IF;
            RETURN NULL;
        END $$
        """,
        """
        CREATE TRIGGER studies_of_days AFTER INSERT OR DELETE OR UPDATE OF n_series, n_instances ON studies
        FOR EACH ROW EXECUTE FUNCTION studies_of_days()
        """,
    ),
}
for _dialect, _statements in _TRIGGERS.items():
    for _statement in _statements:
        sa.event.listen(schema, "after_create", sa.DDL(_statement).execute_if(dialect=_dialect))  # type: ignore[no-untyped-call]
