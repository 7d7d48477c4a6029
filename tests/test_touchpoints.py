"""The touchpoints: every name means one of them, and logs of many makers find theirs."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from features import TOUCHPOINTS, Cohort, Count, Dataset, FeatureSet, touchpoint_of
from features.words import kind_word

WORDS = [(word, touchpoint) for touchpoint in TOUCHPOINTS for word in (touchpoint.name, *touchpoint.aliases)]


def test_no_word_is_there_twice():
    assert not [word for word, count in Counter(word for word, _ in WORDS).items() if count > 1]


@pytest.mark.parametrize(("word", "touchpoint"), WORDS, ids=[word for word, _ in WORDS])
def test_every_word_means_its_touchpoint(word, touchpoint):
    assert word == kind_word(word), "never found in this form"
    assert touchpoint_of(word) is touchpoint
    assert touchpoint_of(f" {word.upper().replace('_', ' ')} ") is touchpoint
    assert touchpoint_of("a channel of our own", word) is touchpoint


# fmt: off
SPELLINGS = [
    # Salesforce
    ("Email", "Sent", "email_sent"), ("Email", "Opened", "email_open"), ("Email", "Clicked", "email_click"),
    ("Email", "Replied", "email_reply"), ("List Email", "", "email_sent"), ("Call", "", "warm_call"),
    ("Phone Inquiry", "", "inbound_call"), ("Trade Show", "", "fair"), ("Webinar", "Attended", "webinar"),
    ("Web", "", "website"), ("Word of mouth", "", "referral"), ("Partner Referral", "", "referral"),
    ("Employee Referral", "", "referral"), ("Public Relations", "", "pr"), ("Advertisement", "", "print"),
    ("Direct Mail", "", "direct_mail"), ("Web-to-Lead", "", "form"), ("Seminar", "", "webinar"),
    # HubSpot
    ("ORGANIC_SEARCH", "", "organic_search"), ("PAID_SEARCH", "", "search_ad"), ("PAID_SOCIAL", "", "social_ad"),
    ("SOCIAL_MEDIA", "", "social"), ("EMAIL_MARKETING", "", "email_sent"), ("REFERRALS", "", "referral"),
    ("DIRECT_TRAFFIC", "", "website"), ("OPEN", "", "email_open"), ("CLICK", "", "email_click"),
    ("BOUNCE", "", "email_bounce"), ("SPAMREPORT", "", "email_unsubscribe"), ("INCOMING_EMAIL", "", "email_reply"),
    ("MEETING", "", "meeting"), ("Form submission", "", "form"),
    # Segment
    ("Email Delivered", "", "email_sent"), ("Email Opened", "", "email_open"),
    ("Email Link Clicked", "", "email_click"), ("Email Bounced", "", "email_bounce"),
    ("Unsubscribed", "", "email_unsubscribe"), ("page", "", "website"), ("screen", "", "website"),
    ("Page Viewed", "", "website"), ("Product Viewed", "", "website"), ("Signed Up", "", "form"),
    ("Coupon Applied", "", "coupon"), ("Live Chat Conversation Started", "", "chat"),
    # X Education
    ("Olark Chat", "", "chat"), ("Olark Chat Conversation", "", "chat"), ("Organic Search", "", "organic_search"),
    ("Google", "", "organic_search"), ("Referral Sites", "", "referral"), ("Reference", "", "referral"),
    ("Pay per Click Ads", "", "search_ad"), ("Press_Release", "", "pr"), ("NC_EDM", "", "email_sent"),
    ("Click2call", "", "inbound_call"), ("youtubechannel", "", "social"), ("blog", "", "website"),
    ("Landing Page Submission", "", "landing_page"), ("Lead Add Form", "", "form"), ("SMS Sent", "", "sms"),
    ("Page Visited on Website", "", "website"), ("Form Submitted on Website", "", "form"),
    ("Had a Phone Conversation", "", "warm_call"), ("View in browser link Clicked", "", "email_click"),
    ("Visited Booth in Tradeshow", "", "fair"), ("Email Received", "", "email_reply"),
    ("Email Marked Spam", "", "email_unsubscribe"), ("Digital Advertisement", "", "display_ad"),
    # German
    ("Messe", "", "fair"), ("Anruf", "", "warm_call"), ("Telefon", "", "warm_call"),
    ("Kaltakquise", "", "cold_call"), ("Angebot", "", "proposal"), ("Prospekt", "", "brochure"),
    ("Broschüre", "", "brochure"), ("Werbebrief", "", "direct_mail"), ("Brief", "", "sales_letter"),
    ("Vertreterbesuch", "", "meeting"), ("Außendienst", "", "meeting"), ("Vorführung", "", "demo"),
    ("Gutschein", "", "coupon"), ("Empfehlung", "", "referral"), ("Kontaktformular", "", "form"),
    ("Schulung", "", "webinar"), ("Zeitung", "Anzeige", "print"), ("E-Mail", "geöffnet", "email_open"),
    # E-mail in its spellings, and a channel with an action
    ("e-mail", "open", "email_open"), ("Mails", "click", "email_click"), ("Newsletter", "opened", "email_open"),
    ("newsletter", "", "email_sent"), ("E-Mail Clicked", "", "email_click"), ("e_mails", "unsubscribed",
     "email_unsubscribe"), ("mailing", "", "direct_mail"), ("website", "demo request", "demo"),
    ("event", "registered", "fair"), ("phone", "ringing", "warm_call"), ("call", "inbound", "inbound_call"),
    ("call", "outbound", "cold_call"), ("landing page", "form_fill", "form"), ("sales visit", "", "meeting"),
]
# fmt: on


@pytest.mark.parametrize(("channel", "action", "name"), SPELLINGS, ids=[" ".join(row[:2]) for row in SPELLINGS])
def test_logs_spell_touchpoints_in_many_ways(channel, action, name):
    found = touchpoint_of(channel, action)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    ("channel", "action"), [("fax", ""), ("fax", "sent"), ("", ""), ("mailbox", ""), ("emailed", "")]
)
def test_what_is_in_no_list_is_no_touchpoint(channel, action):
    assert touchpoint_of(channel, action) is None


def test_what_is_in_no_list_is_of_no_side_and_no_direction():
    frame = pd.DataFrame({
        "lead_id": "a", "occurred_at": "2026-01-02T00:00:00Z",
        "channel": ["fax", "carrier pigeon", "email", "email", "offer"], "action": ["", "", "click", "send", ""],
    })  # fmt: skip
    dataset = Dataset.from_frames(touchpoints=frame)
    features = FeatureSet.fit((Count(by="side"), Count(by="direction")), dataset)
    said = dict(zip(features.names, features.compute(dataset, Cohort.at([0], "2026-01-03"))[0].tolist(), strict=True))
    assert said == {
        "marketing_count": 2, "sales_count": 1, "other_count": 2,
        "inbound_count": 1, "outbound_count": 2, "other_count_by_direction": 2,
    }  # fmt: skip


def test_a_side_never_seen_in_training_counts_as_other():
    frame = pd.DataFrame({"lead_id": ["a"], "occurred_at": ["2026-01-02T00:00:00Z"], "channel": ["email"]})
    features = FeatureSet.fit((Count(by="side"),), Dataset.from_frames(touchpoints=frame))
    later = Dataset.from_frames(touchpoints=frame.assign(channel="demo"))
    assert features.names == ("marketing_count", "other_count")
    assert np.array_equal(features.compute(later, Cohort.at([0], "2026-01-03")), [[0, 1]])
