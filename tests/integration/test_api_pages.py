"""The pages over a real database: what they show, and that received text stays text."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from service.core.states import DeliveryState, JobState, Priority, StudyState
from tests.builders import rows
from tests.builders.http import Site, many_studies, served, site, site_settings
from tests.peers.browser import Browser

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7777 * 3 }}",
    "</td></tr></table><h1>gone",
    "שלום^עולם",
    "山田^太郎",
    "javascript:alert(1)",
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("pages")
    with site(f"sqlite:///{folder / 'overread.db'}", folder) as here:
        yield here


@pytest.fixture
def here(opened: Site) -> Site:
    opened.empty()
    return opened


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page(here: Site, address: str, *, status: int = 200) -> str:
    answer = here.client.get(address)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    return answer.text


def text_of(html: str) -> str:
    return " ".join(Elements(html).text.split())


def test_an_empty_worklist_says_how_to_fill_it(here: Site) -> None:
    assert "No studies yet." in page(here, "/")
    assert "No study answers to these filters." in page(here, "/?q=nobody")


def test_a_row_tells_urgency_with_its_reason_and_what_each_model_said(here: Site) -> None:
    study_id = here.add(rows.add_analysed_study, patient_name="Doe^Jane", priority=Priority.STAT)
    here.add(rows.add_assessment, study_id=study_id, model_name="m2", task="other_task")
    text = text_of(page(here, "/"))
    for shown in ("0.93", "Nodule 14 mm, p 0.93", "DOE, Jane", "STAT", "65 y, female", "5 min"):
        assert shown in text, shown
    assert "Lung nodule detection 2 findings p 0.93" in text
    assert "not suited: other task" in text


@pytest.mark.parametrize(
    ("state", "job", "shown"),
    [
        (StudyState.QUEUED, {"state": JobState.SCHEDULED}, "Lung nodule detection waiting"),
        (StudyState.ANALYSING, {"state": JobState.IN_PROGRESS}, "Lung nodule detection running"),
        (
            StudyState.FAILED,
            {"state": JobState.FAILED, "message": "the worker stopped"},
            "Lung nodule detection failed: the worker stopped",
        ),
        (StudyState.RECEIVING, None, "no model has looked yet"),
    ],
)
def test_each_state_explains_itself(
    here: Site, state: StudyState, job: dict[str, object] | None, shown: str
) -> None:
    study_id = here.add(rows.add_study, state=state)
    series_id = here.add(rows.add_series, study_id=study_id)
    if job is not None:
        here.add(rows.add_job, study_id=study_id, series_id=series_id, **job)
    assert shown in text_of(page(here, "/"))


def test_a_study_that_was_not_analysed_says_why_in_words(here: Site) -> None:
    study_id = here.add(rows.add_study, state=StudyState.NOT_ANALYSED)
    here.add(rows.add_assessment, study_id=study_id)
    words = "not analysed: a gap of 12.5 mm after slice 84"
    assert words in text_of(page(here, "/"))
    detail = text_of(page(here, f"/studies/{here.uid(study_id)}"))
    assert "a gap of 12.5 mm after slice 84" in detail


def test_pages_lead_on_and_back_and_keep_what_was_asked(here: Site) -> None:
    here.add(many_studies, count=5, state=StudyState.FAILED)
    first = page(here, "/?limit=2&state=FAILED&sort=received_at")
    (address,) = [one["href"] for tag, one in Elements(first).found if "data-next" in one]
    assert address is not None
    assert "state=FAILED" in address
    second = page(here, address)
    uids = [
        [one["data-uid"] for tag, one in Elements(html).found if tag == "tr" and "data-uid" in one]
        for html in (first, second)
    ]
    assert len({uid for found in uids for uid in found}) == 4
    assert "First page" in second
    assert "First page" not in first


def test_what_is_wrong_in_the_address_is_named_and_left_out(here: Site) -> None:
    here.add(rows.add_study)
    html = page(here, "/?min_urgency=7&colour=red&sort=patient_id", status=422)
    text = text_of(html)
    assert "min_urgency:" in text
    assert "colour:" in text
    assert len(re.findall(r"data-uid=", html)) == 1
    assert "cursor:" in text_of(page(here, "/?cursor=made-up", status=422))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_received_text_is_shown_and_never_becomes_markup(here: Site, hostile: str) -> None:
    study_id = here.add(
        rows.add_study,
        **dict.fromkeys(
            ("patient_name", "patient_id", "accession_number", "study_description"), hostile
        ),
        referring_physician_name=hostile,
        source_ae_title=hostile[:16],
        urgency_reason=hostile,
        state=StudyState.NOT_ANALYSED,
    )
    series_id = here.add(rows.add_series, study_id=study_id, series_description=hostile)
    here.add(rows.add_assessment, study_id=study_id, message=hostile)
    here.add(rows.add_assessment, study_id=study_id, series_id=series_id, message=hostile)
    for address in ("/", f"/studies/{here.uid(study_id)}", "/?q=" + hostile.replace("&", "%26")):
        html = page(here, address)
        found = Elements(html)
        scripts = [one.get("src") for tag, one in found.found if tag == "script"]
        assert scripts[:2] == ["/static/vendor/htmx-2.0.11.min.js", "/static/overread.js"]
        assert set(scripts[2:]) <= {"/static/study.js"}
        assert not [tag for tag, one in found.found if any(name.startswith("on") for name in one)]
        assert not [one for tag, one in found.found if "style" in one]
        assert len([tag for tag, _ in found.found if tag == "h1"]) <= 1
        assert "23331" not in found.text
        links = [one.get("href") or "" for tag, one in found.found if tag == "a"]
        assert all(link.startswith("/") for link in links)


def test_a_study_shows_findings_sizes_and_where_results_went(here: Site) -> None:
    study_id = here.add(rows.add_analysed_study)
    text = text_of(page(here, f"/studies/{here.uid(study_id)}"))
    for shown in ("14.2 × 11.0 mm", "980 mm³", "present", "indeterminate", "1 below the threshold"):
        assert shown in text, shown
    for step in ("Received", "Complete", "Lung nodule detection ran", "SR to pacs", "acknowledged"):
        assert step in text, step
    assert "For research, not for clinical use" in text


def test_a_parked_delivery_shows_its_error_and_can_be_sent_again(here: Site) -> None:
    study_id = here.add(rows.add_analysed_study)
    job_id = here.get("/jobs")["items"][0]["id"]
    result_id = here.add(rows.add_result, study_id=study_id, job_id=job_id, role="seg")
    delivery_id = here.add(
        rows.add_delivery,
        study_id=study_id,
        result_id=result_id,
        state=DeliveryState.PARKED,
        delivered_at=None,
        message="the PACS answered 0xC000",
    )
    html = page(here, f"/studies/{here.uid(study_id)}")
    assert "the PACS answered 0xC000" in html
    calls = [one.get("data-call") for _, one in Elements(html).found]
    assert f"/api/v1/deliveries/{delivery_id}/retry" in calls


def test_the_queue_shows_what_failed_what_runs_and_what_was_not_delivered(here: Site) -> None:
    study_id = here.add(rows.add_study)
    series_id = here.add(rows.add_series, study_id=study_id)
    jobs = {
        state: here.add(
            rows.add_job, study_id=study_id, series_id=series_id, state=state, message=message
        )
        for state, message in (
            (JobState.FAILED, "the worker stopped"),
            (JobState.IN_PROGRESS, ""),
            (JobState.SCHEDULED, ""),
        )
    }
    result_id = here.add(rows.add_result, study_id=study_id, job_id=jobs[JobState.FAILED])
    here.add(
        rows.add_delivery,
        study_id=study_id,
        result_id=result_id,
        state=DeliveryState.PARKED,
        delivered_at=None,
        message="refused with 0xA900",
    )
    html = page(here, "/queue")
    calls = {one["data-call"] for _, one in Elements(html).found if "data-call" in one}
    assert f"/api/v1/jobs/{jobs[JobState.FAILED]}/retry" in calls
    assert f"/api/v1/jobs/{jobs[JobState.IN_PROGRESS]}/cancel" in calls
    assert f"/api/v1/jobs/{jobs[JobState.SCHEDULED]}/cancel" in calls
    assert "the worker stopped" in html
    assert "refused with 0xA900" in html


@pytest.mark.parametrize("address", ["/studies/1.2.3", "/studies/not-a-uid", "/models/none"])
def test_what_is_not_here_is_a_page_that_says_so(here: Site, address: str) -> None:
    assert "No such" in page(here, address, status=404)


def test_every_asset_a_page_names_is_served_from_here(here: Site) -> None:
    html = page(here, "/")
    for tag, one in Elements(html).found:
        for name in ("src", "href"):
            address = one.get(name)
            if tag in ("script", "link", "img") and address:
                assert here.client.get(address).status_code == 200, address


SCRIPT = """
import { withPage } from '%s';

await withPage(async (page, { url }, seen) => {
  const rows = () => page.locator('#rows tr[data-uid]').count();
  await page.goto(url);
  const found = { all: await rows() };
  await page.keyboard.press('/');
  await page.keyboard.type('findme');
  await page.waitForFunction(() => document.querySelectorAll('#rows tr[data-uid]').length === 1);
  found.address = page.url();
  await page.keyboard.press('Escape');
  await page.waitForFunction(
    (all) => document.querySelectorAll('#rows tr[data-uid]').length === all, found.all);
  await page.keyboard.press('Escape');
  await page.keyboard.press('j');
  await page.keyboard.press('j');
  await page.keyboard.press('k');
  await page.keyboard.press('Enter');
  await page.waitForSelector('#study');
  await page.locator('button.accepted').first().click();
  await page.waitForSelector('button.accepted[aria-pressed=true]');
  found.study = page.url();
  await page.keyboard.press('u');
  await page.waitForSelector('#rows');
  const order = () => page.locator('#rows tr[data-uid]').evaluateAll(
    (all) => all.map((row) => row.dataset.uid));
  const before = await order();
  const jobs = await (await page.request.get(url + '/api/v1/jobs?state=FAILED')).json();
  await page.request.post(`${url}/api/v1/jobs/${jobs.items[0].id}/retry`);
  await page.waitForSelector('#updates:not([hidden])');
  found.updates = await page.innerText('#updates span');
  found.unmoved = JSON.stringify(before) === JSON.stringify(await order());
  await page.keyboard.press('r');
  await page.waitForSelector('#updates', { state: 'hidden' });
  found.stored = await page.evaluate(() => localStorage.length + sessionStorage.length);
  found.errors = seen.errors;
  found.refused = seen.console.filter((line) => line.includes('Content Security Policy'));
  return found;
});
"""


@pytest.mark.peers
def test_a_reader_searches_opens_reviews_and_refreshes_by_keys(
    here: Site, browser: Browser, tmp_path: Path
) -> None:
    here.add(many_studies, count=4)
    top = here.add(rows.add_analysed_study, patient_name="Findme^First", urgency=0.99)
    failed = here.add(rows.add_study, state=StudyState.FAILED)
    series_id = here.add(rows.add_series, study_id=failed)
    here.add(rows.add_job, study_id=failed, series_id=series_id, state=JobState.FAILED)
    script = tmp_path / "reader.mjs"
    script.write_text(SCRIPT % (Path(__file__).parents[1] / "peers" / "browser.mjs"))
    with served(site_settings(tmp_path), here.records) as url:
        found = browser.run(script, url=url)
    assert (found["all"], found["address"]) == (6, f"{url}/?q=findme")
    assert found["study"] == f"{url}/studies/{here.uid(top)}"
    assert (found["updates"], found["unmoved"]) == ("1 study changed", True)
    assert found["stored"] == 0
    assert found["errors"] == []
    assert found["refused"] == []
