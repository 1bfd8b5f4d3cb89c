"""Scenes as a `datasets` builder: raw files in, `Dataset` or a stream of rows out.

    from usermirrorer.builders.scenes.dataset import UserMirrorerBuilder

    builder = UserMirrorerBuilder(config_name="movielens", data_dir="ml-1m/")
    builder.download_and_prepare(num_proc=2)
    scenes = builder.as_dataset(split="train")

Configurations: one for each source, one for each domain (`amazon` is four sources), and `mixed`.
`data_dir` holds the raw files (or canonical tables), in a folder named like the source where a
configuration has several. Published versions need none of this: `load_dataset` reads their Parquet.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.table import table_cast

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import (
    LABELS,
    ORIGINS,
    SCENE,
    SCENE_OPTIONS,
    SCHEMA_VERSION,
)
from usermirrorer.builders.raw.source import Source
from usermirrorer.builders.raw.sources import all_sources, domains, get_source, raw_of
from usermirrorer.builders.scenes import pipeline, presets

_CITATION = (
    "@inproceedings{wei-etal-2026-mirroring, title={Mirroring Users: Towards Building "
    "Preference-aligned User Simulator with User Feedback in Recommendation}, author={Wei, Tianjun "
    "and Guo, Huizhong and Du, Yingpeng and Sun, Zhu and Chen, Huang and Wang, Dongxia and Zhang, "
    "Jie}, booktitle={Proceedings of the 64th Annual Meeting of the Association for Computational "
    "Linguistics (Volume 1: Long Papers)}, pages={6046--6071}, year={2026}, "
    "url={https://aclanthology.org/2026.acl-long.273/}}"
)
_PART = 256  # scenes that one process turns into Arrow at a time


@dataclass
class UserMirrorerConfig(datasets.BuilderConfig):
    """What to build; see `pipeline.raw_to_scenes` and `world.SceneConfig`.

    Args:
        sources: Names of sources, each with raw files under `data_dir`.
        preset: Counts of `presets`; `train`, `test` and `interactions` replace them, for each
            source.
        history_min: Fewest interactions shown.
        history_max: Most interactions shown.
        exposure, window, later_days, history_gap, time_cut: See `SceneConfig`; None: the preset's.
        embedder: Encoder: a known part, a folder or a Hub id.
        seed: Fixes every draw.
        strict: Bad rows are an error.
        domain: YAML file of your own logs (`usermirrorer new`), instead of `sources`; without
            `data_dir`, its files lie where it says.
    """

    name: str = "default"
    description: str | None = None
    sources: tuple[str, ...] = ()
    preset: str = presets.DEFAULT
    train: int | None = None
    test: int | None = None
    interactions: int | None = None
    history_min: int = 1
    history_max: int = 20
    exposure: str | None = None
    window: int | None = None
    later_days: float | None = None
    history_gap: int | None = None
    time_cut: float | None = None
    embedder: str = "all-minilm-l6-v2"
    seed: int = 0
    strict: bool = False
    domain: str = ""

    def __post_init__(self) -> None:
        """Let a YAML file stand for its one source."""
        if self.domain:
            own = get_source(self.domain)
            self.sources, self.domain = (str(Path(self.domain).resolve()),), self.domain
            self.name = own.name if self.name == "default" else self.name
            self.description = self.description or f"Scenes of {own.title}."
        super().__post_init__()

    def create_config_id(
        self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None
    ) -> str:
        """Return what names the cache: the settings, and the state of the raw files."""
        state = [
            (path.as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(Path(config_kwargs.get("data_dir") or "").rglob("*"))
            if config_kwargs.get("data_dir") and path.is_file()
        ]
        if self.domain:  # another text is another domain
            config_kwargs = {**config_kwargs, "domain": get_source(self.domain).definition}
        known = (
            {**config_kwargs, "raw_files": storage.fingerprint(state)} if state else config_kwargs
        )
        return super().create_config_id(known, custom_features)


def _configs() -> list[UserMirrorerConfig]:
    every = {name: (name,) for name in all_sources()}
    groups = {**every, **domains(), "mixed": tuple(every)}
    return [
        UserMirrorerConfig(
            name=name,
            version=datasets.Version(f"{SCHEMA_VERSION}.0.0"),
            description=f"Scenes of {', '.join(get_source(s).title for s in members)}.",
            sources=members,
        )
        for name, members in groups.items()
    ]


def features(own: Iterable[Source] = ()) -> datasets.Features:
    """Return the columns of `schema.SCENE`, with names for all that is one of a few.

    Args:
        own: Sources beside those that are installed.
    """
    columns = datasets.Features.from_arrow_schema(SCENE.remove_metadata())
    columns["domain"] = datasets.ClassLabel(names=sorted({*domains(), *(s.domain for s in own)}))
    columns["source"] = datasets.ClassLabel(names=sorted({*all_sources(), *(s.name for s in own)}))
    columns["answer"] = datasets.ClassLabel(names=list(LABELS[:SCENE_OPTIONS]))
    columns["exposure_origin"] = datasets.List(datasets.ClassLabel(names=list(ORIGINS)))
    return columns


class UserMirrorerBuilder(datasets.ArrowBasedBuilder):
    """Builds user simulation scenes (Definition 2.1) from the raw files of their publishers.

    `num_proc` processes make the scenes; the rows are the same for any number of them.
    """

    BUILDER_CONFIG_CLASS = UserMirrorerConfig
    BUILDER_CONFIGS = _configs()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("dataset_name", "usermirrorer")
        super().__init__(*args, **kwargs)
        self._workers = 1

    def download_and_prepare(self, *args: Any, num_proc: int | None = None, **kwargs: Any) -> None:
        """Build and store the scenes, as the base class documents, in `num_proc` processes."""
        self._workers = num_proc or 1
        super().download_and_prepare(*args, num_proc=num_proc, **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        chosen = [get_source(name) for name in self.config.sources]
        return datasets.DatasetInfo(
            description=(
                "User simulation scenes: a profile, a history, the options on the screen and the "
                f"real choice. {self.config.description}"
            ),
            features=features(chosen),
            homepage="\n".join(dict.fromkeys(source.homepage for source in chosen)),
            license="\n".join(f"{source.name}: {source.licence}" for source in chosen),
            citation="\n".join([_CITATION, *dict.fromkeys(source.citation for source in chosen)]),
        )

    def _split_generators(
        self, dl_manager: datasets.DownloadManager
    ) -> list[datasets.SplitGenerator]:
        built = [self._scenes_of(name) for name in self.config.sources]
        return [
            datasets.SplitGenerator(
                name=split,
                gen_kwargs={
                    "parts": [
                        (str(folder / f"{split}.parquet"), first)
                        for folder in built
                        for first in range(0, _rows(folder / f"{split}.parquet"), _PART)
                    ]
                },
            )
            for split in ("train", "test")
        ]

    def _scenes_of(self, name: str) -> Path:
        """Build the scenes of one source, unless an earlier call did; return their folder."""
        config = self.config
        names = ("train", "test", "exposure", "window", "later_days", "history_gap", "time_cut")
        source = get_source(name)
        settings, most = presets.settings(
            config.preset,
            source.name,
            interactions=config.interactions,
            seed=config.seed,
            history=(config.history_min, config.history_max),
            **{setting: getattr(config, setting) for setting in names},
        )
        folder = Path(self.cache_dir).parent / "built" / source.name
        pipeline.raw_to_scenes(
            source,
            raw_of(source, None) if self._is_own(source) else self._raw_folder(source.name),
            folder,
            settings,
            embedder=config.embedder,
            interactions=most,
            strict=config.strict,
            workers=self._workers,
        )
        return folder

    def _is_own(self, source: Source) -> bool:
        """Whether the files of a YAML definition lie where it says."""
        return bool(source.definition) and not self.config.data_dir

    def _raw_folder(self, name: str) -> Path:
        if not self.config.data_dir:
            raise UserError(
                "the raw files are not named",
                where=f"{type(self).__name__}({self.config.name!r})",
                fix=f"Give data_dir=FOLDER. How to get them: usermirrorer sources {name}",
            )
        base = Path(self.config.data_dir)
        own = base / name
        if not own.is_dir() and len(self.config.sources) > 1 and _domain(self.config) is None:
            raise UserError("does not exist", where=own, fix="Every source has its own folder.")
        return own if own.is_dir() else base

    def _generate_tables(
        self, parts: list[tuple[str, int]]
    ) -> Iterator[tuple[tuple[int, int], pa.Table]]:
        read = functools.lru_cache(maxsize=1)(storage.read_table)  # parts of a file come in a row
        for number, (path, first) in enumerate(parts):
            rows = read(Path(path)).slice(first, _PART)
            yield (number, 0), table_cast(rows, self.info.features.arrow_schema)


def _domain(config: UserMirrorerConfig) -> str | None:
    """The one domain of all sources, whose files may lie in one folder (their names differ)."""
    names = {get_source(name).domain for name in config.sources}
    return names.pop() if len(names) == 1 else None


def _rows(path: Path) -> int:
    return pq.ParquetFile(path).metadata.num_rows
