"""The report in a real browser (make test-browser): headless Chromium; whatever it says or asks for is written down."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

from pcace_dist.artifacts.run import open_run
from pcace_dist.config.job import parse_job
from pcace_dist.reporting import trust
from pcace_dist.reporting.glossary import GLOSSARY
from pcace_dist.run.rank import run_job
from tests.reporting.browser import Tab, open_browser
from tests.reporting.conftest import Reported, quietly, square_job
from tests.reporting.image_text import MEANING
from tests.reporting.opened import OpenedReport
from tests.reporting.square import GROUPS, RING, SQUARE
from tests.reporting.test_history import write_schedule
from tests.reporting.test_trust import SOUTH, write_evaluated
from tests.reporting.test_words import MODEL
from tests.whole_jobs import jobs_without_ray

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def tab(browser: Any, squares: Reported) -> Iterator[Tab]:
    opened = Tab(browser, squares.page)
    yield opened
    opened.page.close()


TITLES = ["Overview", "Ranking", "Channels", "Class evidence", "Concepts", "Trust", "Groups", "Map", "Comparison"]
HEADINGS = [
    "Which channels tell the most",
    "Ranking",
    "Channel look/",
    "Class evidence",
    "Suggested names",
    "Trust",
    "Across groups",
    "Map",
    "Against another run",
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_every_view_draws_without_a_word_or_a_request(browser: Any, squares: Reported, width: int, scheme: str) -> None:
    tab = Tab(browser, squares.page, width=width, scheme=scheme)
    assert tab.texts("nav a") == TITLES
    for title in TITLES:
        tab.view(title)
        tab.wait_for_charts()
        assert tab.page.locator("main section").count() >= 1
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width, f"{title} is wider than the screen"
        for image in tab.page.locator("main img").all():
            assert image.get_attribute("alt") is not None
        assert tab.violations() == [], title
    assert tab.said == []
    assert tab.outside == []
    ground = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in ground[4:-1].split(",")[:3]) / 3
    assert (brightness < 60) == (scheme == "dark")
    tab.page.close()


def test_choosing_a_group_changes_the_ranking(tab: Tab) -> None:
    tab.view("Ranking")
    before = tab.texts("#ranking tbody tr")
    tab.page.select_option("#group", index=1)
    tab.page.wait_for_function(
        "text => document.querySelector('#ranking tbody').innerText !== text", arg="\n".join(before)
    )
    after = tab.texts("#ranking tbody tr")
    assert len(after) == len(before) == 4 and after != before


def test_choosing_a_target_changes_the_ranking(tab: Tab) -> None:
    tab.view("Ranking")
    before = tab.texts("#ranking tbody tr")
    tab.page.select_option("#target", index=1)
    assert tab.texts("#ranking tbody tr") != before


def test_the_table_sorts_and_searches(tab: Tab) -> None:
    tab.view("Ranking")
    assert tab.texts("#ranking tbody tr td:first-child") == ["1", "2", "3", "4"]
    tab.page.click("th[data-key=rank] button")
    assert tab.texts("#ranking tbody tr td:first-child") == ["4", "3", "2", "1"]
    assert tab.page.get_attribute("th[data-key=rank]", "aria-sort") == "descending"
    tab.page.click("th[data-key=name] button")
    assert tab.texts("#ranking tbody tr a") == ["look/0", "look/1", "look/2", "look/3"]
    tab.page.fill("#search", "look/2")
    assert tab.texts("#ranking tbody tr a") == ["look/2"]
    tab.page.fill("#search", "nothing like it")
    assert tab.texts("#ranking tbody tr a") == []


def test_a_channel_of_the_ranking_shows_its_pictures(tab: Tab) -> None:
    tab.view("Ranking")
    tab.page.click("#ranking >> text=look/0")
    tab.page.wait_for_selector("#channel h1")
    assert tab.texts("#channel h1") == ["Channel look/0"]
    assert tab.page.locator("figure:has-text('Images that activate it most') img.under").count() == 8
    loaded = "images => images.every(image => image.complete && image.naturalWidth > 0)"
    tab.page.wait_for_function(f"({loaded})([...document.querySelectorAll('#channel img')])")


def test_a_point_of_the_overview_opens_its_channel(tab: Tab) -> None:
    tab.wait_for_charts()
    points = tab.page.locator(".plot").first.locator(".scatterlayer .point")
    assert points.count() == 4
    points.nth(1).hover(force=True)
    box = points.nth(1).bounding_box()
    tab.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.page.wait_for_selector("#channel h1")
    assert tab.texts("#channel h1")[0].startswith("Channel look/")


def test_the_first_picture_is_score_against_effect_with_named_corners(tab: Tab) -> None:
    tab.wait_for_charts()
    first = tab.page.locator("figure").first
    assert first.locator("h3").inner_text() == "What channels tell, and what the model does with them"
    named = " ".join(first.locator(".annotation").all_text_contents())
    for corner in ("tells and does:", "look here", "a witness", "a part of a team", "neither"):
        assert corner in named
    counts = [int(text.rpartition("(")[2].rstrip(")")) for text in tab.texts("#corners button")]
    assert sum(counts) == 4
    tab.page.click("#corners button >> nth=0")
    tab.page.wait_for_selector("#ranking")
    assert len(tab.texts("#ranking tbody tr")) == counts[0]
    tab.page.click("#clear-filters")
    tab.page.select_option("#target", index=1)  # a column: the model does nothing with it
    tab.view("Overview")
    assert tab.texts("figure h3")[0] == "Score of every channel, by layer"


def test_filters_act_on_every_view_and_stand_in_the_address(browser: Any, tab: Tab, squares: Reported) -> None:
    tab.view("Ranking")
    scores = sorted((float(text) for text in tab.texts("#ranking tbody td:nth-child(4)")), reverse=True)
    tab.page.click("#filters summary")
    tab.page.fill("#filter-score", str(scores[1] - 0.0005))
    tab.page.press("#filter-score", "Tab")
    assert tab.texts("#shown") == ["2 of 4 channels"] and len(tab.texts("#ranking tbody tr")) == 2
    tab.view("Overview")
    tab.wait_for_charts()
    points = "document.querySelectorAll('.plot')[%d].querySelectorAll('.scatterlayer .point').length"
    assert [tab.page.evaluate(points % number) for number in range(3)] == [2, 2, 2]
    tab.view("Channels")
    assert len(tab.texts("#channel-picker option")) == 2
    assert "?score=" in tab.page.url
    again = browser.new_page()
    again.goto(tab.page.url.replace("#channel", "#ranking"))
    again.wait_for_selector("#ranking")
    assert again.locator("#ranking tbody tr").count() == 2
    again.close()
    tab.page.fill("#search", "look/2 look/3")
    assert tab.texts("#shown") == ["0 of 4 channels"]
    for title in TITLES:
        tab.view(title)
        tab.wait_for_charts()
    assert tab.said == []
    tab.page.click("#clear-filters")
    assert tab.texts("#shown") == ["4 of 4 channels"] and "?" not in tab.page.url


def test_filters_act_on_class_evidence_and_the_map(tab: Tab) -> None:
    ranked = "figure:has-text('Grad-CAM beside') .strip .tile:nth-child(3) img.over"
    bars = ".plot .barlayer .point"
    tab.view("Class evidence")
    tab.wait_for_charts()
    of_all = tab.page.locator(ranked).first.get_attribute("src")
    assert tab.page.locator(bars).count() == 4 and "the 4 best channels" in tab.texts("figcaption")[0]
    tab.page.fill("#search", "look/0")
    tab.wait_for_charts()
    assert tab.page.locator(bars).count() == 1 and "pass the filters (1)" in tab.texts("figcaption")[0]
    assert tab.page.locator(ranked).first.get_attribute("src") != of_all
    tab.page.fill("#search", "nothing like it")
    assert tab.page.locator(ranked).count() == 0 and "passes the filters" in tab.texts("main .empty")[0]
    tab.view("Map")
    channels = "#map-value option:has-text('mean activation')"
    assert tab.page.locator(channels).count() == 0
    tab.page.fill("#search", "look/2")
    assert tab.texts(channels) == ["mean activation of look/2"]
    assert tab.said == []


def test_the_focus_goes_to_the_view_and_stays_on_a_choice(tab: Tab) -> None:
    focused = "document.activeElement.id"
    tab.page.focus("nav >> text=Map")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#map-value")
    assert tab.page.evaluate(focused) == "main"
    tab.page.focus("#map-value")
    tab.page.select_option("#map-value", index=1)
    assert tab.page.evaluate(focused) == "map-value"


def test_the_csv_of_the_ranking_holds_what_is_shown(tab: Tab) -> None:
    tab.view("Ranking")
    tab.page.fill("#search", "look/2")
    with tab.page.expect_download() as download:
        tab.page.click("#ranking-csv")
    with Path(download.value.path()).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["target"], row["layer"], row["channel"]) for row in rows] == [("logit:label", "look", "2")]
    assert rows[0]["region"] in GROUPS and float(rows[0]["effect_low"]) <= float(rows[0]["effect_high"])


def test_trust_shows_the_top_stability_evaluation_and_sets(
    browser: Any, squares: Reported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "TOP", 2)  # of four channels
    write_evaluated(squares.run, tmp_path / "run")
    tab = Tab(browser, Path(quietly(tmp_path / "run", top=1, synthesis=False).path))
    tab.page.select_option("#group", label=SOUTH)
    tab.view("Trust")
    tab.wait_for_charts()
    assert tab.texts("main h2") == ["Top", "Stability", "Evaluation", "Sets"]
    assert any(
        text.startswith("In the true top 2, that of more images and another pilot, are surely")
        for text in tab.texts("main p")
    )
    assert tab.texts("#sets tbody tr a") == ["0", "2"] and "Trust pcace." in tab.texts("main p")
    tab.page.click("#sets tbody a >> nth=0")
    tab.page.wait_for_selector("#channel h1")
    assert tab.texts("#channel h1") == ["Channel look/0"] and tab.said == []
    tab.page.close()


def test_a_run_of_a_schedule_shows_its_history(browser: Any, squares: Reported, tmp_path: Path) -> None:
    write_schedule(squares, tmp_path / "weekly")
    tab = Tab(browser, Path(quietly(tmp_path / "weekly", top=1, synthesis=False).path))
    tab.view("Comparison")
    tab.wait_for_charts()
    assert tab.texts("main h2") == ["Against another run", "History"]
    assert tab.texts("#history tbody td:nth-child(3)") == ["new weights", "other data", "first run"]
    assert tab.page.locator("figure:has-text('Scores of the best channels') .scatterlayer .trace").count() == 4
    assert tab.violations() == [] and tab.said == []
    assert "This run ended on" in tab.texts("footer")[0]
    tab.page.close()


@pytest.fixture(scope="module")
def concepts(squares: Reported) -> Reported:
    """A run whose targets are three columns, named by an image-text model."""
    run, columns = squares.run.parent / "concepts", ("amount", "left", "top")
    with jobs_without_ray():
        target = [{"column": name} for name in columns]
        assert run_job(parse_job(square_job(squares.data, run, target=target, group_by=None))) == 0
    words = tuple(MEANING)
    return Reported(run, squares.data, quietly(run, synthesis=False, labels=MODEL, words=words))


@pytest.mark.parametrize("width", [1280, 400])
def test_concepts_show_columns_against_channels_and_names(browser: Any, concepts: Reported, width: int) -> None:
    tab = Tab(browser, concepts.page, width=width)
    tab.view("Concepts")
    tab.wait_for_charts()
    assert tab.texts("main h2") == ["Columns", "Suggested names"]
    cells = tab.page.evaluate("document.querySelector('.plot').data[0].z")
    ranking = open_run(str(concepts.run)).ranking()
    scores = ranking["score"].to_numpy().reshape(3, 4)  # target, channel
    assert np.allclose(cells, scores, atol=1e-6)
    assert " to " in tab.page.evaluate("document.querySelector('.plot').data[0].text[0][0]")  # its interval
    best = ranking.filter(pc.equal(ranking["rank"], 1))["channel"].to_pylist()
    buttons = [row.split()[0] for row in tab.texts("#concept-columns tbody td:nth-child(2)")]
    assert buttons == [f"look/{channel}" for channel in best]
    names = dict(zip(tab.texts("#names td:first-child"), tab.texts("#names td:nth-child(2)"), strict=True))
    assert names["look/0"].startswith(("a bright square (AUC 0.9", "a bright square (AUC 1.00"))
    assert tab.violations() == [] and tab.said == []
    tab.page.fill("#search", "look/0")
    tab.wait_for_charts()
    assert tab.page.evaluate("document.querySelector('.plot').data[0].z.map(row => row.length)") == [1, 1, 1]
    tab.page.click("#concept-columns button")
    tab.page.wait_for_selector("#suggested")
    assert "May be called a bright square" in tab.texts("#suggested")[0]
    tab.page.close()


def test_terms_say_what_they_are(tab: Tab) -> None:
    tab.view("Ranking")
    for heading in tab.page.locator("#ranking th").all():
        assert len(heading.get_attribute("title") or "") > 15
    tab.view("Channels")
    effect = tab.page.locator(".term:text-is('Effect: does')").get_attribute("title")
    assert "share of the target's variance" in (effect or "")
    tab.view("Trust")
    pilots = tab.page.locator("main p .term:text-is('pilot')")
    assert pilots.count() == 1 and pilots.get_attribute("title") == GLOSSARY["pilot"]  # where it is used first
    listed = tab.page.locator("#terms dt").all_text_contents()
    ends = {name.replace("_", " ") for name in GLOSSARY if name.endswith(("_low", "_high", "_plan"))}
    assert set(listed) == {name.replace("_", " ") for name in GLOSSARY} - ends and len(ends) == 12


def test_few_images_are_said_beside_the_number(tab: Tab) -> None:
    assert "few images: intervals are of use from 250 on" in tab.texts("main section p")[0]


def test_map_mode_darkens_photographs_only(tab: Tab) -> None:
    tab.page.evaluate("location.hash = '#channel/0/0/look%2F0'")
    tab.page.wait_for_selector("#channel h1")
    tab.page.click("#channel button[data-value=map]")
    look = "element => getComputedStyle(element).filter"
    for title, dark in (("Synthetic image", False), ("Principal axes", False), ("Images that activate", True)):
        picture = tab.page.locator(f"figure:has-text('{title}') img.under").first
        assert (picture.evaluate(look) != "none") == dark


def test_on_a_narrow_screen_the_active_tab_is_visible(browser: Any, squares: Reported) -> None:
    tab = Tab(browser, squares.page, width=400)
    for title in reversed(TITLES):
        tab.page.keyboard.press(str(TITLES.index(title) + 1))
        tab.page.wait_for_function(
            "title => document.querySelector('nav [aria-current]').textContent === title", arg=title
        )
        box = tab.page.locator("nav [aria-current]").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 400
    tab.page.close()


def test_a_page_without_ranked_channels_says_why(browser: Any, unranked: Reported) -> None:
    tab = Tab(browser, unranked.page)
    assert "no channel is ranked" in tab.texts("#notes p")[0]
    assert "No channel is ranked" in tab.texts("main .empty")[0]
    assert tab.page.locator("figure").count() == 1  # where the time went
    for title in ("Ranking", "Channels"):
        tab.view(title)
    tab.page.keyboard.press("ArrowRight")
    assert tab.said == []
    tab.page.close()


def test_the_overlay_on_the_screen_is_bright_on_the_square(tab: Tab, squares: Reported) -> None:
    opened = OpenedReport(squares.page)
    tile = opened.channel("look", 0)["exemplars"][0]
    image = opened.image(tile["row"])
    inside = np.kron(image > 0.5, np.ones((4, 4), bool))
    tab.page.evaluate("location.hash = '#channel/0/0/look%2F0'")
    tab.page.wait_for_selector("#channel h1")
    tab.page.click("#crop")

    def glow() -> float:
        stack = tab.page.locator("figure:has-text('Images that activate it most') .stack").first
        shot = Image.open(io.BytesIO(stack.screenshot())).convert("RGB").resize((128, 128))
        colour = np.asarray(shot, np.float64)
        warmth = colour[..., 0] - colour[..., 2]  # the overlay is red to yellow, the image grey
        return float(warmth[inside].mean() - warmth[~inside].mean())

    assert inside.sum() == (4 * SQUARE) ** 2
    assert glow() > 25
    tab.page.click("#channel button[data-value=image]")
    assert glow() < 1  # the frame of the field is warm too, and lies around the square


def brightness(tab: Tab, stack: Any) -> np.ndarray:
    tab.page.wait_for_function("image => image.complete", arg=stack.locator("img.under").element_handle())
    shot = Image.open(io.BytesIO(stack.screenshot())).convert("L").resize((130, 130))
    return np.asarray(shot, np.float64) / 255


def test_an_exemplar_is_a_crop_that_holds_the_square_and_a_click_or_a_key_shows_the_whole(tab: Tab) -> None:
    tab.page.evaluate("location.hash = '#channel/0/0/look%2F0'")
    tab.page.wait_for_selector("#channel h1")
    tab.page.click("#channel button[data-value=image]")
    stack = tab.page.locator("figure:has-text('Images that activate it most') .stack").first

    def share() -> float:
        return float((brightness(tab, stack) > 0.4).mean())

    cut, whole = (SQUARE / (RING + 1)) ** 2, (SQUARE / 32) ** 2
    assert share() > 0.85 * cut
    stack.click()
    assert abs(share() - whole) < 0.04 and stack.locator(".field").is_visible()
    tab.page.keyboard.press("Enter")  # it has the focus
    assert share() > 0.85 * cut
    tab.page.click("#crop")
    assert abs(share() - whole) < 0.04
    tab.page.click("#channel button[data-value=attribution]")
    found = stack.locator("img.attribution").bounding_box()
    outer = stack.bounding_box()
    assert found["width"] == pytest.approx(outer["width"] * (RING + 1) / 32, abs=2)
    assert tab.said == []


def test_an_exemplar_of_a_token_is_its_patch(browser: Any, squares_vit: Reported) -> None:
    tab = Tab(browser, squares_vit.page)
    tab.page.evaluate("location.hash = '#channel/0/0/vit.embeddings%2F0'")
    tab.page.wait_for_selector("#channel h1")
    tab.page.click("#channel button[data-value=image]")
    stacks = tab.page.locator("figure:has-text('Images that activate it most') .stack")
    assert stacks.count() == 8
    shares = [float((brightness(tab, stacks.nth(number)) > 0.4).mean()) for number in range(8)]
    tiles = OpenedReport(squares_vit.page).channel("vit.embeddings", 0)["exemplars"]
    for share, tile in zip(shares, tiles, strict=True):  # the value of the patch is its brightness
        assert share > 0.2, tile
    assert np.mean(shares) > 0.5 and tab.said == []
    tab.page.close()


def test_the_keyboard_alone_is_enough(tab: Tab) -> None:
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.className") == "skip"
    tab.page.keyboard.press("2")
    tab.page.wait_for_selector("#ranking")
    tab.page.keyboard.press("/")
    assert tab.page.evaluate("document.activeElement.id") == "search"
    tab.page.keyboard.type("look")
    tab.page.keyboard.press("Escape")
    tab.page.keyboard.press("3")
    tab.page.wait_for_selector("#channel h1")
    before = tab.texts("#channel h1")
    tab.page.keyboard.press("ArrowRight")
    tab.page.wait_for_function("text => document.querySelector('#channel h1').innerText !== text", arg=before[0])


def test_figures_are_saved_as_png_and_csv(tab: Tab) -> None:
    tab.page.evaluate("location.hash = '#channel/0/0/look%2F0'")
    tab.page.wait_for_selector("#channel h1")
    tab.wait_for_charts()
    for figure in ("Images that activate it most", "theta of the target"):
        for kind, begins in (("PNG", b"\x89PNG"), ("CSV", b"")):
            with tab.page.expect_download() as download:
                tab.page.locator(f"figure:has-text('{figure}') >> text={kind}").first.click()
            data = Path(download.value.path()).read_bytes()
            assert data.startswith(begins) and len(data) > 100
            assert download.value.suggested_filename.endswith("." + kind.lower())
    assert tab.said == [] and tab.outside == []


def test_hostile_names_are_shown_as_text(tab: Tab) -> None:
    assert tab.texts("#group option") == sorted(GROUPS)
    for title in TITLES:
        tab.view(title)
        tab.wait_for_charts()
        if title == "Groups":  # charts read a little markup in their texts
            assert any("<b>south</b>" in text for text in tab.page.locator(".plot text").all_text_contents())
    assert tab.page.evaluate("window.hacked") is None
    assert tab.page.locator("main img[src=x]").count() == 0


def test_the_switch_turns_light_into_dark(tab: Tab) -> None:
    tab.page.click("#scheme")
    assert tab.page.get_attribute("html", "data-scheme") == "dark"
    tab.page.click("#scheme")
    assert tab.page.get_attribute("html", "data-scheme") == "light"


def printed_text(data: bytes) -> str:
    import pypdf

    return "\n".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(data)).pages)


def test_printing_gives_all_views_in_light_colours(browser: Any, squares: Reported) -> None:
    tab = Tab(browser, squares.page, scheme="dark")
    tab.wait_for_charts()
    text = printed_text(tab.page.pdf())  # what the menu of a browser does
    for words in (
        *HEADINGS,
        "Score against images read",
        "Terms",
        "This run ended on",
        "rank_interval".replace("_", " "),
    ):
        assert words in text
    assert "PNG" not in text and "Search layer" not in text
    assert tab.page.locator("#paper").count() == 0 and tab.page.get_attribute("html", "data-scheme") == "dark"
    tab.page.evaluate("print = () => { window.views = document.querySelectorAll('#paper .view').length; }")
    tab.page.keyboard.press("Control+p")
    tab.page.wait_for_function("window.views")
    undrawn = "document.querySelectorAll('#paper .plot:not([data-drawn])').length"
    tall = "[...document.querySelectorAll('#paper figure')].filter(each => each.offsetHeight > 960).length"
    assert tab.page.evaluate(tall) == 0  # each stands on one page
    assert tab.page.evaluate(undrawn) == 0 and tab.page.evaluate("window.views") == len(TITLES) + 3
    assert tab.said == [] and tab.outside == []
    tab.page.close()


def test_the_report_as_a_pdf(squares: Reported, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = quietly(squares.run, output=str(page), pdf=True, top=1, synthesis=False)
    assert result.pdf == str(tmp_path / "page.pdf")
    text = printed_text(Path(result.pdf).read_bytes())
    for words in HEADINGS[:-1]:  # nothing to compare with
        assert words in text
