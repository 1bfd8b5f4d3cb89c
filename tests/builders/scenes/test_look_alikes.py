"""Two options that people cannot tell apart never stand in one exposure."""

import pyarrow.parquet as pq
import pytest
import tiny_parts
from click.testing import CliRunner

from usermirrorer.builders import commands

#: Of each two films one is called as the other is but for what nobody sees, or sees as the same.
TWINS = {
    "a joiner": "Fil&#8204;m {}",
    "a filler": "Film&#12644; {}",
    "a Cyrillic letter": "F&#1110;lm {}",
    "letter case": "FILM {}",
}


@pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)
def test_no_scene_shows_two_options_that_look_alike(twin, tiny_encoder, tmp_path):
    raw = tiny_parts.movielens(tmp_path / "raw", users=40, items=60)
    films = (raw / "u.item").read_text(encoding="latin-1").splitlines()
    for index, line in enumerate(films):
        cells = line.split("|")
        cells[1] = (twin if index % 2 else "Film {}").format(f"{chr(97 + index // 2)}x")
        films[index] = "|".join(cells)
    (raw / "u.item").write_text("\n".join(films) + "\n", encoding="latin-1")
    words = ["movielens", str(raw), "--out", str(tmp_path / "out"), "--preset", "tiny"]
    made = CliRunner().invoke(
        commands.scenes, [*words, "--embedder", str(tiny_encoder)], catch_exceptions=False
    )
    assert made.exit_code == 0, made.output
    exposures = [
        row
        for split in ("train", "test")
        for row in pq.read_table(tmp_path / "out" / f"{split}.parquet")["exposure"].to_pylist()
    ]
    assert len(exposures) > 50
    for row in exposures:
        titles = (option.partition(" - ")[0] for option in row)
        seen = {title.lower().replace("і", "i").replace("  ", " ") for title in titles}
        assert len(seen) == len(row), row
