"""What the service keeps: leads and what is known of them, and its own records, tenant by tenant.

`Store` is all that the rest of the service may lean on; `sql` implements it for SQLite and PostgreSQL.
"""

from serving.store.protocol import Store, StoreError, Written
from serving.store.records import (
    Bundle,
    Delivery,
    Entry,
    Idempotent,
    Key,
    ListedScore,
    Quarantined,
    Receipt,
    Record,
    Served,
    Setting,
    TierChange,
    Webhook,
)
from serving.store.rows import Alias, Fact, Lead, Message, Outcome, Row, StoredLead, Touch, dataset_of_stored
from serving.store.sql import SqlStore, open_store, upgrade_database

__all__ = [
    "Alias",
    "Bundle",
    "Delivery",
    "Entry",
    "Fact",
    "Idempotent",
    "Key",
    "Lead",
    "ListedScore",
    "Message",
    "Outcome",
    "Quarantined",
    "Receipt",
    "Record",
    "Row",
    "Served",
    "Setting",
    "SqlStore",
    "Store",
    "StoreError",
    "StoredLead",
    "TierChange",
    "Touch",
    "Webhook",
    "Written",
    "dataset_of_stored",
    "open_store",
    "upgrade_database",
]
