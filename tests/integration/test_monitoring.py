"""The dashboard and the alerts ask for figures that there are."""

import json
import re
from pathlib import Path

import yaml

from service.core.states import DeliveryState
from tests.architecture.repository import ROOT
from tests.builders import rows
from tests.builders.http import site

FOLDER = ROOT / "docker" / "grafana"
NAME = re.compile(r"\b(?:overread|process)_[a-z_]+\b")
# A gauge without a waiting job has no line.
ONLY_WHILE_WAITING = {"overread_queue_oldest_seconds"}


def asked() -> set[str]:
    dashboard = json.loads((FOLDER / "overread.json").read_text())
    rules = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
    expressions = [
        target["expr"] for panel in dashboard["panels"] for target in panel["targets"]
    ] + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return {name for expression in expressions for name in NAME.findall(expression)}


def test_every_figure_that_is_asked_for_is_given(tmp_path: Path) -> None:
    with site(f"sqlite:///{tmp_path / 'o.db'}", tmp_path) as here:
        study_id = here.add(rows.add_analysed_study)
        job_id = here.get("/jobs")["items"][0]["id"]
        result_id = here.add(rows.add_result, study_id=study_id, job_id=job_id, role="seg")
        here.add(
            rows.add_delivery,
            study_id=study_id,
            result_id=result_id,
            state=DeliveryState.PARKED,
            delivered_at=None,
        )
        text = here.client.get("/metrics").text
    given = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line[:1] != "#"}
    described = set(re.findall(r"^# HELP (\S+)", text, re.MULTILINE))
    assert asked() - ONLY_WHILE_WAITING <= given | described
    assert described >= ONLY_WHILE_WAITING
    assert len(asked()) > 6
