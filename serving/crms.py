"""The shapes in which CRMs take scores: files for the tool that each of them has to load them.

Each is written after the CRM's own documentation and held to it by tests; none was tried against the live product.
"""

from __future__ import annotations

import csv
import io
import json
import re
import xmlrpc.client
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import msgspec

Fields: TypeAlias = Mapping[str, str]
"""What is written, by our names, and what the CRM calls each."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How a cell begins that a spreadsheet would run, or take for another row."""
_WORDS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]+")
"""What stands in no text of a CRM: XML has no way to write it."""


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a lead's score.

    >>> Scored(lead_id="L-1", probability=0.25, score=80, tier="warm", route="nurture", reasons=(),
    ...        as_of=datetime(2026, 11, 1), model_version="3").tier
    'warm'
    """

    lead_id: str
    probability: float
    score: int
    tier: str
    route: str
    reasons: tuple[str, ...]
    as_of: datetime
    model_version: str


FIELDS = tuple(name for name in Scored.__struct_fields__ if name != "lead_id")


@dataclass(frozen=True)
class Crm:
    """How one CRM takes scores.

    >>> CRMS["salesforce"].accepts("00Q5g00000AbCdE", "Id"), CRMS["salesforce"].accepts("L-42", "Id")
    (True, False)
    """

    name: str
    fields: Fields
    """What is written unless something else is asked for."""
    ids: Mapping[str, str]
    """Ids that have a shape of their own, as regular expressions; the first is the default."""
    own: bool
    """Whether a lead may be found by a field of one's own too."""
    rows: int
    """The most leads of a file."""
    ending: str
    write: Callable[[Sequence[Scored], str, Fields], str]
    """Writes the text of a file from leads, the name of their id and the fields."""

    def accepts(self, lead_id: str, id_field: str) -> bool:
        """Whether a lead can be found by an id; one that a spreadsheet would run cannot be written as it is."""
        if lead_id.startswith(FORMULA) or _WORDS.search(lead_id):
            return False
        return re.fullmatch(self.ids.get(id_field, r".*\S.*"), lead_id) is not None


def _salesforce(leads: Sequence[Scored], id_field: str, fields: Fields) -> str:
    return _csv(leads, id_field, fields, "%Y-%m-%dT%H:%M:%SZ")


def _hubspot(leads: Sequence[Scored], id_field: str, fields: Fields) -> str:
    return _csv(leads, id_field, fields, "%Y-%m-%d")


def _csv(leads: Sequence[Scored], id_field: str, fields: Fields, at: str) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([id_field, *fields.values()])
    for lead in leads:
        cells = [_cell(lead, name, at) for name in fields]
        writer.writerow([lead.lead_id, *(f"'{cell}" if cell.startswith(FORMULA) else cell for cell in cells)])
    return out.getvalue()


def _cell(lead: Scored, name: str, at: str) -> str:
    value = _value(lead, name, at)
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _dynamics(leads: Sequence[Scored], id_field: str, fields: Fields) -> str:
    """A batch of two requests a lead: its score, found by the table's alternate key, and the lead's reference to it.

    Where there is no such lead none is made: If-Match lets only one be changed that is there.
    """
    grades = {"hot": 0, "warm": 1, "cold": 2}
    parts = []
    for lead in leads:
        key = lead.lead_id.lower()
        score = f"msdyn_predictivescores(msdyn_entityid='{key}',msdyn_entitytype='lead')"
        body = {theirs: _value(lead, name, "%Y-%m-%dT%H:%M:%SZ") for name, theirs in fields.items()}
        if "tier" in fields:
            body[fields["tier"]] = grades[lead.tier]
        parts += [
            _request(score, body),
            _request(f"leads({key})", {"msdyn_PredictiveScoreId@odata.bind": f"/{score}"}, "If-Match: *"),
        ]
    return "".join(f"--touchstone\r\n{part}\r\n" for part in parts) + "--touchstone--\r\n"


def _request(path: str, body: Mapping[str, Any], *headers: str) -> str:
    lines = (
        "Content-Type: application/http", "Content-Transfer-Encoding: binary", "",
        f"PATCH /api/data/v9.2/{path} HTTP/1.1", "Content-Type: application/json", *headers, "", json.dumps(body),
    )  # fmt: skip
    return "\r\n".join(lines)


_LOGIN = """\
<param><value><string>${ODOO_DATABASE}</string></value></param>
<param><value><int>${ODOO_UID}</int></value></param>
<param><value><string>${ODOO_API_KEY}</string></value></param>
"""
"""To be filled in when it is sent: a file holds no secret."""


def _odoo(leads: Sequence[Scored], id_field: str, fields: Fields) -> str:
    """A line each: the body of a call of execute_kw that writes to one lead."""
    lines = []
    for lead in leads:
        values = {theirs: _value(lead, name, "%Y-%m-%d %H:%M:%S") for name, theirs in fields.items()}
        if "probability" in fields:
            # In percent; 0 and 100 would say that it is lost or won.
            values[fields["probability"]] = min(max(round(100 * lead.probability, 2), 0.01), 99.99)
        said = xmlrpc.client.dumps(("crm.lead", "write", [[int(lead.lead_id)], values]), "execute_kw")
        # Nobody's words are to be taken for what is filled in.
        said = said.replace("$", "&#36;").replace("<params>\n", f"<params>\n{_LOGIN}", 1)
        lines.append(said.replace("\n", "") + "\n")
    return "".join(lines)


def _value(lead: Scored, name: str, at: str) -> str | int | float:
    """A value as all CRMs take it; times as `at` says."""
    value = getattr(lead, name)
    if isinstance(value, int | float):
        return value
    if isinstance(value, datetime):
        return value.strftime(at)
    text = "; ".join(value) if isinstance(value, tuple) else value or ""
    return _WORDS.sub(" ", text)


def _called(form: str, **others: str) -> dict[str, str]:
    """Our fields under names of one form, but for some."""
    return {name: others.get(name) or form.format(name) for name in FIELDS}


CRMS = {
    crm.name: crm
    for crm in (
        Crm(
            "salesforce",
            {
                "probability": "Touchstone_Probability__c", "score": "Touchstone_Score__c",
                "tier": "Touchstone_Tier__c", "route": "Touchstone_Route__c", "reasons": "Touchstone_Reasons__c",
                "as_of": "Touchstone_Scored_At__c", "model_version": "Touchstone_Model__c",
            },
            {"Id": r"[A-Za-z0-9]{15}([A-Za-z0-9]{3})?"}, True, 100_000, ".csv", _salesforce,
        ),
        Crm(
            "hubspot", _called("touchstone_{}", as_of="touchstone_scored_on", model_version="touchstone_model"),
            {"Record ID": r"[0-9]+", "Email": r"[^@\s]+@[^@\s]+\.[^@\s]+"}, True, 100_000, ".csv", _hubspot,
        ),
        Crm(
            "dynamics",
            {
                "score": "msdyn_score", "tier": "msdyn_grade", "reasons": "msdyn_scorereasons",
                "as_of": "msdyn_scoredon",
            },
            {"leadid": r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"}, False, 500, ".batch", _dynamics,
        ),
        Crm(
            "odoo",
            _called("x_touchstone_{}", probability="probability", as_of="x_touchstone_scored_at",
                    model_version="x_touchstone_model"),
            {"id": r"[1-9][0-9]{0,8}"}, False, 1_000, ".xmlrpc", _odoo,
        ),
    )
}  # fmt: skip
