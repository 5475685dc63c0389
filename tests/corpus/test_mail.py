"""scripts/corpus/mail.py: e-mails of any kind become subject and body."""

import gzip
import mailbox
import textwrap
from email.message import EmailMessage

import pytest

from corpus.mail import text_of_html
from corpus.source import Source, draw_sample, load_corpus

BODY = "The goalie stopped the puck in Zürich."
PAGE = f"<html><head><title>x</title><style>p {{ color: red }}</style></head><body><p>{BODY}<br>Bye &amp; thanks</p></body></html>"


def message(subject="Re: Playoffs überall", body=BODY, html=None, encoding=None, attachment=None, charset="utf-8"):
    mail = EmailMessage()
    mail["Received"] = "from relay0.mail.example.org by mx.example.org; Mon, 02 Nov 2026 10:30:00 +0000"
    mail["DKIM-Signature"] = "v=1; a=rsa-sha256; b=abc"
    mail["From"], mail["To"], mail["Subject"] = "Ann <ann@example.org>", "help@example.org", subject
    if body is not None:
        mail.set_content(body, cte=encoding, charset=charset)
    if html is not None and body is not None:
        mail.add_alternative(html, subtype="html")
    elif html is not None:
        mail.set_content(html, subtype="html")
    if attachment is not None:
        mail.add_attachment(attachment, maintype="application", subtype="pdf", filename="scan.pdf")
    return mail


MAILS = {
    "plain": message(),
    "base64": message(encoding="base64"),
    "quoted-printable": message(encoding="quoted-printable"),
    "latin-1": message(charset="iso-8859-1"),
    "alternative": message(html=PAGE),
    "attachment": message(attachment=b"%PDF-1.7 endobj"),
}


@pytest.mark.parametrize("name", MAILS)
def test_an_e_mail_is_its_subject_and_its_decoded_body(tmp_path, name):
    (tmp_path / "1.eml").write_bytes(MAILS[name].as_bytes())
    (tmp_path / "2.eml").write_bytes(MAILS[name].as_bytes().replace(b"\n", b"\r\n"))
    source = Source(str(tmp_path))
    corpus, _ = draw_sample(source, 100, 0)
    assert [text.rstrip() for text in corpus.documents] == [f"Playoffs überall\n{BODY}"] * 2
    assert corpus.titles == ["Playoffs überall"] * 2 and corpus.identities == ["1.eml", "2.eml"]
    assert source.findings.left_out["attachments of e-mails"] == 2 * (name == "attachment")


def test_an_e_mail_of_html_only_is_its_text(tmp_path):
    for number, encoding in enumerate(("base64", "quoted-printable")):
        mail = message(body=None)
        mail.set_content(PAGE, subtype="html", cte=encoding)
        (tmp_path / f"{number}.eml").write_bytes(mail.as_bytes())
    assert load_corpus(str(tmp_path)).documents == [f"Playoffs überall\n{BODY}\nBye & thanks"] * 2


def test_e_mails_that_are_damaged_or_without_text_stop_nothing(tmp_path):
    files = {
        "bad-charset.eml": b'From: a\nSubject: one\nContent-Type: text/plain; charset="x-unknown"\n\nbody \xfc\n',
        "bad-base64.eml": b"From: a\nSubject: two\nContent-Transfer-Encoding: base64\n\n!!!\n",
        "bad-header.eml": b"From: a\nSubject: =?utf-8?b?w=?= three\nContent-Type: multipart/mixed\n\nbody\n",
        "no-subject.eml": b"From: a\nDate: b\n\nbody only\n",
        "empty.eml": b"From: a\nSubject:\n\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    source = Source(str(tmp_path))
    corpus, count = draw_sample(source, 100, 0)
    assert count == 4 and "one\nbody ü" in corpus.documents and "body only" in corpus.documents
    assert source.findings.left_out["e-mails without text"] == 1


def test_mailboxes_maildirs_and_files_without_suffix_are_read_with_their_folder_as_label(tmp_path):
    box = mailbox.mbox(tmp_path / "billing.mbox")
    for subject in ("First", "Second"):
        box.add(message(subject, body=f"{BODY}\n\nFrom here on it was quiet."))
    box.close()
    (tmp_path / "old").mkdir()
    (tmp_path / "old/Inbox").write_bytes((tmp_path / "billing.mbox").read_bytes())  # as Thunderbird names it
    (tmp_path / "old/packed.mbox.gz").write_bytes(gzip.compress((tmp_path / "billing.mbox").read_bytes()))
    maildir = mailbox.Maildir(tmp_path / "support")
    maildir.add(message("Third"))
    (tmp_path / "news").mkdir()
    (tmp_path / "news/53068").write_text("From: a@b\nSubject: Fourth\nLines: 1\nOrganization: c\n\nbody\n")
    corpus = load_corpus(str(tmp_path))
    labels = dict(zip(corpus.titles, corpus.labels))
    assert labels["Third"] == "support" and labels["Fourth"] == "news"
    boxes = [
        (i, t, label)
        for i, t, label in zip(corpus.identities, corpus.titles, corpus.labels)
        if ":" in i and "cur" not in i and "new/" not in i
    ]
    assert boxes == [
        (f"{name}:{number}", title, label)
        for name, label in (("billing.mbox", "billing"), ("old/Inbox", "old"), ("old/packed.mbox.gz", "old"))
        for number, title in ((1, "First"), (2, "Second"))
    ]
    assert all("quiet" in text for text in corpus.documents if text.startswith(("First", "Second")))
    for name in ("billing.mbox", "old/packed.mbox.gz"):
        assert load_corpus(str(tmp_path / name)).titles == ["First", "Second"]


def test_a_text_that_only_looks_like_a_header_stays_as_it_is(tmp_path):
    texts = {
        "1.txt": "Note: call back\nSubject: invoices\n\nbody\n",
        "2.txt": "From: the beginning it was cold\n\nbody\n",
        "3.md": "title: x\nfrom: y\n---\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert load_corpus(str(tmp_path)).documents == list(texts.values())


def test_html_is_text_with_line_breaks_between_blocks():
    page = """<!doctype html><html><head><title>t</title><script>var x = "<p>";</script></head>
        <body><h1>Oven</h1><p>does not
        <b>heat</b>.</p><ul><li>one<li>two</ul><style>p {}</style>5 &lt; 7&nbsp;min</body></html>"""
    assert text_of_html(page).replace("\xa0", " ") == textwrap.dedent("""\
        Oven
        does not heat.
        one
        two
        5 < 7 min""")
