"""The marketing and sales touchpoints that logs name in many ways: their kinds, and whose they are.

Nothing has to be in this table: unknown kinds work, and belong to no side and no direction. What is in it gives
features `by="side"` (marketing or sales) and `by="direction"` (inbound: the lead came; outbound: we went to the lead).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from features.words import kind_word

Side = Literal["marketing", "sales"]
Direction = Literal["inbound", "outbound"]


class Touchpoint(NamedTuple):
    """A kind of contact, whose it is, which way it goes, and the words that logs use for it.

    >>> next(touchpoint for touchpoint in TOUCHPOINTS if touchpoint.name == "tv")[:3]
    ('tv', 'marketing', 'outbound')
    """

    name: str
    side: Side
    direction: Direction
    aliases: tuple[str, ...] = ()


# fmt: off
TOUCHPOINTS: tuple[Touchpoint, ...] = (
    Touchpoint("print", "marketing", "outbound", (
        "print_ad", "newspaper", "magazine", "advertorial", "flyer", "poster", "advertisement", "zeitung",
        "zeitungsanzeige", "anzeige", "zeitschrift", "plakat",
    )),
    Touchpoint("tv", "marketing", "outbound", (
        "television", "tv_spot", "tv_ad", "ctv", "fernsehen", "tv_werbung",
    )),
    Touchpoint("radio", "marketing", "outbound", (
        "radio_spot", "radio_ad", "podcast", "podcast_ad", "audio_ad", "rundfunk", "radio_werbung",
    )),
    Touchpoint("pr", "marketing", "outbound", (
        "press", "press_release", "public_relations", "earned_media", "presse", "pressemitteilung",
        "newspaper_article", "media_coverage",
    )),
    Touchpoint("display_ad", "marketing", "outbound", (
        "display", "banner", "banner_ad", "retargeting", "programmatic", "display_advertising",
        "digital_advertisement", "bannerwerbung",
    )),
    Touchpoint("search_ad", "marketing", "inbound", (
        "paid_search", "sem", "sea", "ppc", "cpc", "google_ads", "adwords", "pay_per_click", "pay_per_click_ads",
        "suchmaschinenwerbung",
    )),
    Touchpoint("social_ad", "marketing", "outbound", (
        "paid_social", "facebook_ad", "linkedin_ad", "instagram_ad", "social_media_ad",
    )),
    Touchpoint("viral", "marketing", "inbound", (
        "viral_video", "share", "shared", "social_share",
    )),
    Touchpoint("influencer", "marketing", "outbound", (
        "influencer_marketing", "creator", "testimonial",
    )),
    Touchpoint("social", "marketing", "inbound", (
        "organic_social", "facebook", "linkedin", "instagram", "twitter", "x", "social_media", "youtube",
        "youtubechannel", "tiktok", "xing", "soziale_medien",
    )),
    Touchpoint("organic_search", "marketing", "inbound", (
        "organic", "seo", "search", "google", "bing", "natural_search", "suchmaschine", "suche",
    )),
    Touchpoint("website", "marketing", "inbound", (
        "web", "site", "visit", "page", "page_view", "pageview", "screen", "page_visited_on_website",
        "direct_traffic", "website_visit", "web_visit", "page_viewed", "product_viewed", "direct", "blog",
        "homepage", "webseite", "webseitenbesuch",
    )),
    Touchpoint("landing_page", "marketing", "inbound", (
        "landing", "lp", "landing_page_submission", "landingpage",
    )),
    Touchpoint("form", "marketing", "inbound", (
        "form_submitted", "form_submission", "form_fill", "contact_form", "web_form", "inbound_form", "signup",
        "sign_up", "form_submitted_on_website", "web_to_lead", "lead_add_form", "quick_add_form", "signed_up",
        "registration", "formular", "kontaktformular", "anfrage", "anmeldung",
    )),
    Touchpoint("content_download", "marketing", "inbound", (
        "content", "download", "whitepaper", "ebook", "case_study", "asset_download", "gated_content",
        "content_downloaded", "file_download", "white_paper", "e_book",
    )),
    Touchpoint("email_sent", "marketing", "outbound", (
        "email_send", "email_delivered", "mail_sent", "newsletter", "email", "email_marketing", "mass_email",
        "list_email", "edm", "nc_edm", "rundmail",
    )),
    Touchpoint("email_open", "marketing", "inbound", (
        "email_opened", "opened_email", "mail_open", "open", "email_geöffnet", "email_geoeffnet",
    )),
    Touchpoint("email_click", "marketing", "inbound", (
        "email_clicked", "email_link_clicked", "clicked_email", "mail_click", "click", "email_link_click",
        "view_in_browser_link_clicked", "email_geklickt",
    )),
    Touchpoint("email_reply", "sales", "inbound", (
        "email_replied", "reply", "replied", "mail_reply", "email_received", "incoming_email", "inbound_email",
        "antwort",
    )),
    Touchpoint("email_bounce", "marketing", "outbound", (
        "email_bounced", "bounce", "hard_bounce", "soft_bounce",
    )),
    Touchpoint("email_unsubscribe", "marketing", "inbound", (
        "email_unsubscribed", "unsubscribe", "unsubscribed", "opt_out", "optout", "email_opted_out",
        "email_marked_spam", "spam_report", "spamreport", "abmeldung", "abgemeldet",
    )),
    Touchpoint("sales_email", "sales", "outbound", (
        "email_by_sales", "personal_email", "one_to_one_email",
    )),
    Touchpoint("sms", "marketing", "outbound", (
        "sms_sent", "text_message", "mms",
    )),
    Touchpoint("direct_mail", "marketing", "outbound", (
        "mailing", "postcard", "letterbox", "dm", "werbebrief", "infopost", "postwurf",
    )),
    Touchpoint("brochure", "marketing", "outbound", (
        "catalogue", "catalog", "leaflet", "prospekt", "katalog", "broschüre", "broschuere",
    )),
    Touchpoint("sales_letter", "sales", "outbound", (
        "letter", "cover_letter", "brief", "anschreiben",
    )),
    Touchpoint("webinar", "marketing", "inbound", (
        "webcast", "webinar_attended", "training", "workshop", "course", "seminar", "online_seminar",
        "webinar_registered", "schulung", "kurs", "vortrag",
    )),
    Touchpoint("fair", "marketing", "inbound", (
        "event", "trade_fair", "trade_show", "exhibition", "conference", "expo", "tradeshow",
        "visited_booth_in_tradeshow", "messe", "fachmesse", "messebesuch", "kongress", "veranstaltung",
    )),
    Touchpoint("store_visit", "sales", "inbound", (
        "store", "showroom", "branch_visit", "walk_in", "filiale", "filialbesuch", "laden", "ladenbesuch",
    )),
    Touchpoint("cold_call", "sales", "outbound", (
        "outbound_call", "telemarketing", "teleprospecting", "call_outbound", "kaltakquise",
    )),
    Touchpoint("warm_call", "sales", "outbound", (
        "call", "phone", "phone_call", "phone_conversation", "had_a_phone_conversation", "call_logged",
        "outgoing_call", "telefon", "telefonat", "telefongespräch", "telefongespraech", "anruf",
    )),
    Touchpoint("inbound_call", "sales", "inbound", (
        "call_in", "callback_request", "incoming_call", "call_inbound", "phone_inquiry", "click2call",
        "click_to_call", "hotline", "eingehender_anruf", "rückruf", "rueckruf",
    )),
    Touchpoint("meeting", "sales", "outbound", (
        "appointment", "visit_by_sales", "on_site_visit", "video_call", "meeting_booked", "meeting_held",
        "sales_visit", "termin", "besprechung", "vertreterbesuch", "außendienst", "aussendienst",
    )),
    Touchpoint("demo", "sales", "inbound", (
        "demonstration", "demo_request", "demo_requested", "product_demo", "trial", "demo_booked", "demo_scheduled",
        "trial_started", "vorführung", "vorfuehrung", "testversion",
    )),
    Touchpoint("proposal", "sales", "outbound", (
        "quote", "offer", "quotation", "tender", "contract_sent", "proposal_sent", "quote_sent", "estimate",
        "contract", "angebot", "kostenvoranschlag",
    )),
    Touchpoint("coupon", "marketing", "outbound", (
        "voucher", "discount", "promo_code", "promotion", "coupon_applied", "coupon_entered", "gutschein", "rabatt",
        "rabattcode",
    )),
    Touchpoint("cart_abandoned", "marketing", "inbound", (
        "abandoned_cart", "checkout_abandoned", "basket_abandoned", "cart_abandonment", "warenkorbabbruch",
    )),
    Touchpoint("referral", "marketing", "inbound", (
        "word_of_mouth", "recommendation", "reference", "referred", "affiliate", "referrals", "referral_site",
        "referral_sites", "partner_referral", "employee_referral", "external_referral", "empfehlung",
        "weiterempfehlung", "mundpropaganda",
    )),
    Touchpoint("chat", "sales", "inbound", (
        "live_chat", "chatbot", "olark_chat", "olark_chat_conversation", "whatsapp", "chat_conversation",
        "live_chat_conversation_started", "live_chat_message_received", "live_chat_message_sent",
    )),
)
"""The vocabulary, each touchpoint under its usual name."""
# fmt: on

DELIVERED, ENGAGED = 1, 2
_STEPS = {"email_sent": DELIVERED, "sales_email": DELIVERED, "email_open": ENGAGED, "email_click": ENGAGED}

_BY_WORD = {word: touchpoint for touchpoint in TOUCHPOINTS for word in (touchpoint.name, *touchpoint.aliases)}


@lru_cache(maxsize=65_536)
def touchpoint_of(channel: str, action: str = "") -> Touchpoint | None:
    """Finds what a kind is: by channel and action together, else by the action, else by the channel; None if unknown.

    >>> touchpoint_of("E-Mail", "Clicked").name
    'email_click'
    >>> touchpoint_of("fax") is None
    True
    """
    through, does = kind_word(channel), kind_word(action) if action else ""
    both, by_action, by_channel = (
        _BY_WORD.get(_mail(word)) for word in (f"{through}_{does}" if does else through, does, through)
    )
    if by_action is not None and by_channel is not None and _is_mail(by_action) and not _is_mail(by_channel):
        # "click" alone is one in a mail, but that on an ad is not.
        by_action = by_action if _mail(does).startswith("email") else None
    return both or by_action or by_channel


def mail_steps(kinds: Iterable[tuple[str, str]]) -> npt.NDArray[np.int32]:
    """Returns, for each kind, whether a mail was `DELIVERED` or `ENGAGED` with (opened, clicked), or 0 for neither."""
    found = (touchpoint_of(*kind) for kind in kinds)
    return np.array([_STEPS.get(touchpoint.name, 0) if touchpoint else 0 for touchpoint in found], np.int32)


def _is_mail(touchpoint: Touchpoint) -> bool:
    return "email" in touchpoint.name


def _mail(word: str) -> str:
    """A word that begins with e-mail in one of its spellings, with the usual one."""
    return re.sub(r"^(e_?mails?|mails?|newsletter)(?=_|$)", "email", word)
