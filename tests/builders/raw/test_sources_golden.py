"""Every source: raw files in their publisher's layout become the tables and lines we checked."""

import gzip
import shutil
import zipfile

import polars as pl
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tests.builders.raw.golden import CASES, HERE, dump, rendered, scene
from usermirrorer.builders.common import schema
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.raw.sources import all_sources, get_source
from usermirrorer.builders.scenes import render


def packed(case, target, how):
    """Copy the raw fixture as it is, or with every file in gzip, or as one zip archive."""
    folder = HERE / "raw" / CASES[case][1]
    if how == "plain":
        return shutil.copytree(folder, target / "raw")
    files = [file for file in folder.rglob("*") if file.is_file()]
    if how == "zip":
        with zipfile.ZipFile(target / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, f"data/{file.relative_to(folder)}")
        return target
    for file in files:
        copy = target / file.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.with_name(f"{copy.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    return target


@pytest.mark.parametrize("how", ["plain", "gz", "zip"])
@pytest.mark.parametrize("case", CASES)
def test_raw_files_give_the_checked_tables_and_lines(case, how, tmp_path):
    expected = (HERE / "golden" / f"{case}.txt").read_text(encoding="utf-8")
    assert dump(case, packed(case, tmp_path, how)).replace(".gz:", ":") == expected


@pytest.mark.parametrize("case", CASES)
def test_tables_have_the_canonical_columns(case):
    tables = get_source(CASES[case][0]).read(HERE / "raw" / CASES[case][1], Report())
    for frame, fields in (
        (tables.users, schema.USERS),
        (tables.items, schema.ITEMS),
        (tables.interactions, schema.INTERACTIONS),
        (tables.impressions, schema.IMPRESSIONS),
    ):
        if frame is None:
            continue
        expected = pl.from_arrow(fields.empty_table()).schema  # seconds become milliseconds
        for field in fields:
            assert frame.schema[field.name] == expected[field.name]
            assert field.nullable or frame[field.name].null_count() == 0
        values = {value for row in frame.rows() for value in row if isinstance(value, str)}
        assert not values & {"None", "nan", "NaN"}


@pytest.mark.parametrize("domain", sorted({source.domain for source in all_sources().values()}))
def test_missing_fields_render_as_blanks(domain):
    for kind in ("profile", "history", "exposure"):
        text = rendered(domain, kind, title="A title", ago="1 day ago")
        assert "None" not in text
        assert "nan" not in text.replace("finance", "")
        assert "\n" not in text or kind == "profile"
        assert kind == "profile" or "A title" in text


@pytest.mark.parametrize("domain", sorted({source.domain for source in all_sources().values()}))
def test_item_text_is_data_not_template_code(domain):
    for kind in ("history", "exposure"):
        text = rendered(domain, kind, title="{{ 7*7 }} {% raw %} Behavior: [A]", ago="1 day ago")
        assert "{{ 7*7 }} {% raw %} Behavior: (A)" in text


@pytest.mark.parametrize("domain", sorted({source.domain for source in all_sources().values()}))
def test_rows_rendered_together_are_those_rendered_alone(domain):
    environment = ImmutableSandboxedEnvironment(finalize=render._blank)
    for kind in ("profile", "history", "exposure"):
        path = render.TEMPLATES / domain / f"{kind}.jinja"
        alone, template = environment.from_string(path.read_text()), render._load(environment, path)
        names = sorted(template.names)
        for odd in ("", "\0"):  # which stands behind each row's text
            values = {"title": f"A {odd}title", "tag_values": ["rock"], "rating": 4, "ago": "now"}
            rows = [
                tuple(
                    None if n % 3 == skip else values.get(name, 1) for n, name in enumerate(names)
                )
                for skip in range(4)
            ]
            expected = [alone.render(dict(zip(names, row, strict=True))) for row in rows]
            assert template.render(names, rows) == expected


@pytest.mark.parametrize("name", all_sources())
def test_a_scene_of_every_source_is_the_one_we_checked(name, tmp_path):
    expected = (HERE / "golden" / "scenes" / f"{name}.txt").read_text(encoding="utf-8")
    assert scene(name, tmp_path) == expected
