"""The page as a person meets it: a real browser, both schemes, desk and phone."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from nc_strategies.measuring import shares
from nc_strategies.problem import TrialState
from nc_strategies.report import analysis, comparison, page, vega
from nc_strategies.report.result import as_dict, failed, write, write_json
from nc_strategies.report.run_files import RunFiles
from nc_strategies.report.shown import LIMITS
from nc_strategies.study.study import StudyListener
from nc_strategies.testing import ToyOp

HOSTILE = "</script><img src=x onerror=\"document.title='taken'\">'&\u2028"
OPS = (ToyOp("a", loss=0.001), ToyOp("b", "MatMul", loss=0.05), ToyOp("c"), ToyOp(HOSTILE, loss=0.001))
CHARTS = ["chart-trade-off", "chart-search", "chart-loss", "chart-saved"]
PLACES = list(itertools.product((1280, 390), ("light", "dark")))


class Visit:
    """An opened page, and what it did that it should not."""

    def __init__(self, browser, path, width=1280, scheme="light"):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.trouble, self.requests = [], []
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("dialog", lambda dialog: self.trouble.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.resolve().as_uri())
        self.page.wait_for_function("document.body.dataset.ready || document.body.dataset.error", timeout=120_000)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def marks(self, chart):
        return self.page.locator(f"#{chart} svg path, #{chart} svg line").count()


@pytest.fixture
def run_dir(finished):
    """A finished run whose operators have hostile names, with a failed and a pruned trial."""
    study, setup = finished(ops=OPS, max_trials=16, criterion="absolute", tolerable_loss=0.2)
    write(study, setup)
    analysis.write(study, ["python -m nc_strategies", "strategy=random", "tuning.max_trials=16", "run_dir=x"])
    journal = study.run_dir / "trials.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    chosen = study.final.trial.number
    first, second = [line for line in lines if line["number"] != chosen][:2]
    first.update(state="failed", evaluation=None, accuracy=None, error=f"engine says {HOSTILE}")
    second.update(state="pruned")
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page.write(study.run_dir)
    return study.run_dir


@pytest.mark.parametrize(("width", "scheme"), PLACES)
def test_the_page_is_drawn_whole_fits_and_asks_for_nothing(browser, run_dir, width, scheme):
    with Visit(browser, run_dir / "report.html", width, scheme) as visit:
        assert visit.trouble == []
        assert visit.requests == [(run_dir / "report.html").resolve().as_uri()]
        for chart in CHARTS:
            box = visit.page.locator(f"#{chart} svg").bounding_box()
            assert box["width"] > 250
            assert box["height"] > 60
            assert visit.marks(chart) > 5
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        dark = visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 21, 28)"
        assert dark == (scheme == "dark")


@pytest.mark.parametrize("width", [1280, 390])
def test_a_trial_is_picked_by_keyboard_and_its_configuration_read(browser, run_dir, width):
    with Visit(browser, run_dir / "report.html", width) as visit:
        result = json.loads((run_dir / "result.json").read_text())
        chosen = result["tuned"]["trial"]
        assert f"Trial {chosen} " in visit.page.locator("#picked-title").inner_text()
        other = next(n for n in range(1, 17) if n != chosen)
        button = visit.page.get_by_role("button", name=f"Trial {other}: read its configuration")
        button.focus()
        visit.page.keyboard.press("Enter")
        assert visit.page.locator("#picked-title").inner_text().startswith(f"Trial {other} ")
        assert button.get_attribute("aria-pressed") == "true"
        shown = visit.page.locator("#picked-body").inner_text()
        for op in OPS:
            assert " ".join(op.name.split()) in " ".join(shown.split())
        assert visit.page.evaluate("location.hash") == f"#trial-{other}"
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        visit.page.reload()
        visit.page.wait_for_selector("body[data-ready]")
        assert visit.page.locator("#picked-title").inner_text().startswith(f"Trial {other} ")
        assert visit.trouble == []


def test_a_mark_of_a_chart_picks_its_trial(browser, run_dir):
    with Visit(browser, run_dir / "report.html") as visit:
        before = visit.page.locator("#picked-title").inner_text()
        marks = visit.page.locator("#chart-search .mark-symbol path")
        for i in range(marks.count()):
            marks.nth(i).click(force=True)
            if visit.page.locator("#picked-title").inner_text() != before:
                break
        assert visit.page.locator("#picked-title").inner_text() != before


def test_names_and_errors_from_outside_stay_text(browser, run_dir):
    text = (run_dir / "report.html").read_text()
    assert HOSTILE not in text
    with Visit(browser, run_dir / "report.html") as visit:
        visit.page.locator('button[data-trial="1"]').click()
        assert visit.page.locator("img").count() == 0
        assert visit.page.title().startswith("Goal met")
        assert "onerror" in visit.page.locator("main").inner_text()
        assert visit.trouble == []


def test_states_are_told_apart_by_shape_and_every_chart_has_words(browser, run_dir):
    with Visit(browser, run_dir / "report.html") as visit:
        glyphs = visit.page.locator("#trials .glyph").all_inner_texts()
        assert {"✚", "■"} <= set(glyphs)
        assert len(set(glyphs)) > 2
        shapes = {
            p.get_attribute("d").replace("-", "")
            for p in visit.page.locator("#chart-search .role-legend-symbol path").all()
        }
        assert len(shapes) == len(set(glyphs))
        for chart in CHARTS:
            svg = visit.page.locator(f"#{chart} svg")
            assert svg.get_attribute("role") == "img"
            assert "table of" in svg.get_attribute("aria-label") or chart == "chart-search"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_keep_the_contrast_of_wcag(browser, run_dir, scheme):
    with Visit(browser, run_dir / "report.html", scheme=scheme) as visit:
        names = set(re.findall(r"--([\w-]+):", (page.TEMPLATES / "page.css").read_text()))
        found = visit.page.evaluate(
            """names => Object.fromEntries(names.map(n =>
            [n, getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim()]))""",
            sorted(names),
        )
    pairs = [
        (text, ground, 4.5)
        for text in ("ink", "soft", "accent", "kept", "missed", "pruned", "failed", "goal")
        for ground in ("card",)
    ]
    pairs += [(text, ground, 4.5) for text in ("ink", "soft") for ground in ("paper", "int8-tint", "float-tint")]
    pairs += [("kept", "met-tint", 4.5), ("missed", "missed-tint", 4.5), ("failed", "failed-tint", 4.5)]
    pairs += [(mark, "card", 3.0) for mark in ("front", "int8", "float")]
    for text, ground, least in pairs:
        assert contrast(found[text], found[ground]) >= least, (text, ground)


def contrast(a, b):
    """WCAG 2.2, contrast ratio of two #rrggbb colours."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_the_page_says_what_the_result_says(run_dir):
    text = (run_dir / "report.html").read_text()
    result = json.loads((run_dir / "result.json").read_text())
    assert f"{result['speedup']:.2f} times as fast as fp32" in text
    assert f"top1 at least {result['goal']['threshold']:.4f}" in text
    assert "python -m nc_strategies strategy=random" in text
    assert "run_dir=x" not in text
    for stage in result["seconds"]:
        assert stage in text


def test_a_run_without_a_model_or_without_an_analysis_has_a_page_too(browser, finished, fails):
    study, setup = finished(ops=fails, max_trials=1)
    write(study, setup)
    page.write(study.run_dir)
    with Visit(browser, study.run_dir / "report.html") as visit:
        assert visit.trouble == []
        body = visit.page.locator("body").inner_text()
        assert "No configuration could be measured" in body
        assert "It was not started by a command" in body


@pytest.fixture
def with_front(finished):
    """A finished run with a front of points on both sides of the goal, one of them beside the line."""
    ops = tuple(ToyOp(name, loss=0.01 * 2**place, time_us=60) for place, name in enumerate("abcde"))
    study, setup = finished(ops=ops, max_trials=4, criterion="absolute", tolerable_loss=0.1, front=6)
    result = write(study, setup)
    page.write(study.run_dir)
    return study.run_dir, result["front"]


@pytest.mark.parametrize(("width", "scheme"), PLACES)
def test_a_front_is_a_chart_with_intervals_and_a_table(browser, with_front, width, scheme):
    folder, front = with_front
    points = front["points"]
    with Visit(browser, folder / "report.html", width, scheme) as visit:
        assert visit.trouble == []
        chart = visit.page.locator("#chart-front svg")
        assert chart.bounding_box()["width"] > 250
        assert "table of the front" in chart.get_attribute("aria-label")
        words = chart.locator("text").all_text_contents()
        assert {f"{p['point']} {p['role']}".strip() for p in points} <= set(words)
        assert any(word.startswith("asked: at least") for word in words)
        # The goal, and of each point but fp32 the interval of its loss: those of latencies are 0 on a simulated clock.
        assert chart.locator(".mark-rule.role-mark line").count() == len(points)
        rows = visit.page.locator("#front tbody tr")
        assert rows.count() == len(points)
        for place, p in enumerate(points):
            text = rows.nth(place).inner_text()
            assert f"{p['accuracy']:.4f}" in text
            assert f"{p['speedup']:.2f}" in text
            assert p["role"] in text
        assert visit.page.locator("#front tr.chosen").count() == 1
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_point_of_the_front_shows_its_details_and_picks_its_trial(browser, with_front):
    folder, front = with_front
    other = next(p for p in front["points"] if not p["role"])
    with Visit(browser, folder / "report.html") as visit:
        marks = visit.page.locator("#chart-front .mark-symbol path")
        shown = []
        for i in range(marks.count()):
            marks.nth(i).hover(force=True)
            shown.append(visit.page.locator("#vg-tooltip-element").inner_text())
            marks.nth(i).click(force=True)
            if visit.page.locator("#picked-title").inner_text().startswith(f"Trial {other['trial']} "):
                break
        assert visit.page.locator("#picked-title").inner_text().startswith(f"Trial {other['trial']} ")
        assert any(f"{other['loss']:+.4f}" in text.replace("\u2212", "-") for text in shown)
        assert visit.trouble == []


WORKERS = {
    "workers": 4,
    "batches": {shares.HERE: 60, "node-1.example:4711": 50, HOSTILE: 40},
    "busy_seconds": {shares.HERE: 9.0, "node-1.example:4711": 7.5, HOSTILE: 6.0},
    "idle_shares": {shares.HERE: 0.1, "node-1.example:4711": 0.25, HOSTILE: 0.4},
    "shared_seconds": 10.0,
    "idle_share": 0.4375,
    "lost": 1,
    "dashboard": "http://127.0.0.1:8787/status",
}
UNDER_WAY = {"evaluation": {"done": 41, "batches": 80, "latest": {shares.HERE: 20, HOSTILE: 41}}}


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("running", [True, False])
def test_processes_that_evaluate_are_a_table_with_what_they_do(browser, finished, running, width):
    study, setup = finished()
    study.workers = {**WORKERS, **(UNDER_WAY if running else {})}
    if not running:
        write(study, setup)
    analysis.write(study)
    page.write(study.run_dir, running=running)
    with Visit(browser, study.run_dir / "report.html", width) as visit:
        assert visit.trouble == []
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        assert visit.page.locator("img").count() == 0
        section = visit.page.locator("section:has(#h-workers)")
        rows = [line.inner_text() for line in section.locator("tbody tr").all()]
        assert all(figure in text for figure, text in zip(("60", "50", "40"), rows, strict=True))
        assert all(figure in text for figure, text in zip(("10%", "25%", "40%"), rows, strict=True))
        link = section.get_by_role("link", name="Dask's dashboard")
        assert link.get_attribute("href") == WORKERS["dashboard"]
        words = section.inner_text()
        assert "idle in 44% of that time" in words
        assert "1 of 4 processes returned no batch" in words
        assert "Processes were lost once" in words
        assert ("batch 41 of 80" in rows[2]) is running
        assert ("no batch of this evaluation yet" in rows[1]) is running
        assert ("41 of 80 batches" in words) is running


@pytest.mark.parametrize("link", ["javascript:alert(1)", ""])
def test_only_a_web_address_is_a_link(finished, link):
    study, setup = finished()
    study.workers = {**WORKERS, "dashboard": link}
    write(study, setup)
    assert "Dask's dashboard" not in page.write(study.run_dir).read_text()


def test_a_run_in_one_process_has_no_table_of_processes(run_dir):
    assert "h-workers" not in (run_dir / "report.html").read_text()


def test_the_page_renews_itself_in_mid_trial_when_several_processes_evaluate(watched):
    class Shared(Watcher):
        def trial_started(self, number, stage):
            self._study.workers = {**WORKERS, **UNDER_WAY}
            self.workers(self._study)

    watcher = Shared()
    with watcher:
        watched(watcher)
    # The first, one in each trial, one after each, and the last.
    assert len(watcher.versions) == 10
    assert "has returned batch 41 of 80" in watcher.versions[1]


class Watcher(page.PageWriter):
    """Keeps every version of the page."""

    def __init__(self):
        super().__init__()
        self.versions = []

    def _write(self, study, running):
        super()._write(study, running)
        self.versions.append((study.run_dir / "report.html").read_text())


@pytest.fixture
def watched(finished, monkeypatch):
    """A run on which a writer of pages listens."""
    monkeypatch.setattr(page, "REFRESH_SECONDS", 0)
    monkeypatch.setattr(page, "MAX_TIME_SHARE", 1e9)

    def make(writer):
        return finished(listener=writer, max_trials=4)

    return make


def test_the_page_renews_itself_while_the_run_goes_on_and_not_after(browser, watched, tmp_path):
    watcher = Watcher()
    with watcher:
        study, setup = watched(watcher)
        write(study, setup)
        watcher.finished(study)
    *running, last = watcher.versions
    assert len(running) == 5
    assert all('<meta http-equiv="refresh"' in text for text in running)
    assert 'http-equiv="refresh"' not in last
    assert "data-refresh" not in last
    live = tmp_path / "live.html"
    live.write_text(running[3].replace('data-refresh="0"', 'data-refresh="600"'))
    with Visit(browser, live) as visit:
        assert visit.trouble == []
        assert "3 trials are measured so far" in visit.page.locator("body").inner_text()
        pause = visit.page.get_by_role("button", name="Pause")
        pause.click()
        assert pause.get_attribute("aria-pressed") == "true"


def test_a_run_that_breaks_off_leaves_a_page_that_stands_still(watched):
    watcher = Watcher()
    with watcher:
        watched(watcher)
    assert 'http-equiv="refresh"' not in watcher.versions[-1]
    assert "Unfinished" in watcher.versions[-1]


def test_a_page_that_cannot_be_made_never_breaks_a_run(watched, caplog):
    def broken(*_):
        raise RuntimeError("no page today")

    writer = page.PageWriter(make=broken)
    with writer:
        study, _ = watched(writer)
        writer.finished(study)
    assert study.final is not None
    assert "no page today" in caplog.text


def test_without_the_packages_a_run_ends_well_and_leaves_the_analysis(watched, monkeypatch):
    monkeypatch.setattr(page, "missing", lambda: True)
    writer = page.PageWriter()
    with writer:
        study, _ = watched(writer)
        writer.finished(study)
    assert (study.run_dir / "analysis.json").is_file()
    assert not (study.run_dir / "report.html").exists()
    assert isinstance(writer, StudyListener)
    assert study.count(TrialState.OK) == 4


def test_a_long_run_of_a_large_model_stays_below_three_megabytes(run_dir):
    journal = run_dir / "trials.jsonl"
    line = json.loads(journal.read_text().splitlines()[-1])
    scheme = next(iter(line["config"]["ops"].values()))
    line["config"]["ops"] |= {f"network/block_{i}/convolution/Conv2D": scheme for i in range(150)}
    with journal.open("w") as stream:
        for number in range(1, 401):
            stream.write(json.dumps({**line, "number": number, "state": "ok"}) + "\n")
    assert page.write(run_dir).stat().st_size < 3_000_000


def test_a_run_of_2000_operators_and_1200_trials_has_a_page_that_opens(browser, finished):
    ops = tuple(ToyOp(f"features/stage_{i // 100}/block_{i}/conv", loss=1e-6 * i) for i in range(2000))
    study, setup = finished("large", ops=ops, max_trials=2)
    write(study, setup)
    analysis.write(study)
    rng, last = np.random.default_rng(0), study.trials[-1]
    trials = [*study.trials]
    for number in range(3, 1201):
        config = study.space.sample(rng)
        accuracy = 0.9 - 0.02 * rng.random()
        done = replace(last.evaluation, metrics=(("accuracy", accuracy),), graph=config.fingerprint)
        trials.append(replace(last, number=number, config=config, evaluation=done, note=f"a uniform sample {number}"))
    path = page.write(study.run_dir, trials=trials)
    assert path.stat().st_size < 5_000_000
    with Visit(browser, path) as visit:
        assert not visit.trouble
        assert visit.page.locator("tr[data-trial]").count() == LIMITS.trials
        assert "1,000 of 1,200 trials" in visit.page.locator("#left-out").inner_text()
        for number in (json.loads((study.run_dir / "result.json").read_text())["tuned"]["trial"], 1200):
            visit.page.locator(f'button[data-trial="{number}"]').click()
            assert visit.page.locator("#picked-body tbody tr").count() >= 2000
    whole = {t.number for t in RunFiles.read(study.run_dir, trials=trials).shown}
    assert {1, 1200, 1199} <= whole
    assert len([n for n in whole if 300 < n < 900]) > 100


def test_configurations_beyond_what_a_page_holds_are_left_to_the_journal(browser, run_dir, monkeypatch):
    monkeypatch.setattr(page, "MAX_CHOICES", 3 * len(OPS))
    page.write(run_dir)
    with Visit(browser, run_dir / "report.html") as visit:
        chosen = json.loads((run_dir / "result.json").read_text())["tuned"]["trial"]
        assert visit.page.locator("#picked-body table").count() == 1
        visit.page.locator(f'button[data-trial="{16 if chosen != 16 else 15}"]').click()
        assert "trials.jsonl" in visit.page.locator("#picked-body").inner_text()


def test_a_comparison_is_a_chart_and_a_table(browser, finished, tmp_path):
    study, setup = finished("good", criterion="absolute", tolerable_loss=0.2)
    results = [
        {**as_dict(study, setup), "run": "0"},
        {**failed({"strategy": {"name": HOSTILE}, "backend": {"name": "toy"}}, HOSTILE), "run": "1"},
    ]
    folder = tmp_path / "sweep"
    (folder / "0").mkdir(parents=True)
    write_json(folder / "0" / "result.json", results[0])
    page.write(folder / "0")
    comparison.write(folder, results)
    for width, scheme in PLACES:
        with Visit(browser, folder / "comparison.html", width, scheme) as visit:
            assert visit.trouble == []
            assert visit.requests == [(folder / "comparison.html").resolve().as_uri()]
            assert visit.marks("chart-comparison") > 1
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
            assert visit.page.locator("img").count() == 0
    with Visit(browser, folder / "comparison.html") as visit:
        visit.page.get_by_role("link").click()
        visit.page.wait_for_selector("body[data-ready]")
        assert visit.page.title().startswith("Goal met")


def test_the_vega_are_made_once_and_read_from_the_cache_after_that(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []
    monkeypatch.setattr(vega.subprocess, "run", lambda *a, **k: made.append(a) or SimpleNamespace(stdout=b"made()"))
    for _ in range(2):
        vega.vega.cache_clear()
        assert vega.vega().endswith("made()")
    vega.vega.cache_clear()
    assert len(made) == 1


def test_a_page_that_is_slow_to_make_is_made_less_often(finished, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(page.time, "monotonic", lambda: now[0])

    def slow(folder, *_):
        now[0] += 1.0
        return folder

    study, _ = finished(max_trials=1)
    writer = page.PageWriter(make=slow)
    writer.trial_finished(study, study.trials[0])
    for when, after in ((150.0, 150.0), (1.0 + 1.0 / page.MAX_TIME_SHARE, 2.0 + 1.0 / page.MAX_TIME_SHARE)):
        now[0] = when
        writer.trial_finished(study, study.trials[0])
        assert now[0] == after
