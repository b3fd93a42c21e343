"""The table of names in docs/kernels.md says what the engines and the kernel serve."""

import os

import pytest
from names import reasons, survey, table
from names.survey import CATALOGUE, Survey


@pytest.mark.parametrize("label", ["openssl", *table.KERNELS])
def test_the_surveys_know_the_catalogue(label: str) -> None:
    kept = Survey.load(label)
    assert kept.label == label
    assert set(kept.names) <= {f"{type_} {name}" for type_, name in CATALOGUE}
    assert len(kept.names) == len(set(kept.names)) > 50


def test_the_openssl_column() -> None:
    assert survey.survey_openssl() == Survey.load("openssl"), "run scripts/names"


@pytest.mark.af_alg
def test_the_column_of_this_kernel() -> None:
    found = survey.survey_kernel()
    if found.label not in table.KERNELS:
        pytest.skip(f"the table has no column for Linux {os.uname().release}")
    kept = Survey.load(found.label)
    assert found.names == kept.names, "run scripts/names"
    # what other tests have asked the kernel for is registered as well
    assert set(kept.beyond) <= set(found.beyond), "run scripts/names"


def test_the_document() -> None:
    assert table.section() == table.render(), "run scripts/names"


def test_reasons_are_for_what_is_not_served() -> None:
    served = {each.split()[1] for each in Survey.load("openssl").names}
    missing = {name for _, name in CATALOGUE} - served
    assert missing == set(reasons.NO_LIBRARY)
    groups = {survey.template(each.split()[1]) for label in table.KERNELS for each in Survey.load(label).beyond}
    assert groups <= set(reasons.BEYOND)
    assert all(reasons.NO_LIBRARY.values())
