import pytest

from metarl.certification.badge import draw_badge


@pytest.mark.parametrize(
    ("share", "text", "colour"),
    [(0.874, "87 %", "#80761a"), (1.0, "100 %", "#2f855a"), (0.0, "0 %", "#b83232")],
)
def test_badge_shows_the_share(share, text, colour):
    badge = draw_badge(share)
    assert f">{text}</text>" in badge and colour in badge
