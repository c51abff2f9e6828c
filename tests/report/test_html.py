"""A run as a page: opened in a browser, wide and narrow, light and dark; its numbers; and that no name becomes markup."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdiff.commands.main import main
from kdiff.config.training import TrainConfig
from kdiff.files.atomic import read_json, write_json
from kdiff.report.markup import VOID, Markup, document, element
from kdiff.report.page import duration, spaced, write_page
from kdiff.report.record import names, read_record
from kdiff.report.run_pictures import SampleGrids, draw_run
from kdiff.report.run_text import settings
from kdiff.run.checkpoint import list_checkpoints, record_again
from kdiff.run.contents import record_settings
from kdiff.run.metrics import read_metrics
from kdiff.training.trainer import train_run

CONFIG = TrainConfig(
    data="digits",
    network="MLP(width=8, depth=1)",
    steps=8,
    batch_size=16,
    log_every=1,
    sample_every=2,
    target="learned(rate=50)",
)
HOSTILE = "<script>window.hit=1</script><img src=x onerror='window.hit=1'>&\"{}"


class Page(HTMLParser):
    """What a page holds; fails where an element is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.numbers: list[float] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "data":
            self.numbers.append(float(dict(attrs)["value"] or "nan"))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, the first with pictures, figures with floors, and a sweep; read only."""
    folder = tmp_path_factory.mktemp("runs")
    draw_run(train_run(CONFIG, folder / "learned", on_sample=SampleGrids()))
    train_run(replace(CONFIG, target="velocity", steps=6), folder / "velocity")
    assert main(["evaluate", str(folder / "learned"), "--num-samples", "400", "--exact", "false"]) == 0
    assert main(["sweep", str(folder / "learned"), "--steps", "1", "2", "--num-samples", "400"]) == 0
    return folder


@pytest.fixture(scope="module")
def pages(runs: Path) -> Path:
    """The first run's page, beside the second."""
    assert main(["report", str(runs / "learned"), "--compare", str(runs / "velocity")]) == 0
    return runs / "learned" / "report.html"


# What it says


def test_a_page_is_whole_and_asks_for_nothing(pages) -> None:
    page = read(pages.parent)
    assert len(page.all("h1")) == 1
    assert [tag for tag, _ in page.elements if tag in ("script", "iframe", "object", "form")] == []
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "style"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    assert "url(" not in "".join(page.text)
    pictures = page.all("img")
    assert all(image["alt"] and int(image["width"] or 0) > 100 and int(image["height"] or 0) > 100 for image in pictures)
    steps = [int(match[1]) for image in pictures if (match := re.fullmatch(r"Samples at step (\d+)", image["alt"] or ""))]
    assert sorted(steps) == [2, 4, 6, 8]
    assert sum("of learned" in (image["alt"] or "") or "of velocity" in (image["alt"] or "") for image in pictures) == 2
    assert not list(pages.parent.glob(".report*"))


def test_the_numbers_are_those_that_were_measured(pages) -> None:
    page = read(pages.parent)
    rows = read_metrics(pages.parent / "metrics.jsonl")
    assert len(rows) == 8
    # Few enough to be shown one by one, every digit.
    for row in rows:
        assert {value for name, value in row.items() if name != "step"} <= set(page.numbers)
    other = read_metrics(pages.parent.parent / "velocity" / "metrics.jsonl")[-1]
    assert {other["k"], other["loss"]} <= set(page.numbers)
    result = read_json(pages.parent / "evaluation.json")
    figures = [figure for judged in result["samplers"].values() for figure in judged["figures"].values()]
    assert figures
    for figure in [*figures, *result["heldout"].values()]:
        assert figure["value"] in page.numbers
    found = read_json(next((pages.parent / "sweeps").glob("*/sweep.json")))
    assert {setting["value"] for setting in found["settings"]} <= set(page.numbers)
    said = "".join(page.text)
    for fact in (
        "digits",
        "MLP(width=8, depth=1)",
        "learned(rate=50)",
        "balanced, weight over time: log",
        read_json(pages.parent / "data.json")["fingerprint"],
    ):
        assert fact in said


def test_settings_that_differ_are_named_and_no_others(pages) -> None:
    text = pages.read_text(encoding="utf-8")
    box = text[text.index('aria-label="Settings that differ"') :]
    rows = re.findall(
        r'<th scope="row">(.*?)</th><td><code>(.*?)</code></td><td><code>(.*?)</code>', box[: box.index("</table>")]
    )
    assert rows == [("steps", "8", "6"), ("target", "learned(rate=50)", "velocity")]


def test_settings_are_read_part_by_part(runs, tmp_path) -> None:
    """One that says what data it expects, and how it is sampled from, beside one that does not."""
    run = Path(shutil.copytree(runs / "learned", tmp_path / "run"))
    values = yaml.safe_load((run / "config.yaml").read_text())
    values["sampling"]["steps"], values["expects"] = 7, {"shape": [1, 8, 8], "num_classes": 10, "num_samples": 0}
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    write_page(run, runs / "learned")
    text = (run / "report.html").read_text(encoding="utf-8")
    rows = re.findall(r'<th scope="row">([a-z._]+)</th><td><code>(.*?)</code></td><td><code>(.*?)</code>', text)
    assert ("sampling.steps", "7", "18") in rows
    assert ("expects.num_classes", "10", "None") in rows
    assert settings(replace(CONFIG, start_from={"name": "sit", "weights": "a.pt"}))["start_from"] == "sit(weights='a.pt')"
    assert settings(CONFIG)["start_from"] == "None"


def test_figures_by_features_have_their_intervals(runs, tmp_path) -> None:
    pytest.importorskip("torch_fidelity")
    run = Path(shutil.copytree(runs / "learned", tmp_path / "run"))
    argv = ["evaluate", str(run), "--features", "classifier", "--num-samples", "40", "--steps", "2"]
    with pytest.warns(UserWarning, match="too few"):
        assert main(argv) == 0
    result = read_json(next((run / "evaluations").glob("*/classifier.json")))
    write_page(run)
    page = read(run)
    for figure in result["figures"].values():
        assert {figure["value"], *(figure["interval"] or ())} <= set(page.numbers)
    assert any("too few" in text for text in page.text)


def test_a_run_without_k_and_one_of_which_only_metrics_are_there(runs, tmp_path) -> None:
    run = train_run(replace(CONFIG, target="general(a=1, b=2)", steps=2), tmp_path / "general")
    write_page(run.folder)
    assert "k through training" not in read(run.folder).text
    assert len(read(run.folder).all("img")) == 2, "samples and denoising were drawn for the page"
    bare = Path(shutil.copytree(runs / "learned", tmp_path / "bare", ignore=shutil.ignore_patterns("*.png", "checkpoints")))
    with pytest.warns(UserWarning, match="does not show the checkpoint of .*bare has no checkpoint yet"):
        write_page(bare)
    assert any("no checkpoint" in text for text in read(bare).text)
    assert read(bare).all("img") == []


def test_k_of_time_has_a_line_for_each_of_its_times(tmp_path) -> None:
    run = train_run(replace(CONFIG, target="learned_of_time", steps=3), tmp_path / "run")
    write_page(run.folder)
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    legend = text[text.index("k through training") :]
    shown = re.findall(r'<li><span class="swatch [\w ]+"></span>(k[^ ]*) ', legend[: legend.index("</ul>")])
    assert set(shown) == {name for name in run.metrics()[-1] if name.startswith("k")}
    assert len(shown) == 6


@pytest.mark.parametrize("what", ["nothing", "itself", "damaged"])
def test_what_cannot_be_shown_is_refused(what, runs, tmp_path, capsys) -> None:
    run = Path(shutil.copytree(runs / "velocity", tmp_path / "run"))
    (run / "evaluation.json").write_text(
        "{" if what == "damaged" else json.dumps(read_json(runs / "learned" / "evaluation.json"))
    )
    folder = tmp_path / "none" if what == "nothing" else run
    assert main(["report", str(folder), *(["--compare", str(run)] if what == "itself" else [])]) == 2
    error = capsys.readouterr().err
    assert {"nothing": "not a run folder", "itself": "are the same run", "damaged": "evaluation.json is damaged"}[what] in error
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("what", ["itself", "other", "none"])
def test_a_checkpoint_that_cannot_be_shown_is_named_in_one_line(what, runs, tmp_path, capsys) -> None:
    run, other = (Path(shutil.copytree(runs / name, tmp_path / name)) for name in ("velocity", "learned"))
    wrong = other if what == "other" else run
    weights = list_checkpoints(wrong / "checkpoints")[-1] / "model.safetensors"
    if what == "none":
        shutil.rmtree(wrong / "checkpoints")
    else:
        weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="the page does not show") as warned:
        assert main(["report", str(run), "--compare", str(other)]) == 0
    (line,) = {str(each.message) for each in warned}
    shown = "has no checkpoint yet" if what == "none" else f"{weights} is truncated"
    assert line.startswith(f"the page does not show the checkpoint of {wrong}: ")
    assert shown in line
    assert "\n" not in line
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"


def test_names_are_as_long_as_tells_runs_apart(runs) -> None:
    one, two = read_record(runs / "learned"), read_record(runs / "velocity")
    assert names(one, two) == ("learned", "velocity")
    seeds = [replace(one, folder=Path("runs") / name / "seed_0") for name in ("learned", "data")]
    assert names(*seeds) == ("learned/seed_0", "data/seed_0")


def test_nothing_of_the_users_becomes_markup(runs, tmp_path) -> None:
    run = Path(shutil.copytree(runs / "learned", tmp_path / HOSTILE.replace("/", "")))
    data = read_json(run / "data.json")
    write_json(run / "data.json", {**data, "name": HOSTILE, "class_names": [HOSTILE], "fingerprint": HOSTILE})
    record_again(list_checkpoints(run / "checkpoints")[-1], **record_settings(run))
    write_json(run / "environment.json", {**read_json(run / "environment.json"), "command": HOSTILE})
    result = read_json(run / "evaluation.json")
    write_json(run / "evaluation.json", {**result, "weights": HOSTILE})
    write_page(run, runs / "velocity")
    page = read(run)
    assert page.all("script") == []
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert sum(HOSTILE in text for text in page.text) >= 5
    assert all((image["src"] or "").startswith("data:image/png") for image in page.all("img"))


def test_words_for_numbers() -> None:
    assert [duration(seconds) for seconds in (5, 90, 5400)] == ["5 s", "1.5 min", "1.5 h"]
    assert spaced(list(range(100)), 4) == [0, 33, 66, 99]  # type: ignore[arg-type, comparison-overlap]


# In a browser

CONTRAST = """() => {
  const parse = text => { const c = text.match(/[\\d.]+/g).map(Number); return c.length < 4 ? [...c, 1] : c; };
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => linear(v / 255)); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => {
    for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; }
    return [255, 255, 255, 1];
  };
  const found = [];
  for (const box of document.querySelectorAll('details')) box.open = true;
  for (const e of document.body.querySelectorAll('*')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const style = getComputedStyle(e), own = e.namespaceURI.endsWith('svg') ? style.fill : style.color;
    const pair = [parse(own), behind(e)].map(light);
    found.push([(Math.max(...pair) + .05) / (Math.min(...pair) + .05), e.tagName + ': ' + e.textContent.slice(0, 40)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield running
        running.close()


def opened(browser: Any, path: Path, width: int = 1200, scheme: str = "light") -> tuple[Any, list[str], list[str]]:
    """A page, what its console said, and what it asked for besides itself."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri(), wait_until="load")
    return page, said, [url for url in asked if url != path.as_uri() and not url.startswith("data:")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_the_page(browser, pages, width, scheme) -> None:
    page, said, asked = opened(browser, pages, width, scheme)
    assert said == []
    assert asked == []
    seen = page.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width])")
    assert len(seen) == len(read(pages.parent).all("img")) >= 7
    assert all(complete and natural > 0 and shown > 100 for complete, natural, shown in seen)
    contrast = page.evaluate(CONTRAST)
    assert len(contrast) > 100
    assert [each for each in contrast if each[0] < 4.5] == []
    # With all details open, as the contrast left them.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        "[...document.querySelectorAll('h1, h2, p, figure, dl, svg, summary')].filter(e => !e.closest('.scroll')"
        " && e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []
    assert page.locator("h1").inner_text() == "learned"
    page.close()


def test_light_and_dark_are_two(browser, pages) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        page, _, _ = opened(browser, pages, scheme=scheme)
        colours.add(
            page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color].join()")
        )
        page.close()
    assert len(colours) == 2


def test_a_curve_is_as_wide_as_the_page_lets_it_be(browser, pages) -> None:
    widths = []
    for width in (390, 1200):
        page, _, _ = opened(browser, pages, width)
        box, path = (page.locator(f".plot {part}").last.bounding_box() for part in ("> svg", "path"))
        # From the first of eight steps to the last.
        assert path["width"] == pytest.approx(box["width"] * 7 / 8, rel=0.05)
        widths.append(box["width"])
        page.close()
    assert widths[1] > 2 * widths[0]


def test_hostile_names_run_nothing_and_the_policy_stops_what_would_ask(browser, runs, tmp_path) -> None:
    run = Path(shutil.copytree(runs / "velocity", tmp_path / "run"))
    write_json(run / "data.json", {**read_json(run / "data.json"), "name": HOSTILE})
    write_page(run)
    page, said, asked = opened(browser, run / "report.html")
    assert (said, asked, page.evaluate("window.hit")) == ([], [], None)
    page.close()
    planted = tmp_path / "planted.html"
    planted.write_text(document("planted", Markup(HOSTILE), element("img", src="http://127.0.0.1:9/x.png", alt="")))
    page, said, _ = opened(browser, planted)
    assert any("Content Security Policy" in line for line in said), "the check sees what a page is refused"
    assert page.evaluate("window.hit") is None
    page.close()
