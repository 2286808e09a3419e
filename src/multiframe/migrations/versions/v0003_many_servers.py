"""What many servers need: identities that all machines agree on, and scans that do not mark what they met.

A local file's identity began with the number of its device, which differs from machine to machine.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.drop_column("objects", "seen")
    identity = sa.column("identity", sa.Text)
    comma = (sa.func.instr if op.get_bind().dialect.name == "sqlite" else sa.func.strpos)(identity, ",")
    op.execute(
        sa.update(sa.table("objects", identity))
        .where(identity.like("[%,%,%,%,%]"))
        .values(identity="[" + sa.func.substr(identity, comma + 1))
    )


def downgrade() -> None:
    op.add_column("objects", sa.Column("seen", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE objects SET identity = '[0,' || substr(identity, 2) WHERE identity LIKE '[%,%,%,%]'")
