"""A log of the leads whose tier changed, by which marketing and sales see how they keep what they agreed on."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

WORD = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "tier_changes",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("lead_id", WORD, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("probability", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "lead_id"], ["leads.tenant", "leads.lead_id"], name="tier_changes_of_lead", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant", "lead_id", "at"),
        sqlite_with_rowid=False,
    )
    op.create_index("tier_changes_by_tier", "tier_changes", ["tenant", "tier", "at", "lead_id"])
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER TABLE tier_changes ENABLE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE tier_changes FORCE ROW LEVEL SECURITY")
        op.execute(
            "CREATE POLICY of_tenant ON tier_changes USING (tenant = current_setting('touchstone.tenant', true)) "
            "WITH CHECK (tenant = current_setting('touchstone.tenant', true))"
        )
