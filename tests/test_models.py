"""How data sets are told: which form Accept chooses, by RFC 9110 12.5.1, and how parts of XML stand in a body."""

import pytest

from multiframe.errors import NotAcceptable
from multiframe.web.media import parse_accept
from multiframe.web.models import JSON, Model, choose_model

XML = Model("application/dicom+xml")
PARTS = Model("application/dicom+xml", multipart=True)
IN_PARTS = 'multipart/related; type="application/dicom+xml"'


@pytest.mark.parametrize(
    ("accept", "of_one", "of_several"),
    [
        ("", JSON, JSON),
        ("*/*", JSON, JSON),
        ("application/*", JSON, JSON),
        ("application/json", JSON, JSON),
        ("text/html, */*;q=0.1", JSON, JSON),
        ("application/dicom+xml", XML, None),
        (IN_PARTS, PARTS, PARTS),
        ("Multipart/Related; Type=application/DICOM+xml", PARTS, PARTS),
        ("multipart/related", PARTS, PARTS),
        ("multipart/*", PARTS, PARTS),
        ('multipart/related; type="application/dicom"', None, None),
        ("text/xml", None, None),
        ("application/dicom", None, None),
        # by weight
        (f"{IN_PARTS};q=0.5, application/dicom+json;q=0.4", PARTS, PARTS),
        (f"{IN_PARTS};q=0.4, application/dicom+json;q=0.5", JSON, JSON),
        (f"{IN_PARTS}, application/dicom+json", PARTS, PARTS),
        (f"application/dicom+json, {IN_PARTS}", JSON, JSON),
        ("application/dicom+xml, application/dicom+json;q=0.9", XML, JSON),
        ("application/json, text/plain, */*", JSON, JSON),
        # by what is most specific
        ("application/dicom+json;q=0, */*", XML, PARTS),
        ("application/dicom+json;q=0, application/*", XML, None),
        (f"*/*, application/dicom+json;q=0, application/dicom+xml;q=0, {IN_PARTS};q=0", None, None),
        ("*/*, application/*;q=0, multipart/*;q=0", None, None),
        (f"multipart/*, {IN_PARTS};q=0", None, None),
        ("*/*;q=0", None, None),
    ],
)
def test_what_accept_chooses(accept: str, of_one: Model | None, of_several: Model | None) -> None:
    for alone, model in ((True, of_one), (False, of_several)):
        if model is not None:
            assert choose_model(parse_accept(accept), alone=alone) == model
            continue
        with pytest.raises(NotAcceptable) as refused:
            choose_model(parse_accept(accept), alone=alone)
        assert IN_PARTS in str(refused.value)
        assert (", application/dicom+xml, or" in str(refused.value)) == alone


def test_parts_stand_between_delimiters() -> None:
    """RFC 2046 5.1.1: CRLF belongs to the delimiter behind it, and the last one has two hyphens more."""
    kind, _, boundary = PARTS.content_type("name").rpartition("; boundary=")
    assert kind == IN_PARTS
    body = b"".join(PARTS.written(iter([b"[{},", b"{}]"]), "name")).decode()
    first, *parts, last = ("\r\n" + body).split(f"\r\n--{boundary}")
    assert (first, last) == ("", "--\r\n")
    document = "".join(text.decode() for text in XML.written(iter([b"[{}]"]), "name"))
    assert document.endswith(' xml:space="preserve"></NativeDicomModel>')
    assert parts == [f"\r\nContent-Type: application/dicom+xml\r\n\r\n{document}"] * 2


def test_what_ends_early_is_not_whole() -> None:
    with pytest.raises(ValueError, match="ends early"):
        list(XML.written(iter([b"[{}"]), ""))
    assert list(JSON.written(iter([b"[{}"]), "")) == [b"[{}"]  # which is not looked at
