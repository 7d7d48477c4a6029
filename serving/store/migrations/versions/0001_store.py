"""The tables of the store; on PostgreSQL each tenant sees its own rows alone."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

WORD = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
GUARDED = (
    "aliases", "audit_log", "deliveries", "facts", "idempotency", "keys", "leads", "leases", "listed_scores",
    "messages", "outcomes", "quarantine", "receipts", "settings", "touchpoints", "webhooks",
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("id", WORD, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "at", "id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "deliveries",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("id", WORD, nullable=False),
        sa.Column("webhook_id", sa.Text(), nullable=False),
        sa.Column("lead_id", sa.Text(), nullable=True),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "id"),
        sqlite_with_rowid=False,
    )
    op.create_index("deliveries_due", "deliveries", ["tenant", "state", "due_at"])
    op.create_index("deliveries_of_lead", "deliveries", ["tenant", "lead_id"])
    op.create_table(
        "idempotency",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("key", WORD, nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "keys",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("id", WORD, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("rotated_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "leads",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("lead_id", WORD, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=True),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("attributes", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "lead_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "leases",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("name", WORD, nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "listed_scores",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("lead_id", WORD, nullable=False),
        sa.Column("probability", sa.Float(precision=53), nullable=False),
        sa.Column("score", sa.Integer(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("amount", sa.Float(precision=53), nullable=True),
        sa.Column("expected_value", sa.Float(precision=53), nullable=False),
        sa.Column("as_of", sa.BigInteger(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "lead_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("listed_by_probability", "listed_scores", ["tenant", "probability", "lead_id"])
    op.create_index("listed_by_tier_and_probability", "listed_scores", ["tenant", "tier", "probability", "lead_id"])
    op.create_index("listed_by_tier_and_value", "listed_scores", ["tenant", "tier", "expected_value", "lead_id"])
    op.create_index("listed_by_value", "listed_scores", ["tenant", "expected_value", "lead_id"])
    op.create_table(
        "messages",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "digest"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "quarantine",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("id", WORD, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("lead_id", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "id"),
        sqlite_with_rowid=False,
    )
    op.create_index("quarantine_by_time", "quarantine", ["tenant", "received_at"])
    op.create_index("quarantine_of_lead", "quarantine", ["tenant", "lead_id"])
    op.create_table(
        "receipts",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("id", WORD, nullable=False),
        sa.Column("lead_id", sa.Text(), nullable=False),
        sa.Column("scored_at", sa.BigInteger(), nullable=False),
        sa.Column("as_of", sa.BigInteger(), nullable=False),
        sa.Column("probability", sa.Float(precision=53), nullable=False),
        sa.Column("score", sa.Integer(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "id"),
        sqlite_with_rowid=False,
    )
    op.create_index("receipts_of_lead", "receipts", ["tenant", "lead_id", "scored_at"])
    op.create_table(
        "settings",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("name", WORD, nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tenants", sa.Column("tenant", WORD, nullable=False), sa.PrimaryKeyConstraint("tenant"), sqlite_with_rowid=False
    )
    op.create_table(
        "webhooks",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("id", WORD, nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "aliases",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("lead_id", WORD, nullable=False),
        sa.Column("same_as", WORD, nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant", "same_as"], ["leads.tenant", "leads.lead_id"], name="aliases_of_lead"),
        sa.PrimaryKeyConstraint("tenant", "lead_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("aliases_by_target", "aliases", ["tenant", "same_as", "occurred_at"])
    op.create_table(
        "facts",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("lead_id", WORD, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "lead_id"], ["leads.tenant", "leads.lead_id"], name="facts_of_lead", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant", "lead_id", "digest"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "outcomes",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("lead_id", WORD, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("won", sa.Boolean(), nullable=False),
        sa.Column("amount", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant", "lead_id"], ["leads.tenant", "leads.lead_id"], name="outcomes_of_lead", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant", "lead_id", "digest"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "touchpoints",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("lead_id", WORD, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("value", sa.Float(precision=53), nullable=True),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant", "lead_id"], ["leads.tenant", "leads.lead_id"], name="touchpoints_of_lead", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant", "lead_id", "digest"),
        sqlite_with_rowid=False,
    )
    if op.get_context().dialect.name == "postgresql":
        for table in GUARDED:
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            # The owner of the tables, as which the service may run, is bound too.
            op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
            op.execute(
                f"CREATE POLICY of_tenant ON {table} USING (tenant = current_setting('touchstone.tenant', true)) "
                "WITH CHECK (tenant = current_setting('touchstone.tenant', true))"
            )
