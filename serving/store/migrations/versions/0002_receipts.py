"""Receipts that replay, the models that have served, and since when."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

WORD = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
GUARDED = ("bundles", "receipts", "served")


def upgrade() -> None:
    # Nothing wrote to it so far.
    op.drop_table("receipts")
    op.create_table(
        "receipts",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("id", WORD, nullable=False),
        sa.Column("lead_id", sa.Text(), nullable=False),
        sa.Column("stored", WORD, nullable=True),
        sa.Column("scored_at", sa.BigInteger(), nullable=False),
        sa.Column("as_of", sa.BigInteger(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("tiers", sa.Text(), nullable=False),
        sa.Column("reasons", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant", "stored"], ["leads.tenant", "leads.lead_id"], name="receipts_of_stored", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant", "id"),
        sqlite_with_rowid=False,
    )
    op.create_index("receipts_of_lead", "receipts", ["tenant", "lead_id"])
    op.create_index("receipts_by_stored", "receipts", ["tenant", "stored"])
    op.create_index("receipts_by_time", "receipts", ["tenant", "scored_at"])
    op.create_table(
        "bundles",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("digest", WORD, nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False),
        sa.Column("kept_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "digest"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "served",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("bundle", WORD, nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("tiers", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "at", "bundle"),
        sqlite_with_rowid=False,
    )
    if op.get_context().dialect.name == "postgresql":
        for table in GUARDED:
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
            op.execute(
                f"CREATE POLICY of_tenant ON {table} USING (tenant = current_setting('touchstone.tenant', true)) "
                "WITH CHECK (tenant = current_setting('touchstone.tenant', true))"
            )
