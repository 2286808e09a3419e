"""How much the studies of each day have, kept by triggers: pages far behind the first are found by it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TRIGGERS = {
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


def upgrade() -> None:
    op.create_table(
        "days",
        sa.Column("study_date", TEXT, primary_key=True),
        sa.Column("n_studies", sa.Integer, nullable=False),
        sa.Column("n_series", sa.Integer, nullable=False),
        sa.Column("n_instances", sa.Integer, nullable=False),
    )
    op.execute(
        "INSERT INTO days SELECT coalesce(study_date, ''), count(*), sum(n_series), sum(n_instances) "
        "FROM studies GROUP BY coalesce(study_date, '')"
    )
    for statement in TRIGGERS[op.get_bind().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for name in ("studies_added", "studies_counted", "studies_removed"):
            op.execute(f"DROP TRIGGER {name}")
    else:
        op.execute("DROP TRIGGER studies_of_days ON studies")
        op.execute("DROP FUNCTION studies_of_days()")
    op.drop_table("days")
