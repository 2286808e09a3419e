"""Rendering parameters and Accept of rendered resources: any text gives a presentation, or says what is wrong."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiframe.errors import NotAcceptable
from multiframe.picture import MEDIA_TYPES, Viewport
from multiframe.render import Presentation, Window
from multiframe.web.media import parse_accept
from multiframe.web.presentation import choose_rendered, choose_uri, of_rendered, of_wado_uri


@pytest.mark.parametrize(
    ("text", "viewport"),
    [
        ("256,256", Viewport(256, 256)),
        ("256, 128", Viewport(256, 128)),
        ("512,512,,,512,-512", Viewport(512, 512, columns=512.0, rows=512.0, flipped=True)),
        ("10,10,-3.5,4,,", Viewport(10, 10, 3.5, 4.0)),
        ("10,10,1,,,", Viewport(10, 10, 1.0)),
        ("10,10,,,-7,", Viewport(10, 10, columns=7.0, mirrored=True)),
        ("1,2,3,4,5,6", Viewport(1, 2, 3.0, 4.0, 5.0, 6.0)),
        ("1,2,,,1e2,.5", Viewport(1, 2, columns=100.0, rows=0.5)),
    ],
)
def test_viewports(text, viewport):
    assert of_rendered([("viewport", text)]).presentation.viewport == viewport


@pytest.mark.parametrize(
    "text",
    ["", "256", ",", "256,", "0,5", "-5,5", "1.5,5", "a,b", "5,5,5,5,0,5", "5,5,5,5,5,0", "1,2,3,4,5,6,7", "9999999,5",
     "9,9,9", "9,9,9,9", "9,9,,,9", "5,5,x,,,", "5,5,nan,,,", "5,5,inf,1,,", "5,5,1e999,,,", "٣,٣"],
)  # fmt: skip
def test_what_is_no_viewport(text):
    with pytest.raises(ValueError, match="viewport"):
        of_rendered([("viewport", text)])


def test_a_thumbnail_is_small_and_whole():
    assert of_rendered([], thumbnail=True).presentation.viewport == Viewport(256, 256, enlarge=False)
    assert of_rendered([("viewport", "99,44")], thumbnail=True).presentation.viewport == Viewport(99, 44)
    with pytest.raises(ValueError, match="whole picture"):
        of_rendered([("viewport", "99,44,1,1")], thumbnail=True)


def test_windows():
    for text, window in {
        "40,400,linear": Window(40, 400),
        "-1e2, 0.5 ,linear-exact": Window(-100, 0.5, "LINEAR_EXACT"),
        "0,1,Sigmoid": Window(0, 1, "SIGMOID"),
    }.items():
        assert of_rendered([("window", text)]).presentation.window == window
    for text in ("", "40,400", "40,400,", "40,0,linear-exact", "40,0.5,linear", "40,-1,sigmoid", "a,b,linear",
                 "40,400,cubic", "nan,1,linear", "1,inf,linear", "1,2,linear,3"):  # fmt: skip
        with pytest.raises(ValueError, match="window"):
            of_rendered([("window", text)])


def test_the_rest():
    assert of_rendered([("quality", "35")]).presentation.quality == 35
    for text in ("0", "101", "", "5.5", "-1", "x"):
        with pytest.raises(ValueError, match="quality"):
            of_rendered([("quality", text)])
    assert of_rendered([("iccprofile", "sRGB")]).presentation.profile == "srgb"
    for text in ("adobergb", "rommrgb", "", "maybe"):
        with pytest.raises(ValueError, match="iccprofile"):
            of_rendered([("iccprofile", text)])
    assert of_rendered([("annotation", "patient,technique")]).warnings
    assert of_rendered([("annotations", "x"), ("charset", "utf-8"), ("session", "viewport")]) == of_rendered([])
    # Twice the same is once; twice another cannot be meant.
    assert of_rendered([("quality", "5"), ("quality", "5")]).presentation.quality == 5
    with pytest.raises(ValueError, match="twice"):
        of_rendered([("quality", "5"), ("quality", "6")])


def test_wado_uri():
    def wanted(**query: str) -> Presentation:
        return of_wado_uri(query.items(), columns=200, rows=100).presentation

    assert wanted() == Presentation()
    assert wanted(rows="50").viewport.fit(200, 100).size == (100, 50)
    assert wanted(columns="50").viewport.fit(200, 100).size == (50, 25)
    assert wanted(rows="50", columns="50").viewport.fit(200, 100).size == (50, 25)
    assert wanted(region="0.25,0,0.75,1").viewport.fit(200, 100) == ((50, 0, 150, 100), (100, 100))
    assert wanted(windowCenter="40", windowWidth="400").window == Window(40, 400)
    assert wanted(imageQuality="1").quality == 1
    for bad in (
        {"rows": "0"}, {"columns": "x"}, {"region": "0,0,1"}, {"region": "0,0,1,1,1"}, {"region": "0,0,2,1"},
        {"region": "0,0,,1"}, {"region": "0.5,0,0.5,1"}, {"region": "-0.1,0,1,1"}, {"windowCenter": "1"},
        {"windowWidth": "1"}, {"windowCenter": "1", "windowWidth": "0"}, {"imageQuality": "0"},
        {"presentationUID": "1.2"}, {"presentationSeriesUID": "1.2"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(bad))):
            wanted(**bad)


NAMES = ["viewport", "window", "quality", "iccprofile", "annotation", "rows", "columns", "region", "windowCenter"]
TEXT = st.text(max_size=30) | st.text("0123456789.,-+eE", max_size=30)


@given(st.lists(st.tuples(st.sampled_from(NAMES), TEXT), max_size=4), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_text(query, thumbnail):
    for read in (lambda: of_rendered(query, thumbnail=thumbnail), lambda: of_wado_uri(query, columns=7, rows=9)):
        try:
            presentation = read().presentation
        except ValueError as error:
            assert type(error) is ValueError  # noqa: PT017
            continue
        assert 1 <= presentation.quality <= 100
        assert presentation.window is None or presentation.window.valid


def chosen(accept: str, *, several: bool = False) -> tuple[bool, str]:
    form = choose_rendered(parse_accept(accept), MEDIA_TYPES, several=several)
    return form.multipart, form.media_type


def test_accept_for_one_picture():
    for accept in ("", "*/*", "image/*", "image/jpeg", "IMAGE/JPEG", "image/jpg", "text/html, */*;q=0.8",
                   "image/avif,image/webp,image/*,*/*;q=0.8", "image/jp2, image/jpeg;q=0.1"):  # fmt: skip
        assert chosen(accept) == (False, "image/jpeg"), accept
    assert chosen("image/png, image/jpeg;q=0.9") == (False, "image/png")
    assert chosen("image/jpeg;q=0.1, image/gif") == (False, "image/gif")
    assert chosen("image/jpeg;q=0, */*") == (False, "image/png")
    assert chosen('multipart/related; type="image/png"') == (True, "image/png")
    assert chosen("multipart/related") == (True, "image/jpeg")
    assert chosen("multipart/related; type=image/jp2; type=image/gif") == (True, "image/gif")
    # What an entry says of one type counts more than what another says of all.
    assert chosen("image/jpeg;q=0.1, image/*") == (False, "image/png")
    assert chosen("image/*;q=0, */*, image/gif;q=0.1") == (False, "image/gif")
    assert chosen("multipart/related, image/gif;q=0.5") == (True, "image/jpeg")


def test_accept_for_several():
    assert chosen("", several=True) == chosen("*/*", several=True) == (True, "image/jpeg")
    assert chosen("image/jpeg, multipart/related; type=image/png;q=0.5", several=True) == (True, "image/png")
    for accept in ("image/jpeg", "image/*", "video/mp4"):
        with pytest.raises(NotAcceptable, match="multipart/related"):
            chosen(accept, several=True)


def test_accept_of_another_kind():
    for accept in ("application/dicom", "application/dicom+json", "application/octet-stream", "image/jls", "text/html",
                   'multipart/related; type="application/dicom"', "image/jpeg;q=0", "multipart/related; type=image/jls",
                   "multipart/related; type=application/octet-stream; transfer-syntax=*"):  # fmt: skip
        for several in (False, True):
            with pytest.raises(NotAcceptable):
                chosen(accept, several=several)
    for accept in ("image/jpeg, application/dicom", 'multipart/related; type="application/dicom", image/png;q=0.1'):
        with pytest.raises(ValueError, match="mixes"):
            chosen(accept)
    with pytest.raises(ValueError, match="transfer-syntax"):
        chosen("image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50")


def test_a_video_is_given_as_its_own_type():
    for accept, multipart in (
        ("", False), ("video/*", False), ("video/mp4", False), ("VIDEO/MP4", False), ("multipart/related", True),
        ('multipart/related; type="video/mp4"', True), ("multipart/related; type=video/*, */*;q=0.1", True),
        ("video/mp4, multipart/related; type=video/mp4", False),
    ):  # fmt: skip
        form = choose_rendered(parse_accept(accept), ["video/mp4"], several=False)
        assert (form.multipart, form.media_type) == (multipart, "video/mp4"), accept
    for accept in ("image/jpeg", "video/webm", "video/mp4;q=0", "multipart/related; type=image/jpeg"):
        with pytest.raises(NotAcceptable, match="video/mp4"):
            choose_rendered(parse_accept(accept), ["video/mp4"], several=False)


FILE = "application/dicom"


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("", FILE), ("*/*", FILE), ("application/*", FILE), ("application/json, text/plain, */*", FILE),
        ("application/dicom, image/jpeg;q=0.9", FILE), ("image/jls, application/dicom;q=0.1", FILE),
        ("image/png", "image/png"), ("image/*", "image/jpeg"), ("image/gif, image/png", "image/gif"),
        ("image/gif;q=0.5, image/png;q=0.6", "image/png"), ("image/webp, image/png;q=0.1", "image/png"),
        ("application/dicom;q=0.5, image/png", "image/png"),
        # Image elements and windows of browsers, newer and older ones.
        ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", "image/jpeg"),
        ("image/avif,image/webp,*/*", "image/jpeg"), ("image/png,image/*;q=0.8,*/*;q=0.5", "image/png"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", "image/jpeg"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "image/jpeg"),
        ("text/html", None), ("image/webp", None), ("application/json", None), ("image/png;q=0", None),
        ("multipart/related; type=image/png", None), ("application/dicom+json", None), ("text/plain;q=0, x/y", None),
    ],
)  # fmt: skip
def test_what_wado_uri_gives(accept, given):
    if given is None:
        with pytest.raises(NotAcceptable, match=r"given here are image/jpeg.*application/dicom: not what Accept names"):
            choose_uri(parse_accept(accept), MEDIA_TYPES, default=FILE)
    else:
        assert choose_uri(parse_accept(accept), MEDIA_TYPES, default=FILE) == given


def test_what_wado_uri_gives_by_the_standard():
    for accept, expected in (
        ("", "image/jpeg"), ("*/*", "image/jpeg"), ("application/dicom", FILE), ("image/jls, image/png", "image/png"),
        ("image/jls,application/dicom,image/png", FILE),
    ):  # fmt: skip
        assert choose_uri(parse_accept(accept), MEDIA_TYPES) == expected
    assert choose_uri((), ()) == FILE


PIECES = [*MEDIA_TYPES, "*/*", "image/*", "multipart/related", ";q=0", ";", ",", "type=", "application/dicom"]


@given(
    st.text(max_size=60) | st.lists(st.sampled_from([*PIECES, ";transfer-syntax=*"]), max_size=8).map("".join),
    st.booleans(),
)
@settings(max_examples=300)
def test_any_accept(accept, several):
    try:
        form = choose_rendered(parse_accept(accept), MEDIA_TYPES, several=several)
    except NotAcceptable:
        return
    except ValueError as error:
        assert "rendered" in str(error)  # noqa: PT017
        return
    assert form.media_type in MEDIA_TYPES
    assert form.multipart or not several
